"""The masked bound with the exact denoiser of a known law is the law's entropy."""

import pytest
import torch

from isocline.datasets.batch import Batch
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.masked import MaskedDiffusion, mask_exactly
from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival


def setup(schedule=None):
    truth = EnumeratedLaw.random(3, 3, 2.0, torch.Generator().manual_seed(0))
    kernel = AbsorbingKernel(4, schedule or LinearSurvival())
    return truth, kernel, EnumeratedDenoiser(truth, kernel), MaskedDiffusion(kernel)


def standard_error(values):
    return values.std() / len(values) ** 0.5


def test_the_fixed_count_bound_of_the_exact_denoiser_is_the_entropy():
    truth, _, network, objective = setup()
    stream = torch.Generator().manual_seed(1)
    tokens = truth.sample(6000, stream)
    nats = objective.negative_log_likelihood(network, tokens, stream, strata=3).nats
    # The draw of the sequences is common to bound and likelihood: compare the difference.
    excess = nats - truth.nats(tokens)
    assert excess.mean().abs() < 4 * standard_error(excess)
    assert 4 * standard_error(excess) < 0.1


@pytest.mark.parametrize("schedule", [LinearSurvival(), CosineSurvival()], ids=["linear", "cosine"])
def test_the_training_loss_is_the_same_number_for_every_schedule(schedule):
    """The integral over t does not depend on the schedule and equals the fixed-count form."""
    truth, _, network, objective = setup(schedule)
    stream = torch.Generator().manual_seed(2)
    losses = torch.stack([objective(network, Batch(truth.sample(500, stream)), stream).total for _ in range(60)])
    expected = truth.entropy / 3
    assert (losses.mean() - expected).abs() < 4 * standard_error(losses)
    assert 4 * standard_error(losses) < 0.1 * expected


def test_the_integral_over_time_and_the_fixed_count_form_agree_for_any_network():
    """Exact for both: enumerate all masks of all sequences with a network that is far from the truth."""
    truth, kernel, _, objective = setup()
    torch.manual_seed(0)
    network = TokenTransformer(4, 3, 16, 1, 2, time_conditioned=False)
    torch.nn.init.normal_(network.bias)
    masks = torch.tensor([[(m >> i) & 1 for i in range(3)] for m in range(8)]).bool()
    nodes, weights = torch.linspace(0, 1, 4001, dtype=torch.float64), None
    middle, weights = (nodes[1:] + nodes[:-1]) / 2, nodes.diff()
    integral, counts = 0.0, 0.0
    for mask in masks[1:]:
        z = truth.sequences.masked_fill(mask, 3)
        with torch.no_grad():
            cost = objective.cross_entropy(network, truth.sequences, z, torch.zeros(())).double()
        n = int(mask.sum())
        a = kernel.schedule.a(middle)
        share = (kernel.schedule.hazard(middle) * (1 - a) ** n * a ** (3 - n) * weights).sum()
        integral = integral + share * cost
        subsets = {1: 3, 2: 3, 3: 1}[n]
        counts = counts + cost * (3 / n) / (3 * subsets)
    torch.testing.assert_close(integral, counts, rtol=1e-6, atol=0)
    stream = torch.Generator().manual_seed(3)
    tokens = truth.sequences.repeat(300, 1)
    found = objective.negative_log_likelihood(network, tokens, stream, strata=3).nats
    error = found - counts.repeat(300)
    assert error.mean().abs() < 4 * standard_error(error)


def test_exactly_the_asked_number_of_positions_is_masked_and_every_subset_is_as_likely():
    tokens = torch.zeros(30_000, 4, dtype=torch.int64)
    count = torch.full((30_000,), 2)
    masked = mask_exactly(tokens, count, 9, torch.Generator().manual_seed(0)) == 9
    assert (masked.sum(-1) == 2).all()
    code = (masked * torch.tensor([1, 2, 4, 8])).sum(-1)
    share = torch.bincount(code, minlength=16)[[3, 5, 6, 9, 10, 12]].double() / 30_000
    assert (share - 1 / 6).abs().max() < 5 * (5 / 36 / 30_000) ** 0.5


def test_strata_visit_every_count_equally_often():
    truth, _, _, objective = setup()
    seen = []

    def network(t, z, cond=None):
        seen.append((z == 3).sum(-1))
        return torch.zeros(*z.shape, 4)

    objective.negative_log_likelihood(network, truth.sequences, torch.Generator().manual_seed(0), strata=6)
    assert torch.stack(seen).float().mean(1).tolist() == [1, 1, 2, 2, 3, 3]


def test_a_loss_is_finite_where_nothing_is_masked_and_repeats_with_its_generator():
    _, kernel, network, _ = setup()
    objective = MaskedDiffusion(kernel, times=lambda count, process, generator: torch.zeros(count, dtype=torch.float64))
    batch = Batch(torch.zeros(4, 3, dtype=torch.int64))
    assert objective(network, batch, torch.Generator()).total == 0
    objective = MaskedDiffusion(kernel)
    first, second = (objective(network, batch, torch.Generator().manual_seed(5)).total for _ in range(2))
    assert first == second


def test_gradients_reach_the_network_and_are_finite():
    _, _, _, objective = setup()
    network = TokenTransformer(4, 3, 16, 1, 2)
    tokens = torch.randint(3, (16, 3))
    objective(network, Batch(tokens), torch.Generator().manual_seed(0)).total.backward()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(g.isfinite().all() for g in grads)
    assert max(g.abs().max() for g in grads) > 0


def test_a_kernel_without_a_mask_is_refused():
    with pytest.raises(TypeError, match="UniformKernel"):
        MaskedDiffusion(UniformKernel(4, LinearSurvival()))


def test_no_strata_are_refused():
    truth, _, network, objective = setup()
    with pytest.raises(ValueError, match="strata = 0"):
        objective.negative_log_likelihood(network, truth.sequences, torch.Generator(), strata=0)
