"""Local errors: closed forms of the leading term, observed orders, where in the span they are made."""

import math

import pytest
import torch

from isocline import solvers
from isocline.dynamics.local_error import measure_local_error
from isocline.dynamics.path import FieldPath, follow


def turning(t, x, cond):
    return torch.stack([-x[:, 1], x[:, 0]], 1) * (1 + 0.3 * torch.sin(t).reshape(-1, 1))


STARTS = torch.tensor([[1.0, 0.0], [0.3, -2.0]], dtype=torch.float64)


def exponential_path(ts, rate):
    ts = torch.as_tensor(ts, dtype=torch.float64)
    return FieldPath(ts, torch.exp(rate * ts)[:, None, None].expand(-1, 2, 1).clone())


def test_eulers_error_is_half_the_second_derivative():
    h, rate = 1e-3, -2.0
    path = exponential_path([0.0, h, 2 * h], rate)
    found = measure_local_error(lambda t, x, cond: rate * x, path, solvers.Euler())
    exact = torch.tensor([[1.0], [math.exp(rate * h)]], dtype=torch.float64).expand(2, 2)
    torch.testing.assert_close(found.principal, rate**2 / 2 * exact, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.per_unit_step, h * rate**2 / 2 * exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "kind", [solvers.Euler, solvers.Heun, solvers.Bosh3, solvers.RK4, solvers.Dopri5, solvers.Trapezoid, solvers.Rodas4]
)
def test_observed_orders_are_the_nominal_ones(kind):
    path = follow(turning, STARTS, torch.linspace(0, 2, 9), rtol=1e-10, atol=1e-12)
    found = measure_local_error(turning, path, kind())
    assert found.observed_order.shape == (8, 2)
    assert float(found.observed_order.nanmean()) == pytest.approx(kind().order, abs=0.3)


def test_errors_are_made_where_the_field_changes_fast():
    def field(t, x, cond):
        return (-1 / torch.cosh(20 * (t - 0.5)).square()).reshape(-1, 1) * x * 20

    path = follow(field, torch.ones(1, 1, dtype=torch.float64), torch.linspace(0, 1, 21), rtol=1e-9, atol=1e-11)
    found = measure_local_error(field, path, solvers.RK4())
    assert float(found.shares.sum()) == pytest.approx(1)
    assert float(found.shares[7:11].sum()) > 0.95
    rows = found.rows()
    assert max(rows, key=lambda row: row.share).start == pytest.approx(0.45)


def test_a_step_beyond_the_region_of_stability_shows_no_order():
    path = exponential_path([0.0, 0.5, 1.0], -40.0)
    found = measure_local_error(lambda t, x, cond: -40.0 * x, path, solvers.RK4(), reference_steps=40)
    assert (found.errors[0] > 100).all()
    path = exponential_path([0.0, 0.005], -40.0)
    fine = measure_local_error(lambda t, x, cond: -40.0 * x, path, solvers.RK4())
    assert float(fine.observed_order.mean()) == pytest.approx(4, abs=0.2)


def test_errors_below_the_rounding_have_no_order():
    path = exponential_path([0.0, 1e-4], -1.0)
    path = FieldPath(path.ts, path.states.float())
    found = measure_local_error(lambda t, x, cond: -x, path, solvers.RK4())
    assert found.observed_order.isnan().all()
    assert found.rows()[0].order is None


def test_conditions_go_with_their_samples_and_time_runs_either_way():
    rates = torch.tensor([-1.0, 3.0], dtype=torch.float64)
    field = lambda t, x, cond: cond[:, None] * x  # noqa: E731
    path = follow(field, torch.ones(2, 1, dtype=torch.float64), [0.1, 0.05, 0.0], rates, rtol=1e-10, atol=1e-12)
    found = measure_local_error(field, path, solvers.Euler(), rates)
    wanted = 0.05**2 / 2 * rates**2 * path.states[:-1, :, 0]
    torch.testing.assert_close(found.errors, wanted, rtol=0.06, atol=0)


def test_multistep_methods_are_refused():
    with pytest.raises(ValueError, match="one-step"):
        measure_local_error(turning, exponential_path([0.0, 1.0], 1.0), solvers.AdamsBashforth(3))
