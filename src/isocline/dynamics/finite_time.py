"""Finite-time Lyapunov exponents: logarithms of the singular values of a flow map's derivative."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.system import check_states
from isocline.dynamics.variational import VariationalEquation
from isocline.solvers import ODEProblem, solve
from isocline.solvers.controller import AbstractController
from isocline.solvers.problem import VectorField
from isocline.solvers.stepper import AbstractStepper

__all__ = ["FiniteTimeExponents", "finite_time_exponents"]

_WHOLE = 32
_SPARE = 4


@dataclass(frozen=True)
class FiniteTimeExponents:
    """The k strongest stretchings of the flow map over a span.

    Attributes:
        exponents: ``ln σ_j / |t1 - t0|``, falling, float64, shape (B, k); NaN where the trajectory failed.
        residuals: ``|ΦᵀΦ v - σ² v| / (2 σ² |t1 - t0|)``, likewise: to first order a bound of the exponent's error by
            the iteration; 0 where Φ was computed as a whole.
        directions: unit vectors v at the start that are stretched so, shape (B, k, n).
        states: where the trajectories ended, shape (B, *event).
    """

    exponents: Tensor
    residuals: Tensor
    directions: Tensor
    states: Tensor


def finite_time_exponents(
    field: VectorField,
    starts: Tensor,
    t0: float,
    t1: float,
    generator: torch.Generator,
    *,
    count: int | None = None,
    rounds: int = 4,
    cond: Any = None,
    stepper: AbstractStepper | None = None,
    controller: AbstractController | None = None,
) -> FiniteTimeExponents:
    """Exponents over ``[t0, t1]`` from the start.

    Up to n = 32 all of Φ is integrated by the variational equation. Beyond, ΦᵀΦ is applied to a block of k + 4
    vectors, Φ by the variational equation and Φᵀ by backpropagation through the steps, ``rounds`` times. Stretchings
    weaker than the strongest by more than the tolerance (or rounding) are lost in it.

    Source: Haller, A variational theory of hyperbolic Lagrangian coherent structures (2011), section 2; Halko,
    Martinsson, Tropp, Finding structure with randomness (2011), Algorithm 4.4.

    Args:
        field: ``f(t, x, cond)``, differentiable; samples must not see one another.
        starts: shape (B, *event), n numbers each.
        t0: start.
        t1: end, either direction.
        generator: of the block's start, on the CPU.
        count: k; None takes all n, up to n = 32.
        rounds: of the block iteration.
        cond: handed to the field.
        stepper: `isocline.solvers.Tsit5` by default.
        controller: ``PIDController(rtol=1e-6, atol=1e-8)`` by default.

    Raises:
        TypeError, ValueError: if the starts are no batch of finite states, k is not in 1..n (or not given, for n
            above 32), the span is empty, or ``rounds`` is below one.
    """
    count = _checked(starts, t0, t1, count, rounds)
    equation = VariationalEquation(field, starts.shape[1:], cond, stepper, controller)
    if starts[0].numel() <= _WHOLE:
        found = _whole(equation, starts, t0, t1)
    else:
        found = _leading(equation, starts, t0, t1, generator, count, rounds)
    return _exponents(found, count, abs(t1 - t0))


class _Pushed(NamedTuple):
    """Vectors taken through the flow.

    Attributes:
        frame: orthonormal vectors v at the start, shape (B, m, n).
        pushed: ``Φ v``, likewise.
        back: ``ΦᵀΦ v``, likewise; None where the frame spans everything.
        states: where the trajectories ended, shape (B, *event).
    """

    frame: Tensor
    pushed: Tensor
    back: Tensor | None
    states: Tensor


def _checked(starts: Tensor, t0: float, t1: float, count: int | None, rounds: int) -> int:
    """How many exponents are wanted; raises as the caller says."""
    check_states(starts, "starts")
    size = starts[0].numel()
    if count is None and size > _WHOLE:
        raise ValueError(f"states have {size} components; say how many exponents are wanted: count=3")
    count = size if count is None else count
    if not 1 <= count <= size:
        raise ValueError(f"count={count} exponents of states with {size} components; expected 1 to {size}")
    if not 0 < abs(t1 - t0) < float("inf") or rounds < 1:
        raise ValueError(f"t0={t0}, t1={t1}, rounds={rounds}; expected two different times and at least one round")
    return count


def _whole(equation: VariationalEquation, starts: Tensor, t0: float, t1: float) -> _Pushed:
    """All of Φ."""
    size = starts[0].numel()
    frame = torch.eye(size, dtype=starts.dtype, device=starts.device).expand(len(starts), size, size)
    solution = equation.solve(starts, frame, t0, t1)
    return _Pushed(frame, equation.tangents(solution), None, equation.states(solution))


def _leading(
    equation: VariationalEquation,
    starts: Tensor,
    t0: float,
    t1: float,
    generator: torch.Generator,
    count: int,
    rounds: int,
) -> _Pushed:
    """Φ on the block that the iteration by ΦᵀΦ leads to."""
    size = starts[0].numel()
    block = min(size, count + _SPARE)
    draw = torch.randn(size, block, generator=generator, dtype=torch.float64)
    back = torch.linalg.qr(draw)[0].T.to(starts).expand(len(starts), block, size)
    for _ in range(rounds):
        frame = torch.linalg.qr(_safe(back).mT)[0].mT.to(starts.dtype)
        solution = equation.solve(starts, frame, t0, t1)
        pushed, states = equation.tangents(solution), equation.states(solution)
        back = _pull(equation, starts, pushed, t0, t1)
    return _Pushed(frame, pushed, back, states)


def _pull(equation: VariationalEquation, starts: Tensor, vectors: Tensor, t0: float, t1: float) -> Tensor:
    """``Φᵀ`` of every vector (B, k, n), by one solve and k backward passes."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = starts.detach().clone().requires_grad_()
        problem = ODEProblem(equation.field, leaf, t0, t1, equation.cond)
        end = solve(problem, equation.stepper, equation.controller).final.flatten(1)
        pulled = [torch.autograd.grad(end, leaf, one, retain_graph=True)[0].flatten(1) for one in vectors.unbind(1)]
    return torch.stack(pulled, 1)


def _safe(vectors: Tensor) -> Tensor:
    """float64, rows of samples that are not finite replaced by ones, so that LAPACK does not see them."""
    finite = vectors.flatten(1).isfinite().all(1)
    return torch.where(finite[:, None, None], vectors.double(), 1.0)


def _exponents(found: _Pushed, count: int, span: float) -> FiniteTimeExponents:
    """Rayleigh and Ritz's: singular values of Φ on the span of the frame."""
    frame, pushed, back, states = found
    failed = ~pushed.flatten(1).isfinite().all(1)
    weights, values, _ = torch.linalg.svd(_safe(pushed), full_matrices=False)
    weights, values = weights[..., :count], values[:, :count]
    directions = weights.mT @ frame.double()
    exponents = values.log() / span
    residuals = torch.zeros_like(exponents)
    if back is not None:
        squares = values.square()
        error = weights.mT @ _safe(back) - squares[..., None] * directions
        residuals = torch.linalg.vector_norm(error, dim=2) / (2 * squares * span)
    exponents = torch.where(failed[:, None], torch.nan, exponents)
    residuals = torch.where(failed[:, None], torch.nan, residuals)
    return FiniteTimeExponents(exponents, residuals, directions.to(frame.dtype), states)
