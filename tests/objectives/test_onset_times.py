"""Times for bounds on tokens: the mean is that of uniform times, and the mean square is finite."""

import numpy as np
import pytest
import torch
from tests.objectives.enumerated_bound import pairs, small_law

from isocline.objectives.discrete_flow import DiscreteFlowMatching
from isocline.objectives.gidd import InterpolatingDiffusion
from isocline.objectives.onset_times import onset_times
from isocline.objectives.reverse_rate_bound import reverse_rates
from isocline.objectives.tokenwise_masked import TokenwiseMaskedDiffusion
from isocline.processes.enumerated import EnumeratedDenoiser
from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, UniformKernel
from isocline.processes.learned_schedule import MonotoneSurvival, PolynomialTokenSurvival
from isocline.processes.token_schedule import CosineSurvival, GeometricSurvival, LinearSurvival, PolynomialSurvival
from isocline.processes.tokenwise_kernel import TokenwiseAbsorbingKernel

TRUTH = small_law()


def plain(u):
    return u, torch.ones_like(u)


def tokenwise(exponents):
    schedule = PolynomialTokenSurvival(4)
    schedule.log_exponents.data = torch.tensor(exponents).log()
    return TokenwiseAbsorbingKernel(4, schedule)


def rates(kernel):
    objective = InterpolatingDiffusion(kernel)
    return objective.bound_times, lambda network, x, z, t: objective.divergence(
        reverse_rates(kernel, network(t, z), x, z, t)
    ).sum(-1)


def flow(kernel):
    objective = DiscreteFlowMatching(kernel, decision_time=0.0)
    value = lambda network, x, z, t: objective.rate_divergence(network(t, z), x, z, t)  # noqa: E731
    return lambda u: onset_times(u, kernel.schedule.onset), value


def masks(kernel):
    objective = TokenwiseMaskedDiffusion(kernel)
    return objective.bound_times, objective.divergence


CASES = {
    "hybrid": (rates, HybridKernel(4, 0.2, 1.0)),
    "hybrid, slow": (rates, HybridKernel(4, 0.2, 0.6)),
    "hybrid, fast": (rates, HybridKernel(4, 0.2, 2.0)),
    "uniform": (rates, UniformKernel(4, LinearSurvival())),
    "masks that come early": (rates, AbsorbingKernel(4, PolynomialSurvival(0.5))),
    "flow of masks": (flow, AbsorbingKernel(4, LinearSurvival())),
    "flow of uniform noise": (flow, UniformKernel(4, CosineSurvival())),
    "schedules per token": (masks, tokenwise([1.0, 1.0, 1.0, 1.0])),
    "unequal schedules": (masks, tokenwise([0.6, 1.5, 2.0, 0.1])),
}


def moment(kernel, value, times, power, low, nodes=60):
    """∫ E (weight value)^power du from ``low`` to 1, by Gauss-Legendre in ln u; the exact denoiser's."""
    network, total = EnumeratedDenoiser(TRUTH, kernel), 0.0
    roots, weights = np.polynomial.legendre.leggauss(nodes)
    span = -np.log(low)
    for root, mass in zip(roots, weights, strict=True):
        u = torch.tensor([np.exp(-span * (1 - root) / 2)])
        t, weight = (part.clamp(max=1 - 1e-12) if place == 0 else part for place, part in enumerate(times(u)))
        here = pairs(TRUTH, kernel, t[0])
        found = value(network, here.x, here.z, t.expand(len(here.x)))
        total += mass * span / 2 * float(u) * float((here.weight * (weight * found) ** power).sum())
    return total


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@torch.no_grad()
def test_the_mean_square_is_finite_and_the_mean_that_of_uniform_times(case):
    kind, kernel = case
    times, value = kind(kernel)
    parts = [moment(kernel, value, times, 2, low) for low in (1e-2, 1e-4, 1e-6)]
    # Of one size everywhere, up to the square of a logarithm: two more decades hold a hundredth, and a little.
    assert parts[2] - parts[1] < 0.1 * (parts[1] - parts[0]) + 1e-9
    assert parts[1] - parts[0] < 0.25 * parts[1]
    wanted = moment(kernel, value, plain, 1, 1e-16, nodes=120)
    assert abs(moment(kernel, value, times, 1, 1e-6, nodes=120) - wanted) < 2e-3 * wanted


# Under unequal schedules the exact denoiser knows ever better what is behind an early mask.
@pytest.mark.parametrize("name", [name for name in CASES if name != "unequal schedules"])
@torch.no_grad()
def test_under_uniform_times_the_mean_square_grows_without_end(name):
    kind, kernel = CASES[name]
    _, value = kind(kernel)
    parts = [moment(kernel, value, plain, 2, low) for low in (1e-2, 1e-4, 1e-6)]
    assert parts[2] - parts[1] > 0.9 * (parts[1] - parts[0]) > 0


@torch.no_grad()
def test_the_square_of_a_uniform_draw_is_not_enough_for_a_hybrid_kernel():
    kernel = HybridKernel(4, 0.2, 1.0)
    _, value = rates(kernel)
    square = lambda u: (u.square(), 2 * u)  # noqa: E731
    parts = [moment(kernel, value, square, 2, low) for low in (1e-2, 1e-4, 1e-6)]
    assert parts[2] - parts[1] > 0.9 * (parts[1] - parts[0]) > 0


@pytest.mark.parametrize(
    ("schedule", "onset"),
    [
        (LinearSurvival(), 1.0),
        (CosineSurvival(), 1.0),
        (GeometricSurvival(1e-2, 20.0), 1.0),
        (PolynomialSurvival(0.4), 0.4),
        (PolynomialSurvival(3.0), 3.0),
        (MonotoneSurvival(4), 1.0),
        (HybridKernel(4, 0.2, 1.0).schedule, 0.5),
        (HybridKernel(4, 0.2, 2.0).schedule, 1.0),
        (HybridKernel(4, 0.0).schedule, 1.0),
    ],
    ids=lambda value: type(value).__name__,
)
@torch.no_grad()
def test_the_onset_is_the_exponent_of_the_first_noise(schedule, onset):
    low, high = 1.0 - schedule.a(
        torch.tensor([1e-5, 1e-3]).double() if onset > 1 else torch.tensor([1e-9, 1e-7]).double()
    )
    assert schedule.onset == onset
    assert float((high / low).log() / np.log(100.0)) == pytest.approx(onset, abs=2e-3)


def test_the_onset_of_schedules_per_token_is_that_of_the_first_real_token_to_go():
    assert tokenwise([0.6, 1.5, 2.0, 0.1]).schedule.onset == pytest.approx(0.6)


def test_draws_are_spread_over_the_span_and_their_weights_are_the_slope():
    u = torch.linspace(0, 1, 1001).double()
    for onset, start in ((0.5, 0.0), (1.0, 0.1), (3.0, 0.2)):
        t, weight = onset_times(u, onset, start)
        assert (t[0], t[-1]) == (start, 1.0)
        torch.testing.assert_close(torch.trapezoid(weight, u), torch.tensor(1.0 - start).double(), rtol=1e-4, atol=0)
        torch.testing.assert_close(t.diff() * 1000, (weight[1:] + weight[:-1]) / 2, rtol=1e-3, atol=1e-5)
