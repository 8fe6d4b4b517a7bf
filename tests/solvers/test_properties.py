"""Properties over random problems: linear systems, reversal, tolerances, independence, work."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from isocline.solvers import Bosh3, Dopri5, Dopri8, ODEProblem, PIDController, Tsit5, solve

F64 = torch.float64
PAIRS = [Bosh3(), Dopri5(), Tsit5(), Dopri8()]


def linear(t, y, matrix):
    return torch.einsum("bij,bj->bi", matrix, y)


def random_system(seed, batch=3, width=4):
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(batch, width, width, generator=generator, dtype=F64)
    return matrix, torch.randn(batch, width, generator=generator, dtype=F64)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(PAIRS[1:]), st.floats(-1.5, 1.5).filter(lambda t: abs(t) > 1e-3))
def test_linear_systems_equal_the_matrix_exponential(seed, stepper, t1):
    matrix, y0 = random_system(seed)
    final = solve(ODEProblem(linear, y0, 0.0, t1, matrix), stepper, PIDController(1e-9, 1e-10)).final
    exact = torch.einsum("bij,bj->bi", torch.linalg.matrix_exp(matrix * t1), y0)
    assert float((final - exact).abs().max()) < 1e-6 * float(1 + exact.abs().max())


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(PAIRS[1:]))
def test_there_and_back_again_is_the_start(seed, stepper):
    matrix, y0 = random_system(seed)
    matrix = matrix - matrix.mT
    control = PIDController(1e-9, 1e-10)
    there = solve(ODEProblem(linear, y0, 0.0, 2.0, matrix), stepper, control).final
    back = solve(ODEProblem(linear, there, 2.0, 0.0, matrix), stepper, control).final
    torch.testing.assert_close(back, y0, rtol=1e-6, atol=1e-7)
    assert (there - y0).abs().max() > 1e-3


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([Dopri5(), Tsit5()]))
def test_errors_are_proportional_to_the_tolerance(seed, stepper):
    matrix, y0 = random_system(seed, batch=1)
    matrix, y0 = matrix - matrix.mT, y0 / y0.norm()
    exact = torch.einsum("bij,bj->bi", torch.linalg.matrix_exp(3 * matrix), y0)
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9):
        final = solve(ODEProblem(linear, y0, 0.0, 3.0, matrix), stepper, PIDController(tolerance, tolerance)).final
        assert 0.01 < float((final - exact).norm()) / tolerance < 100


def van_der_pol(t, y, mu):
    x, v = y.unbind(1)
    return torch.stack([v, mu * (1 - x * x) * v - x], 1)


def heterogeneous(batch=64):
    mu = torch.logspace(-1, 2, batch, dtype=F64)
    return torch.tensor([[2.0, 0.0]], dtype=F64).repeat(batch, 1), mu


def test_no_sample_is_worse_off_in_a_batch_than_alone():
    y0, mu = heterogeneous()
    control = PIDController(1e-6, 1e-6)
    truth = solve(ODEProblem(van_der_pol, y0, 0.0, 2.0, mu), Dopri8(), PIDController(1e-12, 1e-13)).final
    batch = solve(ODEProblem(van_der_pol, y0, 0.0, 2.0, mu), Tsit5(), control).final
    errors = (batch - truth).abs().amax(1)
    for index in range(0, 64, 9):
        rows = slice(index, index + 1)
        alone = solve(ODEProblem(van_der_pol, y0[rows], 0.0, 2.0, mu[rows]), Tsit5(), control).final
        assert errors[index] <= 2 * (alone - truth[rows]).abs().max()


def test_samples_are_evaluated_little_more_than_each_needs():
    y0, mu = heterogeneous(256)
    evaluated = 0

    def field(t, y, cond):
        nonlocal evaluated
        evaluated += len(y)
        return van_der_pol(t, y, cond)

    stats = solve(ODEProblem(field, y0, 0.0, 2.0, mu), Tsit5(), PIDController(1e-6, 1e-6)).stats
    need = int(stats.nfe.sum())
    assert need <= evaluated <= 1.3 * need
    # A batch that stays whole until its last sample is done makes several times as many.
    assert int(stats.nfe.max()) * 256 > 3 * evaluated


def kepler(t, y, cond):
    place, speed = y[:, :2], y[:, 2:]
    square = (place * place).sum(1, keepdim=True)
    return torch.cat([speed, -place / (square * square.sqrt())], 1)


def lorenz(t, y, cond):
    a, b, c = y.unbind(1)
    return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], 1)


@pytest.mark.parametrize(
    ("field", "start", "t1"),
    [
        (kepler, [0.5, 0.0, 0.0, 3**0.5], 10.0),
        (lorenz, [1.0, 1.0, 1.0], 3.0),
        (lambda t, y, c: van_der_pol(t, y, torch.ones(1, dtype=F64)), [2.0, 0.0], 10.0),
    ],
)
@pytest.mark.parametrize("tolerance", [1e-6, 1e-9])
def test_order_eight_needs_no_more_evaluations_than_dop853_and_ends_at_t1(field, start, t1, tolerance):
    y0 = torch.tensor([start], dtype=F64)
    ours = solve(ODEProblem(field, y0, 0.0, t1), Dopri8(), PIDController(tolerance, tolerance))

    def scalar(t, y):
        return field(t, torch.from_numpy(y)[None], None)[0].numpy()

    theirs = solve_ivp(scalar, (0.0, t1), np.array(start), "DOP853", rtol=tolerance, atol=tolerance)
    truth = solve_ivp(scalar, (0.0, t1), np.array(start), "DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    assert ours.stopped_at.tolist() == [t1]
    assert int(ours.stats.nfe) <= 1.1 * theirs.nfev
    error = np.abs(ours.final[0].numpy() - truth).max()
    assert error <= 10 * max(tolerance, np.abs(theirs.y[:, -1] - truth).max())
