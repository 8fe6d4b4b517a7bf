"""Costs read off at equal error: between settings in logarithms, never beyond them, sample by sample."""

import math

import pytest
import torch

from isocline import solvers
from isocline.dynamics.cost_curve import CostCurve, SolverCandidate
from isocline.solvers.stage_solvers import FixedPoint


def curve(errors, work=(10.0, 20.0, 40.0)):
    errors = torch.tensor(errors, dtype=torch.float64)
    if errors.ndim == 1:
        errors = errors[:, None]
    work = torch.tensor(work, dtype=torch.float64)[:, None].expand_as(errors)
    zero = torch.zeros_like(work)
    candidate = SolverCandidate("tsit5", solvers.Tsit5())
    return CostCurve(candidate, (1.0, 2.0, 3.0), errors, work, zero, zero, work)


def test_between_settings_costs_follow_a_power_of_the_error():
    # Work doubles for every hundredth of the error: work = 10 · (error / 1e-1)^(-log 2 / log 100).
    found = curve([1e-1, 1e-3, 1e-5])
    for level in (1e-1, 2e-2, 1e-3, 3e-5):
        cost = found.at(level)
        assert cost is not None
        assert cost.work.mean == pytest.approx(10 * (level / 1e-1) ** (-math.log(2) / math.log(100)))
        assert cost.jacobians.mean == 0


def test_costs_are_not_extrapolated():
    found = curve([1e-1, 1e-3, 1e-5])
    assert found.at(9e-6) is None
    loose = found.at(0.5)
    assert loose is not None
    assert (loose.work.mean, loose.is_bound) == (10, True)
    with pytest.raises(ValueError, match="never that accurate"):
        found.works(1e-6)


def test_a_solve_that_failed_gives_no_slope():
    found = curve([math.inf, 1e-3, 1e-5]).at(1e-2)
    assert found is not None
    assert (found.work.mean, found.is_bound) == (20, True)


def test_the_cheapest_crossing_counts_where_errors_are_not_monotone():
    found = curve([1e-3, 1e-1, 1e-5]).at(1e-3)
    assert found is not None
    assert found.work.mean == pytest.approx(10)
    assert not found.is_bound


def test_samples_are_read_each_on_their_own_curve():
    found = curve([[1e-1, 1e-2], [1e-3, 1e-4], [1e-5, 1e-6]])
    cost = found.at(1e-3)
    assert cost is not None
    assert found.works(1e-3).tolist() == pytest.approx([20, 10 * 2**0.5])
    assert cost.work.n == 2
    assert found.at(3e-6) is None


@pytest.mark.parametrize(
    ("stepper", "kind", "needs_jacobians"),
    [
        (solvers.RK4(), "explicit", False),
        (solvers.AdamsBashforth(3), "explicit", False),
        (solvers.RadauIIA5(), "implicit", True),
        (solvers.RadauIIA5(FixedPoint()), "implicit", False),
        (solvers.Rodas4(), "implicit", True),
        (solvers.Kvaerno3(), "implicit", True),
        (solvers.Auto(), "switching", True),
    ],
)
def test_kinds_tell_who_forms_jacobians(stepper, kind, needs_jacobians):
    candidate = SolverCandidate("a solver", stepper)
    assert (candidate.kind, candidate.needs_jacobians) == (kind, needs_jacobians)
