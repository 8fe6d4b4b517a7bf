"""Spans are written whole, and the law is that of generation span by span."""

import pytest
import torch

from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.span_kernel import FixedSpans, SpanKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival
from isocline.samplers.discrete import AncestralSampler
from isocline.samplers.span import SpanSampler


def setup(length, schedule=None):
    truth = EnumeratedLaw.random(3, 3, 1.0, torch.Generator().manual_seed(0))
    kernel = SpanKernel(4, schedule or LinearSurvival(), FixedSpans(length))
    return truth, kernel, EnumeratedDenoiser(truth, kernel)


def chi_squared(found, expected, draws):
    """Standardised: about N(0, 1) for the right law."""
    cells = expected > 0
    statistic = draws * ((found - expected)[cells] ** 2 / expected[cells]).sum()
    degrees = int(cells.sum()) - 1
    return (statistic - degrees) / (2 * degrees) ** 0.5


def span_law(truth):
    """The law of one whole-sequence span: its tokens are drawn independently from their marginals."""
    marginals = [truth.probs.reshape([3] * 3).sum([j for j in range(3) if j != i]) for i in range(3)]
    return torch.einsum("i,j,k->ijk", *marginals).flatten()


def test_spans_of_one_token_and_many_steps_reproduce_the_law():
    truth, kernel, network = setup(1)
    final = SpanSampler().sample(network, kernel, (8000, 3), 200, torch.Generator().manual_seed(1)).final
    assert chi_squared(truth.frequencies(final), truth.probs, 8000) < 4


def test_a_span_as_long_as_the_sequence_draws_its_tokens_independently():
    truth, kernel, network = setup(3, CosineSurvival())
    kernel.spans.starts = lambda shape, generator, device: torch.zeros(shape, dtype=torch.bool)
    solution = SpanSampler().sample(network, kernel, (8000, 3), 50, torch.Generator().manual_seed(2))
    found = truth.frequencies(solution.final)
    assert chi_squared(found, span_law(truth), 8000) < 4
    assert chi_squared(found, truth.probs, 8000) > 10
    assert (solution.stats.nfe == 1).all()


def test_positions_of_one_span_turn_at_the_same_step_and_prompts_stay():
    _, kernel, network = setup(2)
    prompt = (torch.tensor([2, 0, 0]), torch.tensor([True, False, False]))
    generator = torch.Generator().manual_seed(3)
    solution = SpanSampler().sample(network, kernel, (400, 3), 30, generator, prompt, save_steps=True)
    written = (solution.ys != kernel.mask).double().argmax(0)
    assert (solution.final[:, 0] == 2).all()
    assert (solution.final != kernel.mask).all()
    # Pairs are (0 1)(2) or (0)(1 2): about half of the sequences write 1 and 2 together.
    together = (written[:, 1] == written[:, 2]).double().mean()
    assert 0.45 < together < 0.65


def test_a_model_of_spans_is_sampled_by_position_too():
    truth, kernel, network = setup(2)
    final = AncestralSampler().sample(network, kernel, (8000, 3), 200, torch.Generator().manual_seed(4)).final
    assert chi_squared(truth.frequencies(final), truth.probs, 8000) < 4


def test_a_kernel_without_spans_is_refused():
    with pytest.raises(TypeError, match="needs SpanKernel"):
        SpanSampler().stepper(AbsorbingKernel(4, LinearSurvival()))
