"""Exponential integrators: φ functions, exactness, orders with and without stiffness, gradients, dense output."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from isocline.solvers import RK4, ConstantSteps, FixedGrid, ODEProblem, PIDController, SaveAt, Tsit5, solve
from isocline.solvers.exponential import ETD1, ETD2RK, ETDRK4
from isocline.solvers.phi import matrix_phi_functions, phi_functions
from isocline.solvers.semilinear import DenseLinear, DiagonalLinear, SemilinearProblem

STEPPERS = [ETD1(), ETD2RK(), ETDRK4()]
START = torch.tensor([[0.1, 0.4], [0.7, 0.25]], dtype=torch.float64)
RATES = torch.tensor([-1.0, 0.5], dtype=torch.float64)
MATRIX = torch.tensor([[-1.0, 2.0], [-2.0, 0.3]], dtype=torch.float64)
LINEAR = [DiagonalLinear(RATES), DenseLinear(MATRIX)]


def per_sample(t, y):
    return t if t.ndim == 0 else t.reshape(-1, *([1] * (y.ndim - 1)))


def slope(errors, counts):
    return float(np.polyfit(-np.log(counts), np.log(errors), 1)[0])


def phi(z, k, terms=120):
    """The series in exact arithmetic, rounded once."""
    z = Fraction(z)
    return float(sum(z**j / math.factorial(j + k) for j in range(terms)))


@pytest.mark.parametrize("z", [0.0, 1e-12, -1e-5, 0.3, -0.999, 1.001, -1.5, 2.0, -7.3, 11.0])
def test_phi_functions_are_accurate_to_the_last_digits_near_and_far_from_zero(z):
    found = phi_functions(torch.tensor(z, dtype=torch.float64), 3)
    for k, value in enumerate(found):
        assert float(value) == pytest.approx(phi(z, k), rel=1e-14)


def test_phi_functions_of_very_stiff_arguments_are_their_asymptotic_values():
    found = phi_functions(torch.tensor(-1e8, dtype=torch.float64), 3)
    for value, expected in zip(found, (0.0, 1e-8, 1e-8, 0.5e-8), strict=True):
        assert float(value) == pytest.approx(expected, rel=3e-8)


def test_phi_functions_of_complex_arguments_are_those_of_a_rotation():
    angle = torch.tensor([1e-3, 0.9, 3.0, 40.0], dtype=torch.float64)
    found = phi_functions(torch.complex(torch.zeros_like(angle), angle), 1)[1]
    expected = torch.complex(angle.sin() / angle, 2 * (angle / 2).sin().square() / angle)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.4, 3.0, 50.0, 1e5])
def test_phi_functions_of_matrices_agree_with_those_of_their_eigenvalues(scale):
    torch.manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    values = scale * torch.tensor([-1.0, -0.5, -0.1, -0.01, 0.00001], dtype=torch.float64)
    found = matrix_phi_functions(q @ torch.diag(values) @ q.T, 3)
    for k, value in enumerate(found):
        expected = q @ torch.diag(phi_functions(values, 3)[k]) @ q.T
        # The condition of the exponential grows with the norm.
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-14 + 1e-15 * scale)


def test_each_matrix_of_a_batch_is_scaled_by_its_own_norm():
    matrices = torch.stack([1e-3 * MATRIX, 30.0 * MATRIX])
    together = matrix_phi_functions(matrices, 2)
    for row in range(2):
        for found, alone in zip(together, matrix_phi_functions(matrices[row], 2), strict=True):
            torch.testing.assert_close(found[row], alone, rtol=1e-15, atol=0)


@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)], ids=["forward", "reversed"])
@pytest.mark.parametrize("linear", LINEAR, ids=["diagonal", "dense"])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_constant_remainders_are_solved_exactly_in_one_step(stepper, linear, span):
    shift = torch.tensor([0.3, -0.2], dtype=torch.float64)
    problem = SemilinearProblem(linear, lambda t, y, cond: shift.expand_as(y), START, *span)
    matrix = torch.diag(RATES) if isinstance(linear, DiagonalLinear) else MATRIX
    rest = torch.linalg.solve(matrix, -shift)
    flow = torch.linalg.matrix_exp((span[1] - span[0]) * matrix)
    expected = (START - rest) @ flow.T + rest
    for grid in (
        ConstantSteps(1),
        FixedGrid(span[0] + (span[1] - span[0]) * torch.tensor([0.0, 0.1, 0.7, 1.0]).double()),
    ):
        torch.testing.assert_close(solve(problem, stepper, grid).final, expected, rtol=1e-13, atol=1e-14)


def test_a_remainder_linear_in_time_is_solved_exactly_from_order_two_on():
    # dy/dt = -y + t is solved by t - 1 + (y(0) + 1) exp(-t).
    minus_one = DiagonalLinear(torch.tensor(-1.0, dtype=torch.float64))
    problem = SemilinearProblem(minus_one, lambda t, y, cond: per_sample(t, y) + 0 * y, START, 0.0, 2.0)
    expected = 1 + (START + 1) * math.exp(-2)
    for stepper in (ETD2RK(), ETDRK4()):
        torch.testing.assert_close(solve(problem, stepper, ConstantSteps(2)).final, expected, rtol=1e-13, atol=0)
    assert (solve(problem, ETD1(), ConstantSteps(2)).final - expected).abs().min() > 0.1


def pendulum(t, y, cond):
    """A smooth remainder that couples the components and depends on time."""
    return torch.sin(y.flip(1)) * torch.cos(per_sample(t, y)) + 0.2 * y * y


@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)], ids=["forward", "reversed"])
@pytest.mark.parametrize("linear", LINEAR, ids=["diagonal", "dense"])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_error_falls_with_the_nominal_order(stepper, linear, span):
    problem = SemilinearProblem(linear, pendulum, START, *span)
    exact = solve(problem, Tsit5(), PIDController(1e-12, 1e-13)).final
    counts = [40, 57, 80] if stepper.order > 2 else [100, 141, 200]
    errors = [float((solve(problem, stepper, ConstantSteps(n)).final - exact).abs().max()) for n in counts]
    assert slope(errors, counts) == pytest.approx(stepper.order, abs=0.2)


@pytest.mark.parametrize("stepper", STEPPERS)
def test_a_stiff_linear_part_costs_neither_stability_nor_more_than_the_stiff_order(stepper):
    # Components slow and at -1e6; the remainder keeps the fast ones at 1e-6 cos(y_slow).
    linear = DiagonalLinear(torch.tensor([-1e6, -0.5], dtype=torch.float64))

    def remainder(t, y, cond):
        fast, slow = y.unbind(1)
        return torch.stack([torch.cos(slow), torch.sin(slow) + fast], 1)

    start = torch.stack([1e-6 * torch.cos(START[:, 1]), START[:, 1]], 1)

    def slow(count):
        problem = SemilinearProblem(linear, remainder, start, 0.0, 2.0)
        final = solve(problem, stepper, ConstantSteps(count)).final
        assert final.isfinite().all()
        torch.testing.assert_close(final[:, 0], 1e-6 * torch.cos(final[:, 1]), rtol=0, atol=1e-7)
        return final[:, 1]

    reference = slow(1280)
    counts = [20, 40, 80]
    errors = [float((slow(count) - reference).abs().max()) for count in counts]
    assert slope(errors, counts) > stepper.order - 0.2
    explicit = solve(SemilinearProblem(linear, remainder, start, 0.0, 2.0), RK4(), ConstantSteps(80)).final
    assert not explicit.isfinite().all()


def test_heat_equation_with_a_source_is_solved_with_steps_that_explicit_methods_cannot_take():
    # u_t = u_xx + u (1 - u) on [0, 1] with zero boundary: 60 points, stiffness 4 n² = 14884.
    count = 60
    ones = torch.ones(count, dtype=torch.float64)
    laplacian = (count + 1) ** 2 * (torch.diag(ones[1:], 1) + torch.diag(ones[1:], -1) - 2 * torch.diag(ones))
    x = torch.arange(1, count + 1, dtype=torch.float64) / (count + 1)
    start = torch.stack([torch.sin(math.pi * x), x * (1 - x)])
    dense = SemilinearProblem(DenseLinear(laplacian), lambda t, y, cond: y * (1 - y), start, 0.0, 0.2)
    exact = solve(dense, Tsit5(), PIDController(1e-9, 1e-11)).final
    assert (solve(dense, ETDRK4(), ConstantSteps(20)).final - exact).abs().max() < 1e-6
    assert not (solve(dense, RK4(), ConstantSteps(20)).final.abs().max() < 1e6)
    # In the eigenbasis of the Laplacian the same equation is diagonal.
    values, basis = torch.linalg.eigh(laplacian)

    def rotated(t, y, cond):
        u = y @ basis.T
        return (u * (1 - u)) @ basis

    spectral = SemilinearProblem(DiagonalLinear(values), rotated, start @ basis, 0.0, 0.2)
    for stepper in STEPPERS:
        a, b = solve(dense, stepper, ConstantSteps(20)).final, solve(spectral, stepper, ConstantSteps(20)).final
        torch.testing.assert_close(a, b @ basis.T, rtol=0, atol=1e-10)


def test_states_may_have_any_shape_and_be_complex():
    values = torch.tensor([[1j], [-0.5 + 2j]], dtype=torch.complex128)
    start = torch.full((3, 2, 4), 1 + 0.5j, dtype=torch.complex128)
    problem = SemilinearProblem(DiagonalLinear(values), lambda t, y, cond: 0 * y, start, 0.0, 1.5)
    torch.testing.assert_close(solve(problem, ETDRK4(), ConstantSteps(3)).final, start * torch.exp(1.5 * values))
    dense = SemilinearProblem(DenseLinear(torch.eye(8).double()), lambda t, y, cond: 0 * y, start.real, 0.0, 1.0)
    torch.testing.assert_close(solve(dense, ETD1(), ConstantSteps(3)).final, start.real * math.e)


@pytest.mark.parametrize("linear", LINEAR, ids=["diagonal", "dense"])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_times_may_be_each_samples_own(stepper, linear):
    t0, t1 = torch.tensor([0.0, 3.0], dtype=torch.float64), torch.tensor([2.0, 1.0], dtype=torch.float64)
    own = solve(SemilinearProblem(linear, pendulum, START, t0, t1), stepper, ConstantSteps(8)).final
    for row in range(2):
        problem = SemilinearProblem(linear, pendulum, START[row : row + 1], float(t0[row]), float(t1[row]))
        shared = solve(problem, stepper, ConstantSteps(8)).final
        torch.testing.assert_close(own[row : row + 1], shared, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("stepper", STEPPERS)
def test_each_sample_is_bit_for_bit_what_it_is_alone(stepper):
    start = torch.linspace(-1, 1, 14, dtype=torch.float64).reshape(7, 2)
    ends = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)
    for t1 in (1.5, ends):
        problem = SemilinearProblem(DiagonalLinear(RATES), lambda t, y, cond: y * y * (1 - y), start, 0.0, t1)
        together = solve(problem, stepper, ConstantSteps(6)).final
        for row in range(7):
            alone = solve(problem.at_rows(torch.tensor([row])), stepper, ConstantSteps(6)).final
            assert torch.equal(alone, together[row : row + 1])


@pytest.mark.parametrize("linear", LINEAR, ids=["diagonal", "dense"])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_float32_stays_float32(stepper, linear):
    final = solve(SemilinearProblem(linear, pendulum, START.float(), 0.0, 2.0), stepper, ConstantSteps(20)).final
    exact = solve(SemilinearProblem(linear, pendulum, START, 0.0, 2.0), stepper, ConstantSteps(20)).final
    assert final.dtype == torch.float32
    torch.testing.assert_close(final.double(), exact, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [DiagonalLinear, DenseLinear])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_gradients_with_respect_to_start_linear_part_and_remainder_agree_with_finite_differences(stepper, kind):
    # A zero on the diagonal: the quotients behind φ are differentiated through their limits.
    part = torch.tensor([0.0, -1.7]) if kind is DiagonalLinear else torch.tensor([[0.0, 1.0], [-2.0, -3.0]])
    part = part.double().requires_grad_()
    scale = torch.tensor([0.8, 1.3], dtype=torch.float64, requires_grad=True)
    start = START.clone().requires_grad_()

    def final(start, part, scale):
        problem = SemilinearProblem(kind(part), lambda t, y, cond: scale * torch.sin(y), start, 0.0, 1.0)
        return solve(problem, stepper, ConstantSteps(3)).final

    assert torch.autograd.gradcheck(final, (start, part, scale))
    once = torch.autograd.grad(final(start, part, scale).sum(), part)
    again = torch.autograd.grad(final(start, part, scale).sum(), part)
    assert torch.equal(once[0], again[0])


def test_a_step_that_is_repeated_to_be_differentiated_does_not_take_phi_functions_from_one_that_was_not():
    part = MATRIX.clone().requires_grad_()
    problem = SemilinearProblem(DenseLinear(part), pendulum, START, 0.0, 0.5)
    t0 = torch.zeros((), dtype=torch.float64)
    carry = ETD1().init(problem, t0, START)
    with torch.no_grad():
        carry = ETD1().step(problem, t0, t0 + 0.5, START, carry).carry
    repeated = ETD1().step(problem, t0, t0 + 0.5, START, carry).y1
    (found,) = torch.autograd.grad(repeated.sum(), part)
    (expected,) = torch.autograd.grad(solve(problem, ETD1(), ConstantSteps(1)).final.sum(), part)
    assert torch.equal(found, expected)


def test_constant_steps_find_the_phi_functions_once(monkeypatch):
    found = []
    original = DenseLinear.phis

    def counting(self, h, count, y):
        found.append(float(h))
        return original(self, h, count, y)

    monkeypatch.setattr(DenseLinear, "phis", counting)
    problem = SemilinearProblem(DenseLinear(MATRIX), pendulum, START, 0.0, 0.7)
    solve(problem, ETDRK4(), ConstantSteps(30))
    # Two nodes, and five sizes that differ in their last bit.
    assert len(found) == 10
    found.clear()
    solve(problem, ETDRK4(), FixedGrid([0.0, 0.1, 0.3, 0.7]))
    assert len(found) == 6


@pytest.mark.parametrize("linear", LINEAR, ids=["diagonal", "dense"])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_dense_output_costs_nothing_and_has_at_least_order_three_or_that_of_the_method(stepper, linear):
    times = torch.tensor([0.33, 0.91, 1.77], dtype=torch.float64)
    problem = SemilinearProblem(linear, pendulum, START, 0.0, 2.0)
    exact = solve(problem, Tsit5(), PIDController(1e-12, 1e-13), SaveAt(ts=times))
    errors, counts = [], [40, 57, 80, 113]
    for count in counts:
        solution = solve(problem, stepper, ConstantSteps(count), SaveAt(ts=times))
        assert solution.stats.nfe.tolist() == [stepper.nfe_per_step * count] * 2
        errors.append(float((solution.ys - exact.ys).abs().max()))
    assert slope(errors, counts) > min(stepper.order, 3) - 0.35


@pytest.mark.parametrize("own_times", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("linear", LINEAR, ids=["diagonal", "dense"])
@pytest.mark.parametrize("stepper", STEPPERS)
def test_dense_output_ends_where_the_step_ends(stepper, linear, own_times):
    t0 = torch.zeros(2 if own_times else (), dtype=torch.float64)
    problem = SemilinearProblem(linear, pendulum, START, 0.0, 0.5)
    result = stepper.step(problem, t0, t0 + 0.5, START, stepper.init(problem, t0, START))
    torch.testing.assert_close(
        result.dense.evaluate(torch.ones((), dtype=torch.float64)), result.y1, rtol=1e-13, atol=0
    )
    torch.testing.assert_close(result.dense.evaluate(torch.zeros((), dtype=torch.float64)), START, rtol=1e-15, atol=0)
    rows, theta = torch.tensor([1, 0, 1]), torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    found = result.dense.evaluate(theta, rows)
    for place, (row, share) in enumerate(zip(rows.tolist(), theta, strict=True)):
        torch.testing.assert_close(found[place], result.dense.evaluate(share)[row], rtol=1e-13, atol=0)


def test_what_does_not_go_together_is_refused_with_its_cure():
    with pytest.raises(TypeError, match="SemilinearProblem"):
        solve(ODEProblem(pendulum, START, 0.0, 1.0), ETD1(), ConstantSteps(1))
    with pytest.raises(ValueError, match=r"values has shape \(3,\)"):
        SemilinearProblem(DiagonalLinear(torch.ones(3)), pendulum, START, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"matrix has shape \(3, 3\)"):
        SemilinearProblem(DenseLinear(torch.eye(3)), pendulum, START, 0.0, 1.0)
    with pytest.raises(TypeError, match="make y0 complex"):
        SemilinearProblem(DiagonalLinear(torch.ones(2) * 1j), pendulum, START, 0.0, 1.0)
    with pytest.raises(ValueError, match="batch 2"):
        SemilinearProblem(DiagonalLinear(RATES), pendulum, START, 0.0, 1.0, cond=torch.ones(3))
