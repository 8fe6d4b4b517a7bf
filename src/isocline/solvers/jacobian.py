"""Jacobians of a vector field, one for each sample, exact unless the field cannot be differentiated.

A field of real states with D components per sample has Jacobians of shape (B, D, D). A complex state counts as 2 D real
components, real and imaginary parts in turn, so that fields that are not holomorphic have a Jacobian too; N stands for
the number of real components.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

import isocline.solvers.dual_rules  # noqa: F401 - fills in the rules of Dual
from isocline.shapes import expand_like
from isocline.solvers.dual import Dual
from isocline.solvers.kept import kept
from isocline.solvers.problem import AbstractProblem, ODEProblem
from isocline.solvers.rows import select_rows

__all__ = ["Derivative", "Linearization", "Linearizer", "RealRows"]


class Derivative(enum.Enum):
    """How the derivatives of a field are found.

    DUAL evaluates the field once on dual numbers with one direction per component: exact, three to four evaluations'
    time for small states, memory for D states' worth of whatever the field computes. REVERSE backpropagates each
    component: exact, for fields with an operation that has no dual rule. DIFFERENCES takes central differences,
    relative error about 1e-10 in float64 and 1e-4 in float32: for fields that leave PyTorch or cut the graph. GIVEN
    asks the problem's ``jac``. In compiled steps DUAL means row by row in reverse: a compiler merges what they share.
    """

    DUAL = "dual"
    REVERSE = "reverse"
    DIFFERENCES = "differences"
    GIVEN = "given"


class Linearization(NamedTuple):
    """A field and its derivatives at one point, in real components.

    Attributes:
        value: ``f(t, y)``, shape (B, N).
        jacobian: ``∂f/∂y``, shape (B, N, N).
        rate: ``∂f/∂t``, shape (B, N); None if it was not asked for or is zero for all t.
        nfe: evaluations made for each sample.
    """

    value: Tensor
    jacobian: Tensor
    rate: Tensor | None
    nfe: int


class RealRows:
    """States of shape (B, *event) as rows of N real numbers, and back."""

    __slots__ = ("_event", "_is_complex", "width")

    def __init__(self, like: Tensor) -> None:
        """Take the shape of the states from one batch of them."""
        self._event, self._is_complex = like.shape[1:], like.is_complex()
        self.width = self._event.numel() * (2 if self._is_complex else 1)

    def flatten(self, y: Tensor) -> Tensor:
        """(n, *event) to (n, N)."""
        if self._is_complex:
            y = torch.view_as_real(y.resolve_conj())
        elif len(self._event) == 1:
            return y
        return y.reshape(len(y), self.width)

    def components(self, values: Tensor) -> Tensor:
        """One value per element of an event, to be broadcast, as one per real component, shape (N,)."""
        spread = values.expand(self._event)
        if self._is_complex:
            spread = spread[..., None].expand(*self._event, 2)
        return spread.reshape(self.width)

    def restore(self, rows: Tensor) -> Tensor:
        """(n, N) to (n, *event)."""
        if self._is_complex:
            return torch.view_as_complex(rows.reshape(-1, *self._event, 2))
        return rows if len(self._event) == 1 else rows.reshape(-1, *self._event)


@dataclass(frozen=True)
class Linearizer:
    """Differentiates one field in the way that was chosen for it; part of a stepper's carry.

    Attributes:
        derivative: how derivatives are found.
        autonomous: whether the field makes no use of t.
        recorded: whether REVERSE records what it does though the state requires no grad, because there are tensors
            behind the field that do, or may.
    """

    derivative: Derivative
    autonomous: bool = False
    recorded: bool = False

    @classmethod
    def probe(
        cls, problem: AbstractProblem, t: Tensor, y: Tensor, derivative: Derivative | None = None, rate: bool = True
    ) -> tuple[Linearizer, Tensor]:
        """Find out what a field supports, with one evaluation, two if ``rate`` is wanted.

        Args:
            problem: the equation.
            t: shape () or (B,).
            y: shape (B, *event).
            derivative: the way to take; None takes the problem's ``jac`` or, without one, the first of DUAL, REVERSE
                and DIFFERENCES that works.
            rate: whether ``∂f/∂t`` will be asked for.

        Returns:
            the linearizer and the slope ``f(t, y)``, shape (B, *event).
        """
        autonomous = rate and _is_autonomous(problem, t, y)
        if derivative is not None or getattr(problem, "jac", None) is not None:
            return cls(derivative or Derivative.GIVEN, autonomous, recorded=True), problem.evaluate(t, y)
        try:
            slope = _evaluate(problem, t, Dual(y, torch.zeros_like(y)[None]))
        # Whatever goes wrong on dual numbers is looked at again without: a mistake of the field raises there too.
        except Exception:
            return _probe_graph(problem, t, y, autonomous)
        return cls(Derivative.DUAL, autonomous), _primal(slope)

    def evaluate(
        self, problem: AbstractProblem, t: Tensor, y: Tensor, rows: RealRows, h: Tensor | None = None
    ) -> Linearization:
        """Field, Jacobian and, if ``h`` is given and the field depends on t, the derivative in time.

        Differentiable where gradients are recorded, except by DIFFERENCES, to which derivatives are constants.

        Args:
            problem: the equation.
            t: shape () or (B,).
            y: shape (B, *event).
            rows: layout of the states.
            h: length of the step, signed, shape () or (B,): a scale for differences in time.

        Raises:
            ValueError: if the problem's ``jac`` has the wrong shape.
        """
        if self.autonomous:
            h = None
        if self.derivative is Derivative.REVERSE:
            # Recorded for the sake of what is behind it, not of the leaves that are made here.
            behind = self.recorded or y.requires_grad or t.requires_grad
            return _by_backpropagation(problem, t, y, rows, h, torch.is_grad_enabled() and behind)
        return _METHODS[self.derivative](problem, t, y, rows, h)

    def push(self, problem: AbstractProblem, t: Tensor, y: Tensor, rows: RealRows, direction: Tensor) -> Tensor:
        """``∂f/∂y`` times a direction, shape (B, N), by one evaluation on dual numbers."""
        slope = _evaluate(problem, t, Dual(y, rows.restore(direction)[None]))
        return rows.flatten(slope.tangent[0]) if isinstance(slope, Dual) else torch.zeros_like(direction)


def _evaluate(problem: AbstractProblem, t: Any, y: Any) -> Any:
    return problem.evaluate(t, y)


def _primal(value: Any) -> Tensor:
    return cast(Tensor, value.primal if isinstance(value, Dual) else value)


def _is_autonomous(problem: AbstractProblem, t: Tensor, y: Tensor) -> bool:
    """Whether nothing of t reaches the slope."""
    try:
        with torch.no_grad():
            return not isinstance(_evaluate(problem, Dual(t, torch.ones_like(t)[None]), y), Dual)
    except Exception:
        return False


def _probe_graph(problem: AbstractProblem, t: Tensor, y: Tensor, autonomous: bool) -> tuple[Linearizer, Tensor]:
    with torch.enable_grad():
        leaf = y if torch.is_grad_enabled() and y.requires_grad else y.detach().requires_grad_()
        slope = problem.evaluate(t, leaf)
    derivative, others = Derivative.DIFFERENCES, slope.requires_grad and _has_leaves(slope, leaf)
    if slope.requires_grad:
        try:
            torch.autograd.grad(slope, leaf, torch.zeros_like(slope), retain_graph=True)
            derivative = Derivative.REVERSE
        except (RuntimeError, NotImplementedError):
            pass
    is_wanted = torch.is_grad_enabled() and (others or y.requires_grad)
    return Linearizer(derivative, autonomous, others), slope if is_wanted else slope.detach()


def _has_leaves(value: Tensor, but: Tensor) -> bool:
    """Whether a tensor was computed from leaves that require grad, one aside."""
    seen, pending = set(), [value.grad_fn]
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", but) is not but:
            return True
        pending.extend(following for following, _ in node.next_functions)
    return False


def _by_duals(problem: AbstractProblem, t: Tensor, y: Tensor, rows: RealRows, h: Tensor | None) -> Linearization:
    if torch.compiler.is_compiling():
        return _by_pulling(problem, t, y, rows, h)
    count, width = len(y), rows.width
    directions = width + (h is not None)
    real = y.real.dtype if y.is_complex() else y.dtype
    tangent = _directions(directions, width, real, y.device).expand(-1, count, -1)
    if y.is_complex() or y.ndim > 2:
        tangent = rows.restore(tangent.reshape(-1, width)).reshape(directions, *y.shape)
    time: Any = t
    if h is not None:
        last = torch.zeros(directions, dtype=t.dtype, device=t.device)
        last[-1] = 1
        time = Dual(t, last.reshape(-1, *[1] * t.ndim).expand(directions, *t.shape))
    slope = _evaluate(problem, time, Dual(y, tangent))
    value = rows.flatten(_primal(slope))
    if not isinstance(slope, Dual):
        zero = value.new_zeros(count, width, width)
        return Linearization(value, zero, None, 1)
    found = slope.tangent
    if found.is_complex():
        found = torch.view_as_real(found.resolve_conj())
    if found.ndim > 3:
        found = found.reshape(directions, count, width)
    # Laid out by columns, as a factorization wants it.
    jacobian = found[:width].permute(1, 2, 0)
    return Linearization(value, jacobian, None if h is None else found[width], 1)


def _by_pulling(problem: AbstractProblem, t: Tensor, y: Tensor, rows: RealRows, h: Tensor | None) -> Linearization:
    """Row by row in reverse, for a compiler: it cannot trace dual numbers, and merges what the rows share."""
    point, count = rows.flatten(y), len(y)

    def field(row: Tensor, time: Tensor) -> Tensor:
        return rows.flatten(problem.evaluate(time, rows.restore(row)))

    value, pull, *_ = torch.func.vjp(field, point, t.expand(count))
    eye = torch.eye(rows.width, dtype=point.dtype, device=point.device)
    found = [pull(row.expand(count, -1)) for row in eye.unbind(0)]
    jacobian = torch.stack([by_state for by_state, _ in found], 1)
    rate = None if h is None else torch.stack([by_time for _, by_time in found], 1).to(point.dtype)
    return Linearization(value, jacobian, rate, 1)


@kept(maxsize=64)
def _directions(count: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Unit vectors and, where ``count`` is larger, zeros: shape (count, 1, width)."""
    return torch.eye(count, width, dtype=dtype, device=device)[:, None]


def _by_backpropagation(
    problem: AbstractProblem, t: Tensor, y: Tensor, rows: RealRows, h: Tensor | None, recorded: bool
) -> Linearization:
    count, width = len(y), rows.width
    repeats = width if problem.separable and isinstance(problem, ODEProblem) else 1
    with torch.enable_grad():
        leaf = rows.flatten(y).repeat(repeats, 1)
        if not (recorded and leaf.requires_grad):
            leaf = leaf.detach().requires_grad_()
        time = t if h is None else t.detach().expand(count).repeat(repeats).requires_grad_()
        slope = rows.flatten(_repeat(problem, leaf, t, repeats)(time, rows.restore(leaf)))
        sources = (leaf,) if h is None else (leaf, time)
        eye = torch.eye(width, dtype=slope.dtype, device=slope.device)
        if repeats > 1:
            seed = eye[:, None].expand(width, count, width).reshape(-1, width)
            parts = [torch.autograd.grad(slope, sources, seed, create_graph=recorded, materialize_grads=True)]
        else:
            parts = [
                torch.autograd.grad(
                    slope, sources, row.expand_as(slope), True, create_graph=recorded, materialize_grads=True
                )
                for row in eye
            ]
    jacobian = torch.cat([part[0] for part in parts]).reshape(width, count, width).transpose(0, 1)
    rate = None if h is None else torch.cat([part[1] for part in parts]).reshape(width, count).T.to(jacobian.dtype)
    value = slope[:count]
    return Linearization(value if recorded else value.detach(), jacobian, rate, repeats)


def _by_differences(problem: AbstractProblem, t: Tensor, y: Tensor, rows: RealRows, h: Tensor | None) -> Linearization:
    value = rows.flatten(problem.evaluate(t, y))
    with torch.no_grad():
        point, count, width = rows.flatten(y.detach()), len(y), rows.width
        size = point.abs()
        size = size + 1e-3 * size.amax(1, keepdim=True)
        size = torch.where(size > 0, size, 1.0) * torch.finfo(point.dtype).eps ** (1 / 3)
        # A difference of neighbours that are representable.
        size = (point + size) - point
        shift = torch.diag_embed(size).transpose(0, 1)
        shifted = torch.cat([point + shift, point - shift])
        together = problem.separable and isinstance(problem, ODEProblem)
        blocks = [shifted.reshape(-1, width)] if together else list(shifted)
        repeats = 2 * width if together else 1
        field = _repeat(problem, blocks[0], t, repeats)
        times = t.repeat(repeats) if t.ndim else t
        slopes = torch.cat([rows.flatten(field(times, rows.restore(block))) for block in blocks])
        ahead, behind = slopes.reshape(2, width, count, width).unbind(0)
        jacobian = ((ahead - behind) / (2 * size.T[..., None])).permute(1, 2, 0)
        rate = None if h is None else _rate_by_differences(problem, t, y, rows, h, value.detach())
    return Linearization(value, jacobian, rate, 2 * width + (1 if h is None else 3))


def _rate_by_differences(
    problem: AbstractProblem, t: Tensor, y: Tensor, rows: RealRows, h: Tensor, value: Tensor
) -> Tensor:
    """One-sided and of order two, so that the field is asked for times within the step only."""
    delta = 1e-3 * h
    near, far = (rows.flatten(problem.evaluate(t + times * delta, y)) for times in (1, 2))
    scale = expand_like(torch.where(delta == 0, 1.0, 2 * delta), value).to(value.dtype)
    return (4 * (near - value) - (far - value)) / scale


def _as_given(problem: AbstractProblem, t: Tensor, y: Tensor, rows: RealRows, h: Tensor | None) -> Linearization:
    assert isinstance(problem, ODEProblem)
    assert problem.jac is not None
    jacobian, count, width = problem.jac(t, y, problem.cond), len(y), rows.width
    if jacobian.is_complex():
        parts = torch.view_as_real(torch.stack([jacobian, 1j * jacobian], -1))
        jacobian = parts.permute(0, 1, 4, 2, 3).reshape(count, 2 * jacobian.shape[1], 2 * jacobian.shape[2])
    if jacobian.shape != (count, width, width):
        raise ValueError(f"jac returned shape {tuple(jacobian.shape)}; expected {(count, width, width)}: (B, D, D)")
    value = rows.flatten(problem.evaluate(t, y))
    rate = None if h is None else _rate_by_differences(problem, t, y, rows, h, value)
    return Linearization(value, jacobian, rate, 1 if h is None else 3)


def _repeat(problem: AbstractProblem, like: Tensor, t: Tensor, repeats: int) -> Any:
    """The field for a batch repeated as a whole."""
    if repeats == 1:
        return problem.evaluate
    assert isinstance(problem, ODEProblem)
    count = len(like) // repeats
    cond = select_rows(problem.cond, torch.arange(count, device=like.device).repeat(repeats))
    return lambda time, point: problem.field(
        time if time.ndim == 0 or len(time) != count else time.repeat(repeats), point, cond
    )


_METHODS = {
    Derivative.DUAL: _by_duals,
    Derivative.DIFFERENCES: _by_differences,
    Derivative.GIVEN: _as_given,
}
