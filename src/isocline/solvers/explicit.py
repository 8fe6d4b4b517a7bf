"""Explicit Runge–Kutta steppers: each is a tableau."""

from __future__ import annotations

import copy
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd import forward_ad

from isocline.shapes import expand_like
from isocline.solvers import tableau
from isocline.solvers.dense import AbstractInterpolant, HermiteInterpolant, StageInterpolant
from isocline.solvers.kept import kept, ones
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult
from isocline.solvers.tableau import Tableau

__all__ = [
    "RK4",
    "RK38",
    "AbstractRungeKutta",
    "Bosh3",
    "Dopri5",
    "Dopri8",
    "Euler",
    "Fehlberg2",
    "Heun",
    "Heun3",
    "Midpoint",
    "Ralston",
    "Tsit5",
]

_GEMV_TYPES = frozenset({torch.float32, torch.float64, torch.complex64, torch.complex128})
_SHORT = 16


class AbstractRungeKutta(AbstractStepper):
    """One step of an explicit Runge–Kutta method (formula at `isocline.solvers.tableau.Tableau`).

    Where no derivative is recorded, the scaled slopes ``h k_i`` are the rows of one matrix and each stage is one
    product of matrix and vector; otherwise, and in compiled code, sums are written out term by term. The result of a
    sample does not depend on the batch it is computed in either way.
    """

    tableau: ClassVar[Tableau]
    _kept: list[_Slopes] | None = None

    def __init_subclass__(cls) -> None:
        """Derive the counts from the tableau."""
        table = cls.tableau
        cls.order = table.order
        cls.error_order = table.error_order
        cls.init_nfe = int(table.first_same_as_last)
        cls.nfe_per_step = len(table.b) - cls.init_nfe

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Tensor | None:
        """The slope at the start for methods whose last stage is the next step's first; otherwise None."""
        return problem.evaluate(t0, y0) if self.tableau.first_same_as_last else None

    def initial_slope(self, carry: Tensor | None) -> Tensor | None:
        """The carry."""
        return carry

    def for_one_solve(self) -> Self:
        """A copy that keeps the matrix of slopes and its views."""
        own = copy.copy(self)
        own._kept = []
        return own

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Tensor | None) -> StepResult:
        """Advance by one step; see the base class."""
        if _may_overwrite(y0):
            return self._step_in_place(problem, t0, t1, y0, carry)
        table, dt = self.tableau, t1 - t0
        h = expand_like(dt, y0).to(y0.dtype)
        stages = [problem.evaluate(t0, y0) if carry is None else carry]
        point = y0
        for node, row in zip(table.c[1:], table.a[1:], strict=True):
            point = torch.addcmul(y0, h, _weighted(row, stages))
            time = t1 if node == 1 else torch.add(t0, dt, alpha=node)
            stages.append(problem.evaluate(time, point))
        same = table.first_same_as_last
        y1 = point if same else torch.addcmul(y0, h, _weighted(table.b, stages))
        error = None
        if table.error is not None:
            # Step sizes are constants to the gradient, so that nothing is recorded of what they come from.
            with torch.no_grad():
                slopes = [stage.detach() for stage in stages]
                error = h * _weighted(table.error, slopes)
                if table.second_error is not None:
                    error = _combine(error, h * _weighted(table.second_error, slopes))
        dense = self._dense(problem, t0, t1, y0, y1, tuple(stages), h)
        return StepResult(y1, error, stages[-1] if same else None, self.nfe_per_step, dense)

    def _step_in_place(
        self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Tensor | None
    ) -> StepResult:
        table, dt, slopes = self.tableau, t1 - t0, self._slopes(y0)
        weights, scaled, columns = slopes
        nodes = weights.nodes if dt.ndim == 0 else weights.node_column
        inner = iter(torch.addcmul(t0, nodes, dt).unbind(0))
        h = _lengths(dt, y0)
        start, multiply, addmv = y0.view(-1), torch.mul, torch.addmv
        point, slope = y0, problem.evaluate(t0, y0) if carry is None else carry
        multiply(slope, h, out=scaled[0])
        for index, row in enumerate(weights.a, 1):
            only = weights.single[index - 1]
            if only is None:
                point = addmv(start, columns[index - 1], row).view_as(y0)
            else:
                point = torch.add(y0, scaled[only[0]], alpha=only[1])
            slope = problem.evaluate(t1 if table.c[index] == 1 else next(inner), point)
            multiply(slope, h, out=scaled[index])
        same = table.first_same_as_last
        y1 = point if same else addmv(start, columns[-1], weights.b).view_as(y0)
        error = None
        if weights.error is not None:
            error = torch.mv(columns[-1], weights.error).view_as(y0)
            if weights.second_error is not None:
                error = _combine(error, torch.mv(columns[-1], weights.second_error).view_as(y0))
        dense = self._dense(problem, t0, t1, y0, y1, scaled, h, is_scaled=True)
        return StepResult(y1, error, slope if same else None, self.nfe_per_step, dense)

    def _slopes(self, y0: Tensor) -> _Slopes:
        kept = self._kept
        if kept and kept[0].fits(y0):
            return kept[0]
        made = _Slopes.make(self.tableau, y0)
        if kept is not None:
            kept[:] = [made]
        return made

    def _dense(
        self,
        problem: AbstractProblem,
        t0: Tensor,
        t1: Tensor,
        y0: Tensor,
        y1: Tensor,
        stages: tuple[Tensor, ...],
        h: Tensor,
        is_scaled: bool = False,
    ) -> AbstractInterpolant:
        if self.tableau.dense is None:
            return HermiteInterpolant(problem, t1, y0, y1, h, stages[0], is_scaled)
        return StageInterpolant(self.tableau, problem, t0, t1, y0, h, stages, is_scaled)


class Euler(AbstractRungeKutta):
    """Forward Euler, order 1."""

    tableau = tableau.EULER


class Midpoint(AbstractRungeKutta):
    """Explicit midpoint rule, order 2, with Euler's step as error estimate."""

    tableau = tableau.MIDPOINT


class Heun(AbstractRungeKutta):
    """Explicit trapezoidal rule, order 2, with Euler's step as error estimate."""

    tableau = tableau.HEUN


class Ralston(AbstractRungeKutta):
    """Second-order method of smallest error bound (Ralston, 1962), with Euler's step as error estimate."""

    tableau = tableau.RALSTON


class Fehlberg2(AbstractRungeKutta):
    """Fehlberg's 2(1) pair (1969)."""

    tableau = tableau.FEHLBERG2


class Heun3(AbstractRungeKutta):
    """Heun's method of order 3 (1900); no error estimate."""

    tableau = tableau.HEUN3


class RK4(AbstractRungeKutta):
    """The classical method of order 4 (Kutta, 1901); no error estimate."""

    tableau = tableau.RK4


class RK38(AbstractRungeKutta):
    """The 3/8 rule of order 4 (Kutta, 1901); no error estimate."""

    tableau = tableau.RK38


class Bosh3(AbstractRungeKutta):
    """Bogacki and Shampine's 3(2) pair (1989); dense output of order 3."""

    tableau = tableau.BOSH3


class Dopri5(AbstractRungeKutta):
    """Dormand and Prince's 5(4) pair (1980); dense output of order 4."""

    tableau = tableau.DOPRI5


class Tsit5(AbstractRungeKutta):
    """Tsitouras' 5(4) pair (2011), usually the best explicit choice; dense output of order 4."""

    tableau = tableau.TSIT5


class Dopri8(AbstractRungeKutta):
    """Dormand and Prince's 8(5, 3) pair (DOP853), for tight tolerances; dense output of order 7 by three calls."""

    tableau = tableau.DOPRI8


class _Weights(NamedTuple):
    """A tableau as tensors: rows of a from the second on, and the nodes strictly between 0 and 1 in order.

    Rows of a with one weight only are in ``single`` as its place and value: they need no product of matrix and vector.
    """

    a: tuple[Tensor, ...]
    single: tuple[tuple[int, float] | None, ...]
    b: Tensor
    error: Tensor | None
    second_error: Tensor | None
    nodes: Tensor
    node_column: Tensor


class _Slopes(NamedTuple):
    """Room for the scaled slopes ``h k_i`` of a step, with the weights of their sums.

    Attributes:
        weights: of the tableau.
        scaled: the slopes, each of the state's shape: rows of one matrix.
        columns: the first 1, 2, … of them as columns of a matrix.
    """

    weights: _Weights
    scaled: tuple[Tensor, ...]
    columns: tuple[Tensor, ...]

    @classmethod
    def make(cls, table: Tableau, y0: Tensor) -> _Slopes:
        """Room for states like ``y0``."""
        stages, size = len(table.b), y0.numel()
        matrix = y0.new_empty((stages, *y0.shape))
        columns = tuple(matrix.as_strided((size, count), (1, size)) for count in range(1, stages + 1))
        return cls(_weights(table, y0.dtype, y0.device), matrix.unbind(0), columns)

    def fits(self, y0: Tensor) -> bool:
        """Whether states like ``y0`` go in."""
        first = self.scaled[0]
        return first.shape == y0.shape and first.dtype == y0.dtype and first.device == y0.device


@kept(maxsize=256)
def _weights(table: Tableau, dtype: torch.dtype, device: torch.device) -> _Weights:
    def vector(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    nodes = torch.tensor([node for node in table.c[1:] if node != 1], dtype=torch.float64, device=device)
    return _Weights(
        tuple(vector(row) for row in table.a[1:]),
        tuple(_single(row) for row in table.a[1:]),
        vector(table.b),
        None if table.error is None else vector(table.error),
        None if table.second_error is None else vector(table.second_error),
        nodes,
        nodes[:, None],
    )


def _single(row: tuple[float, ...]) -> tuple[int, float] | None:
    places = [place for place, weight in enumerate(row) if weight != 0]
    return (places[0], row[places[0]]) if len(places) == 1 else None


def _lengths(dt: Tensor, y0: Tensor) -> Tensor:
    """Steps as factors of slopes; written out where rows are so short that broadcasting costs more than memory."""
    if dt.ndim == 0 or len(dt) == 1:
        return dt.to(y0.dtype) if dt.ndim else dt
    if y0.ndim == 2 and y0.shape[1] <= _SHORT:
        return torch.outer(dt.to(y0.dtype), ones(y0.shape[1], y0.dtype, y0.device))
    h = expand_like(dt, y0)
    return torch.empty_like(y0).copy_(h) if y0.numel() <= _SHORT * len(dt) else h.to(y0.dtype)


def _may_overwrite(y0: Tensor) -> bool:
    """Whether plain eager arithmetic is asked for: nothing is recorded, traced or differentiated forward."""
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and forward_ad._current_level < 0
        and y0.dtype in _GEMV_TYPES
        and y0.is_contiguous()
        and not torch._C._functorch.is_functorch_wrapped_tensor(y0)
    )


def _weighted(weights: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    total: Tensor | None = None
    for weight, stage in zip(weights, stages, strict=True):
        if weight == 0:
            continue
        if total is not None:
            total = torch.add(total, stage, alpha=weight)
            continue
        total = stage if weight == 1 else stage * weight
    assert total is not None
    return total


def _combine(error: Tensor, second: Tensor) -> Tensor:
    """``e ‖e‖ / sqrt(‖e‖² + 0.01 ‖e'‖²)`` with norms per sample: Hairer, Nørsett, Wanner I, II.10, Eq. 10.17."""
    first, other = (torch.linalg.vector_norm(each.reshape(len(each), -1), dim=1) for each in (error, second))
    total = torch.hypot(first, 0.1 * other)
    share = torch.where(total == 0, 0.0, first / total)
    return error * expand_like(share, error)
