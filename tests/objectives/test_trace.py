"""Trace estimators against Jacobians that are known."""

from __future__ import annotations

import math

import pytest
import torch

from isocline.objectives.trace import (
    ExactTrace,
    HutchinsonTrace,
    HutchPlusPlusTrace,
    gaussian,
    rademacher,
)

D = torch.float64


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(matrix: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points, and their images under x ↦ A x."""
    x = torch.randn(count, len(matrix), dtype=D, generator=draws(9)).requires_grad_()
    return x, x @ matrix.mT


MATRIX = torch.randn(5, 5, dtype=D, generator=draws(3))


def test_the_exact_trace_and_norm_are_those_of_autograds_jacobian() -> None:
    def field(x: torch.Tensor) -> torch.Tensor:
        return (x @ MATRIX.mT).sin() * x.square().sum(-1, keepdim=True)

    x = torch.randn(7, 5, dtype=D, generator=draws(1)).requires_grad_()
    found = ExactTrace().measure(field(x), x, ExactTrace().probe(x, None))
    jacobians = torch.stack([torch.autograd.functional.jacobian(field, row) for row in x.detach()])
    torch.testing.assert_close(found.trace, jacobians.diagonal(dim1=1, dim2=2).sum(1))
    torch.testing.assert_close(found.square, jacobians.square().sum((1, 2)))


@pytest.mark.parametrize(
    "trace",
    [
        HutchinsonTrace(),
        HutchinsonTrace(3),
        HutchinsonTrace(2, gaussian),
        HutchPlusPlusTrace(1, 1),
        HutchPlusPlusTrace(2, 3),
    ],
)
def test_estimates_of_trace_and_norm_are_unbiased(trace) -> None:
    x, slope = linear(MATRIX, 4000)
    found = trace.measure(slope, x, trace.probe(x, draws()))
    for estimate, exact in ((found.trace, MATRIX.trace()), (found.square, MATRIX.square().sum())):
        error = estimate.mean() - exact
        assert abs(error) <= 4 * estimate.std() / math.sqrt(len(estimate)) + 1e-12
        assert estimate.std() > 0.01


def test_hutchinsons_variance_is_the_one_of_the_docstring() -> None:
    symmetric = (MATRIX + MATRIX.mT) / 2
    off = symmetric.square().sum() - symmetric.diagonal().square().sum()
    for probes, law, size in ((1, rademacher, off), (4, rademacher, off), (2, gaussian, symmetric.square().sum())):
        trace = HutchinsonTrace(probes, law)
        x, slope = linear(MATRIX, 8000)
        variance = trace(slope, x, trace.probe(x, draws(probes))).var()
        assert float(variance / (2 * size / probes)) == pytest.approx(1.0, rel=0.1)


def test_hutch_plus_plus_is_exact_where_the_jacobians_rank_is_at_most_its_own() -> None:
    left, right = torch.randn(2, 5, 2, dtype=D, generator=draws(4)).unbind(0)
    low = left @ right.mT
    x, slope = linear(low, 20)
    exact = HutchPlusPlusTrace(rank=2)
    found = exact.measure(slope, x, exact.probe(x, draws()))
    torch.testing.assert_close(found.trace, low.trace().expand(20), atol=1e-10, rtol=0)
    short = HutchPlusPlusTrace(rank=1)
    assert short(slope, x, short.probe(x, draws())).std() > 1e-3


def test_hutch_plus_plus_spreads_less_than_hutchinson_at_equal_products_on_a_decaying_spectrum() -> None:
    basis = torch.linalg.qr(torch.randn(12, 12, dtype=D, generator=draws(5))).Q
    matrix = basis @ torch.diag(0.3 ** torch.arange(12, dtype=D)) @ basis.mT
    x, slope = linear(matrix, 2000)
    plain, better = HutchinsonTrace(5), HutchPlusPlusTrace(2, 1)
    assert plain.products(12) == better.products(12) == 5
    spreads = [trace(slope, x, trace.probe(x, draws())).std() for trace in (plain, better)]
    assert spreads[1] < 0.5 * spreads[0]


def test_the_gradient_of_an_estimate_is_unbiased() -> None:
    # tr ∂(tanh(W x))/∂x depends on W; its estimate's derivative is compared with the exact trace's.
    weight = (0.5 * MATRIX).requires_grad_()
    x = torch.randn(1, 5, dtype=D, generator=draws(6)).expand(3000, 5).clone().requires_grad_()

    def gradient(trace) -> torch.Tensor:
        found = trace.measure((x @ weight.mT).tanh(), x, trace.probe(x, draws(2)), create_graph=True)
        return torch.autograd.grad(found.trace.mean(), weight)[0]

    exact = gradient(ExactTrace())
    for trace in (HutchinsonTrace(), HutchPlusPlusTrace()):
        assert (gradient(trace) - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize(
    "make", [lambda: HutchinsonTrace(0), lambda: HutchPlusPlusTrace(0), lambda: HutchPlusPlusTrace(1, 0)]
)
def test_counts_below_one_are_refused(make) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make()


def test_a_rank_above_the_dimension_and_a_missing_generator_are_refused() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="3 dimensions"):
        HutchPlusPlusTrace(4).probe(x, draws())
    for trace in (HutchinsonTrace(), HutchPlusPlusTrace()):
        with pytest.raises(ValueError, match="generator"):
            trace.probe(x, None)


@pytest.mark.parametrize("trace", [ExactTrace(), HutchinsonTrace(2), HutchPlusPlusTrace()])
def test_a_slope_that_does_not_depend_on_the_state_has_no_divergence(trace) -> None:
    shift = torch.ones(5, dtype=D, requires_grad=True)
    x = torch.randn(7, 5, dtype=D, generator=draws(1)).requires_grad_()
    for slope in (shift.expand(7, 5), shift.detach().expand(7, 5)):
        found = trace.measure(slope, x, trace.probe(x, draws(2)), create_graph=True)
        assert not bool(found.trace.any())
        assert not bool(found.square.any())
