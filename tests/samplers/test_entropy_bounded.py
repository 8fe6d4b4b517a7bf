"""Entropy-bounded unmasking reveals what its budget pays for."""

import pytest
import torch
from tests.samplers.enumerated_cases import chi_squared_p_value, generate

from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.samplers.entropy_bounded import EntropyBoundedSampler, affordable_prefix
from isocline.samplers.order import RandomOrder

KERNEL = AbsorbingKernel(4, LinearSurvival())


def test_the_prefix_is_the_largest_whose_entropies_but_the_greatest_fit_the_budget():
    entropies = torch.tensor([[0.5, 0.1, 0.3, 9.0]], dtype=torch.float64)
    masked = torch.tensor([[True, True, True, False]])
    for budget, expected in ((0.0, 1), (0.09, 1), (0.1, 2), (0.39, 2), (0.4, 3), (50.0, 3)):
        assert affordable_prefix(entropies, -entropies, masked, budget).tolist() == [expected]
    # In another order the greatest entropy of the prefix is the free one: 0.5; 0.5, 0.3; 0.5, 0.3, 0.1.
    for budget, expected in ((0.0, 1), (0.3, 2), (0.4, 3)):
        assert affordable_prefix(entropies, entropies, masked, budget).tolist() == [expected]


def test_certain_tokens_cost_nothing():
    laws = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0.5, 0.5, 0, 0]])
    network = lambda t, z, cond=None: laws.log().expand(len(z), -1, -1)  # noqa: E731
    solution = EntropyBoundedSampler(0.0).sample(network, KERNEL, (20, 3), 3, torch.Generator())
    assert solution.stats.nfe.unique().tolist() == [1]
    assert (solution.final[:, :2] == torch.tensor([0, 1])).all()


def test_a_larger_budget_spends_fewer_evaluations():
    spent = [generate(EntropyBoundedSampler(g), KERNEL, 500, 3)[1].stats.nfe.double().mean() for g in (0.0, 0.5, 9.0)]
    assert spent[0] > spent[1] > spent[2] == 1


def test_a_budget_too_small_for_the_evaluations_reveals_even_shares():
    _, solution = generate(EntropyBoundedSampler(0.0), KERNEL, 50, 2, save_steps=True)
    assert (solution.ys == 3).sum(-1).amax(1).tolist() == [3, 1, 0]


def test_one_position_per_evaluation_in_a_random_order_is_exact():
    truth, solution = generate(EntropyBoundedSampler(0.0, RandomOrder()), KERNEL, 20_000, 3)
    assert chi_squared_p_value(truth.probs, truth.frequencies(solution.final), 20_000) > 0.01


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="budget = -1"):
        EntropyBoundedSampler(-1.0)
