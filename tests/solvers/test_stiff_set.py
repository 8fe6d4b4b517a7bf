"""The classical stiff problems, end to end: end errors, steps against SciPy's Radau, stability of the step floor."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from stiff_problems import (
    E5,
    LONG_SET,
    PROTHERO_ROBINSON,
    ROBERTSON_1E11,
    ROBERTSON_40,
    STIFF_SET,
    VAN_DER_POL,
)

from isocline.solvers import Auto, Kvaerno3, Kvaerno5, ODEProblem, PIDController, Rodas4, Rodas5P, Tsit5, solve

BY_NAME = [pytest.param(problem, id=problem.name) for problem in STIFF_SET]
LONG = [pytest.param(problem, id=problem.name) for problem in LONG_SET]


def run(problem, stepper, rtol, **options):
    control = PIDController(rtol, problem.absolute(rtol), max_steps=100_000, **options)
    with torch.no_grad():
        return solve(problem.problem(), stepper, control)


@pytest.mark.parametrize("problem", BY_NAME)
def test_rodas5p_finishes_every_problem_at_a_loose_tolerance(problem):
    solution = run(problem, Rodas5P(), 1e-3)
    assert solution.succeeded.all()
    assert problem.error(solution.final[0]) < 1e-3


@pytest.mark.parametrize("problem", BY_NAME)
def test_rodas5p_ends_within_ten_tolerances(problem):
    solution = run(problem, Rodas5P(), 1e-6)
    assert solution.succeeded.all()
    assert problem.error(solution.final[0]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("problem", BY_NAME)
def test_rodas5p_ends_within_a_hundred_strict_tolerances(problem):
    solution = run(problem, Rodas5P(), 1e-8)
    assert solution.succeeded.all()
    assert problem.error(solution.final[0]) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("stepper", [Rodas4(), Kvaerno5()], ids=["Rodas4", "Kvaerno5"])
@pytest.mark.parametrize("problem", BY_NAME)
def test_other_stiff_steppers_solve_the_set_too(problem, stepper):
    solution = run(problem, stepper, 1e-6)
    assert solution.succeeded.all()
    assert problem.error(solution.final[0]) < 1e-4


@pytest.mark.parametrize("problem", LONG)
@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_steps_span_eleven_decades_of_time(problem, rtol):
    solution = run(problem, Kvaerno5(), rtol)
    assert solution.succeeded.all()
    assert problem.error(solution.final[0]) < 100 * rtol


@pytest.mark.parametrize("stepper", [Rodas5P(), Kvaerno5()], ids=["Rodas5P", "Kvaerno5"])
def test_the_smallest_step_is_relative_to_the_time_reached_and_not_to_the_span(stepper):
    # y' = -y³ from 1e6 changes within 1e-12, over a span of 1e11: the solution is (1e-12 + 2t)^(-1/2). The first step
    # tried is far too long.
    start = torch.full((1, 1), 1e6, dtype=torch.float64)
    problem = ODEProblem(lambda t, y, cond: -(y**3), start, 0.0, 1e11)
    with torch.no_grad():
        solution = solve(problem, stepper, PIDController(1e-6, 0.0, dt0=1.0))
    assert solution.succeeded.all()
    assert float(solution.final) == pytest.approx(2e11**-0.5, rel=1e-4)


def test_rodas5p_finishes_long_problems_too_and_keeps_robertsons_digits():
    # E5's end state hangs on an invariant to 1e-10 of its largest value, which a linearly implicit step loses to the
    # rounding of its matrix, unless the field itself corrects the stages.
    assert E5.error(run(E5, Rodas5P(), 1e-6).final[0]) > 0.1
    refined = run(E5, Rodas5P(refinements=2), 1e-6)
    assert refined.succeeded.all()
    assert E5.error(refined.final[0]) < 2e-3
    solution = run(ROBERTSON_1E11, Rodas5P(), 1e-6)
    assert ROBERTSON_1E11.error(solution.final[0]) < 1e-5


def test_robertson_conserves_mass_to_rounding():
    for stepper in (Rodas5P(), Kvaerno3()):
        assert float(run(ROBERTSON_40, stepper, 1e-4).final.sum()) == pytest.approx(1, abs=1e-12)


def test_the_explicit_method_gives_up_where_the_stiff_one_needs_a_dozen_steps():
    control = PIDController(1e-6, 1e-9, max_steps=2000)
    with torch.no_grad():
        explicit = solve(PROTHERO_ROBINSON.problem(), Tsit5(), control)
        implicit = solve(PROTHERO_ROBINSON.problem(), Rodas5P(), control)
    assert not explicit.succeeded.any()
    assert explicit.stopped_at[0] < 0.1
    assert implicit.stats.accepted[0] < 15


def radau_steps(problem, rtol):
    """Accepted steps of SciPy's Radau with exact Jacobians."""
    cond = None if problem.cond is None else torch.tensor([problem.cond], dtype=torch.float64)

    def field(t, y):
        return problem.field(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)[None], cond)[0].numpy()

    def jac(t, y):
        time = torch.tensor(t, dtype=torch.float64)
        return torch.func.jacrev(lambda z: problem.field(time, z[None], cond)[0])(torch.from_numpy(y)).numpy()

    span, atol = (0.0, problem.t1), np.asarray(problem.absolute(rtol))
    with torch.no_grad():
        found = solve_ivp(field, span, problem.y0, method="Radau", rtol=rtol, atol=atol, jac=jac)
    assert found.success
    return len(found.t) - 1


@pytest.mark.parametrize("rtol", [1e-3, pytest.param(1e-6, marks=pytest.mark.slow)])
@pytest.mark.parametrize("problem", BY_NAME)
def test_rodas5p_tries_fewer_than_one_and_a_third_of_radaus_steps(problem, rtol):
    stats = run(problem, Rodas5P(), rtol).stats
    # Its rejected steps count, Radau's do not: SciPy does not tell them.
    assert int(stats.accepted[0] + stats.rejected[0]) <= 1.3 * radau_steps(problem, rtol)


@pytest.mark.parametrize("problem", BY_NAME)
def test_auto_solves_the_set(problem):
    solution = run(problem, Auto(), 1e-4)
    assert solution.succeeded.all()
    assert problem.error(solution.final[0]) < 1e-3


def test_the_error_falls_in_proportion_to_the_tolerance():
    loose, strict = (VAN_DER_POL.error(run(VAN_DER_POL, Rodas5P(), rtol).final[0]) for rtol in (1e-4, 1e-7))
    assert math.log10(loose / strict) > 2
