"""Symplectic steppers: tableaus, orders, symplecticity, energy, reversal, friction, gradients, independence."""

import math

import numpy as np
import pytest
import torch

from isocline.solvers import RK4, ConstantSteps, Heun, ODEProblem, PIDController, SaveAt, Tsit5, solve
from isocline.solvers.separable import HamiltonianProblem, SecondOrderProblem
from isocline.solvers.symplectic import Leapfrog, SymplecticEuler, Yoshida4

STEPPERS = [SymplecticEuler(), Leapfrog(), Yoshida4()]
PLACES = torch.tensor([[0.1, 0.4], [0.7, -0.25]], dtype=torch.float64)
SPEEDS = torch.tensor([[0.5, -0.2], [0.0, 0.3]], dtype=torch.float64)


def per_sample(t, y):
    return t if t.ndim == 0 else t.reshape(-1, *([1] * (y.ndim - 1)))


def slope(errors, counts):
    return float(np.polyfit(-np.log(counts), np.log(errors), 1)[0])


def pendulum(t, x, cond):
    """Coupled and driven."""
    return -torch.sin(x) + 0.3 * x.flip(1) + 0.5 * torch.cos(per_sample(t, x))


def spring(t, x, cond):
    return -x


def rotation(t):
    """The flow of the unit spring: x cos t + v sin t, v cos t - x sin t."""
    return torch.stack([PLACES * math.cos(t) + SPEEDS * math.sin(t), SPEEDS * math.cos(t) - PLACES * math.sin(t)], 1)


def relativistic(t0, t1, **options):
    """H = sqrt(1 + p²) - cos q."""
    return HamiltonianProblem(
        lambda t, q, cond: -torch.sin(q), lambda t, p, cond: p / (1 + p * p).sqrt(), PLACES, SPEEDS, t0, t1, **options
    )


@pytest.mark.parametrize("span", [(0.0, 3.0), (3.0, 0.0)], ids=["forward", "reversed"])
@pytest.mark.parametrize("friction", [0.0, 0.7, torch.tensor([0.0, 1.5], dtype=torch.float64)], ids=str)
@pytest.mark.parametrize("stepper", STEPPERS)
def test_error_falls_with_the_nominal_order_with_and_without_friction(stepper, friction, span):
    for problem in (
        SecondOrderProblem(pendulum, PLACES, SPEEDS, *span, friction=friction),
        relativistic(*span, friction=friction),
    ):
        exact = solve(problem, Tsit5(), PIDController(1e-12, 1e-13)).final
        counts = [60, 85, 120] if stepper.order > 2 else [200, 283, 400]
        errors = [float((solve(problem, stepper, ConstantSteps(n)).final - exact).abs().max()) for n in counts]
        assert slope(errors, counts) == pytest.approx(stepper.order, abs=0.2)


def test_the_harmonic_oscillator_is_solved_by_its_closed_form():
    problem = SecondOrderProblem(spring, PLACES, SPEEDS, 0.0, 5.0)
    final = solve(problem, Yoshida4(), ConstantSteps(1000)).final
    torch.testing.assert_close(final, rotation(5.0), rtol=0, atol=1e-9)
    # One leapfrog step of length h: x1 = (1 - h²/2) x0 + h v0.
    h = 0.3
    once = solve(SecondOrderProblem(spring, PLACES, SPEEDS, 0.0, h), Leapfrog(), ConstantSteps(1)).final
    x1 = (1 - h * h / 2) * PLACES + h * SPEEDS
    torch.testing.assert_close(once, torch.stack([x1, SPEEDS - h / 2 * (PLACES + x1)], 1), rtol=1e-15, atol=1e-15)


def step_jacobian(stepper, friction):
    """Of one step of length 0.4 from the first sample, as a matrix on (x, v)."""

    def advance(flat):
        x0, v0 = flat.reshape(2, 1, 2)
        problem = SecondOrderProblem(pendulum, x0, v0, 0.0, 0.4, friction=friction)
        return solve(problem, stepper, ConstantSteps(1)).final.reshape(-1)

    return torch.autograd.functional.jacobian(advance, torch.cat([PLACES[0], SPEEDS[0]]))


@pytest.mark.parametrize("friction", [0.0, 0.7])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_a_step_multiplies_the_symplectic_form_by_exactly_what_friction_takes(stepper, friction):
    zero, one = torch.zeros(2, 2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    form = torch.cat([torch.cat([zero, one], 1), torch.cat([-one, zero], 1)])
    jacobian = step_jacobian(stepper, friction)
    torch.testing.assert_close(jacobian.T @ form @ jacobian, math.exp(-0.4 * friction) * form, rtol=0, atol=1e-14)


def test_runge_kutta_methods_are_not_symplectic():
    def advance(flat):
        x0, v0 = flat.reshape(2, 1, 2)
        return solve(SecondOrderProblem(pendulum, x0, v0, 0.0, 0.4), Heun(), ConstantSteps(1)).final.reshape(-1)

    jacobian = torch.autograd.functional.jacobian(advance, torch.cat([PLACES[0], SPEEDS[0]]))
    assert abs(float(jacobian.det()) - 1) > 1e-4


def kepler(t, x, cond):
    return -x / x.square().sum(1, keepdim=True) ** 1.5


def test_the_energy_of_a_planet_stays_bounded_over_many_orbits_and_drifts_under_heuns_method():
    eccentricity = 0.4
    x0 = torch.tensor([[1 - eccentricity, 0.0]], dtype=torch.float64)
    v0 = torch.tensor([[0.0, math.sqrt((1 + eccentricity) / (1 - eccentricity))]], dtype=torch.float64)
    orbits, steps = 50, 60
    problem = SecondOrderProblem(kepler, x0, v0, 0.0, 2 * math.pi * orbits)

    def energy_errors(stepper):
        with torch.no_grad():
            ys = solve(problem, stepper, ConstantSteps(orbits * steps), SaveAt(steps=True)).ys
        energy = 0.5 * ys[:, 0, 1].square().sum(1) - ys[:, 0, 0].square().sum(1).rsqrt()
        errors = (energy + 0.5).abs()
        return float(errors[: 5 * steps].max()), float(errors[-5 * steps :].max())

    for stepper, bound in ((SymplecticEuler(), 0.3), (Leapfrog(), 0.02), (Yoshida4(), 0.005)):
        early, late = energy_errors(stepper)
        assert late < bound
        assert late < 1.5 * early
    early, late = energy_errors(Heun())
    assert late > 3 * early
    early, late = energy_errors(RK4())
    assert late > 3 * early


@pytest.mark.parametrize("stepper", [Leapfrog(), Yoshida4()])
def test_palindromes_are_time_reversible(stepper):
    there = solve(SecondOrderProblem(pendulum, PLACES, SPEEDS, 0.0, 4.0), stepper, ConstantSteps(40)).final
    back = solve(SecondOrderProblem(pendulum, there[:, 0], there[:, 1], 4.0, 0.0), stepper, ConstantSteps(40)).final
    torch.testing.assert_close(back, torch.stack([PLACES, SPEEDS], 1), rtol=0, atol=1e-13)
    # Turning the velocities round is the same as turning time round.
    mirrored = SecondOrderProblem(lambda t, x, cond: pendulum(-t, x, cond), there[:, 0], -there[:, 1], -4.0, 0.0)
    turned = solve(mirrored, stepper, ConstantSteps(40)).final
    torch.testing.assert_close(turned, torch.stack([PLACES, -SPEEDS], 1), rtol=0, atol=1e-13)


def test_symplectic_euler_is_not_time_reversible():
    there = solve(SecondOrderProblem(pendulum, PLACES, SPEEDS, 0.0, 4.0), SymplecticEuler(), ConstantSteps(40)).final
    problem = SecondOrderProblem(pendulum, there[:, 0], there[:, 1], 4.0, 0.0)
    back = solve(problem, SymplecticEuler(), ConstantSteps(40)).final
    assert (back - torch.stack([PLACES, SPEEDS], 1)).abs().max() > 1e-3


@pytest.mark.parametrize(("stepper", "expected"), [(SymplecticEuler(), 20), (Leapfrog(), 21), (Yoshida4(), 61)])
def test_the_force_at_the_end_of_a_step_is_evaluated_once(stepper, expected):
    calls = []

    def force(t, x, cond):
        calls.append(float(t))
        return -x

    solution = solve(SecondOrderProblem(force, PLACES, SPEEDS, 0.0, 2.0), stepper, ConstantSteps(20))
    assert len(calls) == expected
    assert solution.stats.nfe.tolist() == [expected] * 2
    assert expected == stepper.init_nfe + 20 * stepper.nfe_per_step


@pytest.mark.parametrize("stepper", STEPPERS)
def test_friction_without_force_is_exact(stepper):
    problem = SecondOrderProblem(lambda t, x, cond: 0 * x, PLACES, SPEEDS, 0.0, 2.0, friction=3.0)
    final = solve(problem, stepper, ConstantSteps(2)).final
    torch.testing.assert_close(final[:, 1], SPEEDS * math.exp(-6), rtol=1e-13, atol=0)


@pytest.mark.parametrize("stepper", [SymplecticEuler(), Leapfrog()])
def test_a_falling_body_reaches_its_terminal_speed_however_large_the_friction(stepper):
    falling = SecondOrderProblem(lambda t, x, cond: 0 * x + 9.81, PLACES, SPEEDS, 0.0, 2.0, friction=1e6)
    final = solve(falling, stepper, ConstantSteps(4)).final
    torch.testing.assert_close(final[:, 1], torch.full_like(SPEEDS, 9.81e-6), rtol=1e-12, atol=0)


def test_a_heavy_ball_comes_to_rest_at_the_minimum():
    problem = SecondOrderProblem(lambda t, x, cond: -4 * (x - 1), PLACES, SPEEDS, 0.0, 20.0, friction=2.0)
    final = solve(problem, Leapfrog(), ConstantSteps(200)).final
    torch.testing.assert_close(final[:, 0], torch.ones_like(PLACES), rtol=0, atol=1e-7)


@pytest.mark.parametrize("stepper", STEPPERS)
def test_any_other_stepper_solves_the_same_problem(stepper):
    for problem in (SecondOrderProblem(pendulum, PLACES, SPEEDS, 0.0, 1.0, friction=0.5), relativistic(0.0, 1.0)):
        exact = solve(problem, RK4(), ConstantSteps(400)).final
        assert (solve(problem, stepper, ConstantSteps(400)).final - exact).abs().max() < 5e-3


@pytest.mark.parametrize("friction", [0.0, 0.7])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_each_sample_is_bit_for_bit_what_it_is_alone(stepper, friction):
    x0 = torch.linspace(-1, 1, 14, dtype=torch.float64).reshape(7, 2)
    ends = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)
    for t1 in (1.5, ends):
        problem = SecondOrderProblem(lambda t, x, cond: -x * x * x, x0, x0.flip(0), 0.0, t1, friction=friction)
        together = solve(problem, stepper, ConstantSteps(6)).final
        for row in range(7):
            alone = solve(problem.at_rows(torch.tensor([row])), stepper, ConstantSteps(6)).final
            assert torch.equal(alone, together[row : row + 1])


@pytest.mark.parametrize("stepper", STEPPERS)
def test_times_may_be_each_samples_own(stepper):
    t0, t1 = torch.tensor([0.0, 3.0], dtype=torch.float64), torch.tensor([2.0, 1.0], dtype=torch.float64)
    together = SecondOrderProblem(pendulum, PLACES, SPEEDS, t0, t1, friction=0.3)
    own = solve(together, stepper, ConstantSteps(8)).final
    for row in range(2):
        problem = SecondOrderProblem(
            pendulum, PLACES[row : row + 1], SPEEDS[row : row + 1], float(t0[row]), float(t1[row]), friction=0.3
        )
        shared = solve(problem, stepper, ConstantSteps(8)).final
        torch.testing.assert_close(own[row : row + 1], shared, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("friction", [0.0, 0.7, torch.tensor([0.1, 0.9])], ids=str)
@pytest.mark.parametrize("stepper", STEPPERS)
def test_float32_stays_float32(stepper, friction):
    low = SecondOrderProblem(pendulum, PLACES.float(), SPEEDS.float(), 0.0, 2.0, friction=friction)
    high = SecondOrderProblem(pendulum, PLACES, SPEEDS, 0.0, 2.0, friction=friction)
    final = solve(low, stepper, ConstantSteps(20)).final
    assert final.dtype == torch.float32
    torch.testing.assert_close(final.double(), solve(high, stepper, ConstantSteps(20)).final, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("stepper", STEPPERS)
def test_gradients_agree_with_finite_differences(stepper):
    x0, v0 = PLACES.clone().requires_grad_(), SPEEDS.clone().requires_grad_()
    scale = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)
    friction = torch.tensor([0.0, 0.6], dtype=torch.float64, requires_grad=True)

    def final(x0, v0, scale, friction):
        problem = SecondOrderProblem(lambda t, x, cond: -scale * torch.sin(x), x0, v0, 0.0, 1.0, friction=friction)
        return solve(problem, stepper, ConstantSteps(3)).final

    assert torch.autograd.gradcheck(final, (x0, v0, scale, friction))


@pytest.mark.parametrize("friction", [0.0, 0.7])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_dense_output_costs_nothing_and_is_cubic_where_both_forces_are_known(stepper, friction):
    times = torch.tensor([0.33, 0.91, 1.77], dtype=torch.float64)
    problem = SecondOrderProblem(pendulum, PLACES, SPEEDS, 0.0, 2.0, friction=friction)
    exact = solve(problem, Tsit5(), PIDController(1e-12, 1e-13), SaveAt(ts=times)).ys
    errors, counts = [], [40, 57, 80, 113]
    for count in counts:
        solution = solve(problem, stepper, ConstantSteps(count), SaveAt(ts=times))
        assert solution.stats.nfe.tolist() == [stepper.init_nfe + stepper.nfe_per_step * count] * 2
        errors.append(float((solution.ys - exact).abs().max()))
    assert slope(errors, counts) > min(stepper.order, 3) - 0.35


@pytest.mark.parametrize("stepper", STEPPERS)
def test_dense_output_ends_where_the_step_ends(stepper):
    t0 = torch.zeros((), dtype=torch.float64)
    problem = SecondOrderProblem(pendulum, PLACES, SPEEDS, 0.0, 0.5)
    result = stepper.step(problem, t0, t0 + 0.5, problem.start, stepper.init(problem, t0, problem.start))
    torch.testing.assert_close(result.dense.evaluate(torch.ones_like(t0)), result.y1, rtol=1e-14, atol=1e-15)
    assert torch.equal(result.dense.evaluate(torch.zeros_like(t0)), problem.start)
    rows, theta = torch.tensor([1, 0, 1]), torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    found = result.dense.evaluate(theta, rows)
    for place, (row, share) in enumerate(zip(rows.tolist(), theta, strict=True)):
        torch.testing.assert_close(found[place], result.dense.evaluate(share)[row], rtol=1e-13, atol=0)


def test_what_does_not_go_together_is_refused_with_its_cure():
    with pytest.raises(TypeError, match="SecondOrderProblem"):
        solve(ODEProblem(pendulum, PLACES, 0.0, 1.0), Leapfrog(), ConstantSteps(1))
    with pytest.raises(ValueError, match=r"v0 has shape \(2, 1\)"):
        SecondOrderProblem(pendulum, PLACES, SPEEDS[:, :1], 0.0, 1.0)
    with pytest.raises(ValueError, match="batch 2"):
        SecondOrderProblem(pendulum, PLACES, SPEEDS, 0.0, 1.0, cond=torch.ones(3))
