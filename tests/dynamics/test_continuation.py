"""Branches of fixed points over time and their bifurcations."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.dynamics.bifurcations import trace_branches
from isocline.dynamics.branch import BranchEnd, EventKind, branch_rows
from isocline.dynamics.classify import Kind
from isocline.dynamics.continuation import BranchFollower, follow_times
from isocline.dynamics.fixed_points import find_fixed_points
from isocline.dynamics.newton_krylov import NewtonKrylov
from isocline.dynamics.root_finder import RootStatus
from isocline.dynamics.system import AbstractSystem, Flow, IteratedMap
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.mixture import GaussianMixture
from isocline.processes.prediction import DataPrediction
from isocline.processes.schedule import VESchedule

D = torch.float64
LOW, HIGH = 0.2, 3.0


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=D)


def scalar_flow(law) -> Flow:
    return Flow(lambda t, x, cond: law(t.reshape(-1, 1), x), 0.0)


def two_modes(weights: list[float], variance: float = 0.04) -> tuple[IteratedMap, torch.Tensor]:
    """The denoiser of two modes at ±(0.8, 0.6), noise rising from LOW at t = 0 to HIGH at t = 1."""
    means = torch.tensor([[-0.8, -0.6], [0.8, 0.6]], dtype=D)
    mixture = GaussianMixture(torch.tensor(weights), means, torch.full((2, 2), variance))
    process = GaussianProcess(VESchedule(LOW, HIGH), DataPrediction())
    return IteratedMap(Denoiser(mixture.network(process), process).data, 0.0), means


def noise_at(t: float) -> float:
    return LOW * (HIGH / LOW) ** t


def test_the_denoiser_of_two_equal_modes_splits_at_the_noise_of_the_closed_form() -> None:
    """With modes ±m, D = (v x + σ² m tanh(m·x/(v + σ²)))/(v + σ²), of which D'(0) m = m where σ² = m² - v."""
    system, means = two_modes([1.0, 1.0])
    branches = trace_branches(system, row(0.01, 0.02), 1.0, 0.0, draw())
    trunk, *arms = branches
    assert [branch.end for branch in branches] == [BranchEnd.REACHED] * 3
    (event,) = trunk.events
    assert event.kind == EventKind.BRANCH_POINT
    assert event.side == 0
    assert noise_at(event.t) == pytest.approx(math.sqrt(1 - 0.04), rel=1e-5)
    torch.testing.assert_close(event.point, torch.zeros(2, dtype=D), rtol=0, atol=1e-7)
    assert float(trunk.points.abs().max()) < 1e-6
    assert trunk.rising.tolist() == sorted(trunk.rising.tolist())
    assert (trunk.kinds[0], trunk.kinds[-1]) == (Kind.STABLE_NODE, Kind.SADDLE)
    assert [arm.parent for arm in arms] == [0, 0]
    assert all(kind == Kind.STABLE_NODE for arm in arms for kind in arm.kinds)
    ends = torch.stack([arm.points[-1] for arm in arms])
    torch.testing.assert_close(ends[ends[:, 0].argsort()], means, rtol=0, atol=1e-6)
    for arm in arms:
        u, sigma2 = arm.points @ means[1], LOW**2 * (HIGH / LOW) ** (2 * arm.times)
        torch.testing.assert_close(
            u, (0.04 * u + sigma2 * (u / (0.04 + sigma2)).tanh()) / (0.04 + sigma2), atol=1e-8, rtol=0
        )


def test_from_below_a_mode_goes_over_the_pitchfork_to_the_other_one() -> None:
    """All three fixed points at small noise are joined; none is followed twice."""
    system, means = two_modes([1.0, 1.0])
    starts = torch.cat([means, torch.zeros(1, 2, dtype=D)])
    branches = trace_branches(system, starts, 0.0, 1.0, draw())
    assert len(branches) == 3
    arch = branches[0]
    assert arch.end == BranchEnd.RETURNED
    torch.testing.assert_close(arch.points[-1], means[1], rtol=0, atol=1e-6)
    (event,) = arch.events
    assert (event.kind, event.side) == (EventKind.BRANCH_POINT, -1)
    assert noise_at(event.t) == pytest.approx(math.sqrt(0.96), rel=1e-4)
    assert {branch.end for branch in branches[1:]} == {BranchEnd.REACHED, BranchEnd.RETURNED}
    assert {round(float(branch.times[-1])) for branch in branches[1:]} == {0, 1}


def test_unequal_modes_are_born_in_a_fold_apart_from_the_main_branch() -> None:
    """From above only the heavy mode is reached, without an event; from below the light one and its saddle join."""
    system, means = two_modes([0.7, 0.3])
    (main,) = trace_branches(system, row(0.0, 0.0), 1.0, 0.0, draw())
    assert main.events == ()
    torch.testing.assert_close(main.points[-1], means[0], rtol=0, atol=1e-4)
    light, *others = trace_branches(system, means[1:], 0.0, 1.0, draw())
    assert others == []
    assert light.end == BranchEnd.RETURNED
    (event,) = light.events
    assert (event.kind, event.side) == (EventKind.FOLD, -1)
    at = int(light.times.argmax())
    assert noise_at(event.t) < math.sqrt(0.96)
    assert event.t == pytest.approx(float(light.times.max()), abs=1e-3)
    assert light.rising[: at - 1].tolist() == [0] * (at - 1)
    assert light.rising[at + 2 :].tolist() == [1] * (len(light.rising) - at - 2)
    found = find_fixed_points(system.at_time(event.t + 0.01), 2 * torch.randn(30, 2, generator=draw(), dtype=D), draw())
    assert len(found.points) == 1
    found = find_fixed_points(system.at_time(event.t - 0.01), 2 * torch.randn(30, 2, generator=draw(), dtype=D), draw())
    assert len(found.points) == 3


def test_a_fold_is_passed_and_located() -> None:
    """x² = t: both roots are on one curve that turns at 0."""
    (branch,) = trace_branches(scalar_flow(lambda t, x: t - x**2), row(1.0), 1.0, -1.0, draw())
    assert branch.end == BranchEnd.RETURNED
    assert float(branch.points[-1]) == pytest.approx(-1.0)
    (event,) = branch.events
    assert (event.kind, event.side) == (EventKind.FOLD, 1)
    assert event.t == pytest.approx(0.0, abs=1e-6)
    torch.testing.assert_close(branch.points[:, 0] ** 2, branch.times, rtol=0, atol=1e-8)
    torch.testing.assert_close(branch.leading, -2 * branch.points[:, 0])


def test_an_exchange_of_stability_has_two_branches() -> None:
    """x (t - x): 0 and t cross at t = 0."""
    branches = trace_branches(scalar_flow(lambda t, x: x * (t - x)), row(0.0), -1.0, 1.0, draw())
    assert len(branches) == 3
    assert branches[0].events[0].kind == EventKind.BRANCH_POINT
    assert branches[0].events[0].t == pytest.approx(0.0, abs=1e-6)
    for branch in branches[1:]:
        torch.testing.assert_close(branch.points[:, 0], branch.times, rtol=0, atol=1e-7)


def turning(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return t * x + torch.stack([-x[:, 1], x[:, 0]], 1) - x * x.square().sum(1, keepdim=True)


def whirl(t: torch.Tensor, x: torch.Tensor, cond: object) -> torch.Tensor:
    turned = torch.stack([-x[:, 1], x[:, 0]], 1)
    return t.reshape(-1, 1) * (0.6 * x + 0.8 * turned) - x**3


def logistic(t: torch.Tensor, x: torch.Tensor, cond: object) -> torch.Tensor:
    return t.reshape(-1, 1) * x * (1 - x)


@pytest.mark.parametrize(
    ("system", "start", "span", "kind", "where"),
    [
        (scalar_flow(turning), row(0.0, 0.0), (-1.0, 1.0), EventKind.OSCILLATION, 0.0),
        (
            IteratedMap(
                lambda t, x, cond: t.reshape(-1, 1) * (0.6 * x + 0.8 * torch.stack([-x[:, 1], x[:, 0]], 1)) - x**3, 0.0
            ),
            row(0.0, 0.0),
            (0.5, 1.5),
            EventKind.OSCILLATION,
            1.0,
        ),
        (IteratedMap(whirl, 0.0), row(0.0, 0.0), (0.5, 1.5), EventKind.OSCILLATION, 1.0),
        (IteratedMap(logistic, 0.0), row(0.6), (2.5, 3.5), EventKind.PERIOD_DOUBLING, 3.0),
    ],
)
def test_modes_that_begin_to_oscillate_are_named(system, start, span, kind: EventKind, where: float) -> None:
    """Hopf at Re λ = 0; Neimark and Sacker at |λ| = 1; the logistic map's first doubling at r = 3."""
    (branch,) = trace_branches(system, start, *span, draw())
    (event,) = branch.events
    assert event.kind == kind
    assert event.t == pytest.approx(where, abs=1e-4)


@pytest.mark.slow
def test_bratus_problem_turns_at_its_critical_parameter() -> None:
    """u'' + λ e^u = 0 on [0, 1] has no solution beyond λ = 3.513830719; 15 inner points leave an error of O(h²)."""
    n = 15

    def bratu(t: torch.Tensor, x: torch.Tensor, cond: object) -> torch.Tensor:
        zero = torch.zeros_like(x[:, :1])
        padded = torch.cat([zero, x, zero], 1)
        return (padded[:, 2:] - 2 * x + padded[:, :-2]) * (n + 1) ** 2 + t.reshape(-1, 1) * x.exp()

    finder = NewtonKrylov(krylov=n + 1, tolerance=1e-8, iterations=8, forcing=1e-3)
    follower = BranchFollower(step=0.05, step_max=0.2, most_steps=25, finder=finder)
    (branch,) = trace_branches(Flow(bratu, 0.0), torch.zeros(1, n, dtype=D), 0.0, 4.0, draw(), follower=follower)
    event = branch.events[0]
    assert (event.kind, event.side) == (EventKind.FOLD, -1)
    assert event.t == pytest.approx(3.513830719, abs=0.01)


def test_large_states_use_the_spectrum_in_place_of_the_determinant() -> None:
    """n = 80: one coordinate has the pitchfork t x - x³, the others decay."""
    rates = torch.linspace(-2, -1, 80, dtype=D)

    def law(t: torch.Tensor, x: torch.Tensor, cond: object) -> torch.Tensor:
        first = torch.zeros(80, dtype=D)
        first[0] = 1.0
        return torch.where(first > 0, t.reshape(-1, 1) * x - x**3, rates * x)

    follower = BranchFollower(state_scale=0.1, step_max=0.1, step=0.05, spectrum=20)
    branches = trace_branches(Flow(law, 0.0), torch.zeros(1, 80, dtype=D), -0.5, 0.5, draw(), follower=follower)
    assert len(branches) == 3
    assert branches[0].events[0].t == pytest.approx(0.0, abs=1e-4)
    assert sorted(float(b.points[-1, 0]) for b in branches[1:]) == pytest.approx([-(0.5**0.5), 0.5**0.5], abs=1e-6)


def test_natural_continuation_follows_all_points_at_once_and_says_which_are_lost() -> None:
    system, means = two_modes([0.7, 0.3])
    roots = follow_times(system, means, torch.linspace(0, 1, 15).tolist())
    assert roots[0].converged.all()
    assert roots[-1].converged[0]
    lost = [int(r.status[1]) for r in roots]
    main = trace_branches(system, means[1:], 0.0, 1.0, draw())[0].events[0].t
    kept = [r for r, t in zip(roots, torch.linspace(0, 1, 15).tolist(), strict=True) if t < main]
    assert all(bool(r.converged[1]) and float(r.points[1, 0]) > 0 for r in kept)
    assert RootStatus.CONVERGED in lost


def test_branches_become_rows_of_a_table() -> None:
    branches = trace_branches(scalar_flow(lambda t, x: t - x**2), row(1.0), 1.0, -1.0, draw())
    rows = branch_rows(branches)
    assert len(rows) == len(branches[0].times)
    assert (rows[0].branch, rows[0].parent, rows[0].t, rows[0].rising, rows[0].kind) == (0, -1, 1.0, 0, "stable node")
    assert rows[-1].kind == "unstable node"
    assert rows[0].leading == pytest.approx(-2.0)


def test_a_start_that_is_no_fixed_point_has_no_branch() -> None:
    assert trace_branches(scalar_flow(lambda t, x: 1 + x**2), row(1.0), 0.0, 1.0, draw()) == ()


def test_a_branch_that_cannot_be_followed_says_so() -> None:
    """The only fixed point of x - 1/(1 - t) runs off to infinity."""
    system: AbstractSystem = scalar_flow(lambda t, x: x * (1 - t) - 1)
    (branch,) = trace_branches(system, row(1.0), 0.0, 2.0, draw(), follower=BranchFollower(most_steps=60))
    assert branch.end in (BranchEnd.MAX_STEPS, BranchEnd.STUCK)
    assert float(branch.times.max()) < 1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: BranchFollower(step=0.1, step_max=0.05), "step_max"),
        (lambda: BranchFollower(turn=1.0), "turn"),
        (lambda: trace_branches(scalar_flow(lambda t, x: x), row(0.0), 1.0, 1.0, draw()), "two times"),
        (lambda: trace_branches(scalar_flow(lambda t, x: x), torch.zeros(3, dtype=D), 0.0, 1.0, draw()), "shape"),
        (lambda: follow_times(scalar_flow(lambda t, x: x), row(0.0), []), "times"),
    ],
)
def test_bad_input_is_named(call, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()
