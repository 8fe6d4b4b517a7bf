"""The PID controller's formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocline.solvers import Dopri5, Euler, ODEProblem, PIDController

F64 = torch.float64


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(1e-3, 5.0), min_size=3, max_size=3), st.floats(0, 0.4), st.floats(0.1, 1.0), st.floats(0, 0.2)
)
def test_the_factor_is_soederlinds_filter_of_the_last_three_errors(norms, p, i, d):
    controller = PIDController(0.0, 1.0, p, i, d, factor_min=1e-6, factor_max=1e6)
    y = torch.zeros(1, 2, dtype=F64)
    memory = controller.initial_memory(torch.zeros(1, dtype=F64))
    for norm in norms:
        decision = controller.decide(torch.full((1, 2), norm, dtype=F64), y, y, memory, 5)
        memory = decision.memory
    r = [1 / norm for norm in norms]
    wanted = 0.9 * r[2] ** ((p + i + d) / 5) * r[1] ** (-(p + 2 * d) / 5) * r[0] ** (d / 5)
    if norms[2] > 1:
        wanted = 0.9 * r[2] ** ((p + i + d) / 5)
    assert decision.factor.item() == pytest.approx(wanted, rel=1e-9)
    assert decision.accept.item() == (norms[2] <= 1)


def test_the_norm_weighs_components_by_their_tolerance_and_samples_apart():
    controller = PIDController(rtol=0.1, atol=0.01)
    y0 = torch.tensor([[1.0, -2.0], [0.0, 0.0]], dtype=F64)
    y1 = torch.tensor([[3.0, 1.0], [0.0, 0.0]], dtype=F64)
    error = torch.tensor([[0.31, 0.21], [0.02, 0.0]], dtype=F64)
    memory = controller.initial_memory(torch.zeros(2, dtype=F64))
    decision = controller.decide(error, y0, y1, memory, 1)
    # Scales are 0.01 + 0.1·3 and 0.01 + 0.1·2: the norm is one; then sqrt((2² + 0²)/2) = √2.
    assert decision.factor.tolist() == pytest.approx([0.9, 0.9 / math.sqrt(2)])
    assert decision.accept.tolist() == [True, False]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_states_that_are_not_finite_are_rejected_with_the_strongest_reduction(bad):
    controller = PIDController()
    y0 = torch.zeros(2, 2, dtype=F64)
    y1 = torch.tensor([[bad, 0.0], [0.0, 0.0]], dtype=F64)
    decision = controller.decide(torch.zeros(2, 2, dtype=F64), y0, y1, torch.zeros(2, 2, dtype=F64), 5)
    assert decision.finite.tolist() == [False, True]
    assert decision.accept.tolist() == [False, True]
    assert decision.factor.tolist() == pytest.approx([0.2, 10.0])


def test_the_first_step_is_hairers():
    # y' = 10 y backwards from 1 with atol 1e-3: d0 = 1e3, d1 = 1e4, h0 = 1e-3; d2 = 10·10/1e-3, h1 = (0.01/1e5)^(1/6).
    problem = ODEProblem(lambda t, y, c: 10 * y, torch.ones(1, 1, dtype=F64), 1.0, 0.0)
    t0, t1 = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    controller = PIDController(rtol=0.0, atol=1e-3)
    first = controller.initial_step(problem, Dopri5(), t0, t1, None)
    assert first.size.item() == pytest.approx((0.01 / 1e5) ** (1 / 6))
    assert first.nfe == 2
    coarse = controller.initial_step(problem, Euler(), t0, t1, torch.full((1, 1), 10.0, dtype=F64))
    assert coarse.size.item() == pytest.approx((0.01 / 1e5) ** (1 / 2))
    assert coarse.nfe == 1


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e30])
def test_the_first_step_is_finite_and_within_the_span_whatever_the_scale(scale):
    problem = ODEProblem(lambda t, y, c: scale * torch.ones_like(y), torch.zeros(1, 3), 0.0, 1e-3)
    first = PIDController().initial_step(problem, Dopri5(), torch.zeros(1), torch.full((1,), 1e-3), None)
    assert 0 < first.size.item() <= 1e-3
