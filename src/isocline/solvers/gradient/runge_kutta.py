"""Pulling cotangents back through an explicit Runge–Kutta step, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.explicit import AbstractRungeKutta
from isocline.solvers.gradient.pull import AbstractPull, GraphPull, Pulled, Repeat, Total
from isocline.solvers.kept import kept
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.tableau import Tableau

__all__ = ["RungeKuttaPull", "pull_of"]

_PRODUCT_TYPES = frozenset({torch.float32, torch.float64, torch.complex64, torch.complex128})


def pull_of(stepper: AbstractStepper) -> AbstractPull:
    """The fastest way back through steps of a stepper."""
    if isinstance(stepper, AbstractRungeKutta) and type(stepper).step is AbstractRungeKutta.step:
        return RungeKuttaPull(stepper)
    return GraphPull(stepper)


class RungeKuttaPull(AbstractPull):
    """The discrete adjoint of an explicit Runge–Kutta method.

    With stage points ``x_i = y0 + h Σ_j a_ij k_j``, slopes ``k_i = f(t_i, x_i)`` and the end as the last point, going
    backward through the stages ``k̄_i = h Σ_{j>i} a_ji x̄_j`` and ``x̄_i = (∂f/∂x)ᵀ k̄_i``, and ``ȳ0 = Σ_i x̄_i``. Every
    slope is evaluated once, with a graph of that one call; arithmetic between the stages leaves no graph.

    Source: Sandu, On the properties of Runge–Kutta discrete adjoints (2006), Eq. 7; Hager, Runge–Kutta methods in
    optimal control and the transformed adjoint system (2000).
    """

    def __init__(self, stepper: AbstractRungeKutta) -> None:
        self._table, self._graph = stepper.tableau, GraphPull(stepper)
        self._room: _Room | None = None

    def pull(self, repeat: Repeat, parameters: Sequence[Tensor], total: Total) -> Pulled:
        """See the base class."""
        table, y0 = self._table, repeat.y0
        lacks_dense = bool(repeat.inner) and (table.dense is None or bool(table.extra_c))
        if lacks_dense or y0.dtype not in _PRODUCT_TYPES:
            return self._graph.pull(repeat, parameters, total)
        if self._room is None or not self._room.fits(y0):
            self._room = _Room(table, y0)
        stages = _Stages(table, repeat, tuple(parameters), total, self._room)
        stages.evaluate()
        return stages.pull()


class _Room:
    """Memory for the stages of steps of one shape, and the views of it that are needed over and over.

    Attributes:
        scaled: slopes times the step.
        before: for every stage the slopes before it, as columns.
        bars: cotangents of the points.
        after: for every stage the cotangents of the points after it, as columns.
        all_bars: all of them.
    """

    def __init__(self, table: Tableau, y0: Tensor) -> None:
        self._like, size = y0.detach(), y0.numel()
        stages = len(table.b)
        points = stages + (not table.first_same_as_last)
        matrix = y0.new_empty((stages, *y0.shape))
        self.scaled = matrix.unbind(0)
        self.before = [matrix.as_strided((size, index), (1, size)) for index in range(stages)]
        self.all_bars = y0.new_empty((points, *y0.shape))
        self.bars = self.all_bars.unbind(0)
        self.after = [
            self.all_bars.as_strided((size, points - index - 1), (1, size), (index + 1) * size)
            for index in range(stages)
        ]

    def fits(self, y0: Tensor) -> bool:
        """Whether it can be used again."""
        like = self._like
        return like.shape == y0.shape and like.dtype == y0.dtype and like.device == y0.device


class _Stages:
    """The stages of one step."""

    def __init__(
        self, table: Tableau, repeat: Repeat, parameters: tuple[Tensor, ...], total: Total, room: _Room
    ) -> None:
        self._table, self._repeat, self._total, self._room = table, repeat, total, room
        y0 = repeat.y0.contiguous()
        self._y0 = y0
        self._weights = _weights(table, y0.dtype, y0.device)
        self._h = expand_like(repeat.t1 - repeat.t0, y0).to(y0.dtype)
        self._reuses = table.first_same_as_last and repeat.carry is not None
        self._carry_end = repeat.carry_end[0] if repeat.carry_end and table.first_same_as_last else None
        self._direct = self._from_inner()
        needs_all = self._direct is not None or self._carry_end is not None
        self._count = len(table.b) if needs_all else self._weights.last + 1
        self._inputs = (*repeat.leaves.cond, *parameters)
        self._cond = Total(len(repeat.leaves.cond))
        self._calls: list[tuple[Tensor, Tensor] | None] = []

    def evaluate(self) -> None:
        """Evaluate the slopes again, each with a graph of its own."""
        repeat, table, room, y0, h = self._repeat, self._table, self._room, self._y0, self._h
        dt = repeat.t1 - repeat.t0
        start = y0.reshape(-1)
        last = self._count - 1
        for index in range(self._count):
            if index == 0 and self._reuses:
                torch.mul(repeat.carry, h, out=room.scaled[0])
                self._calls.append(None)
                continue
            if not (self._weights.used[index] or index == last or self._direct is not None):
                room.scaled[index].zero_()
                self._calls.append(None)
                continue
            if index:
                point = torch.addmv(start, room.before[index], self._weights.rows[index]).view_as(y0)
            else:
                point = y0.detach()
            node = table.c[index]
            time = repeat.t1 if node == 1 else torch.add(repeat.t0, dt, alpha=node) if node else repeat.t0
            point.requires_grad_()
            with torch.enable_grad():
                slope = repeat.leaves.problem.evaluate(time, point)
            if index < last:
                torch.mul(slope.detach(), h, out=room.scaled[index])
            self._calls.append((point, slope))

    def pull(self) -> Pulled:
        """Go back through the stages."""
        repeat, bars = self._repeat, self._room.bars
        end = len(bars) - 1
        bars[end].copy_(repeat.end)
        carry: list[Tensor | None] = []
        for index in reversed(range(len(self._table.b))):
            bar = self._slope_bar(index)
            if index == 0 and self._reuses:
                carry, found = [bar], None
            else:
                found = self._back(index, bar)
            if index == end:
                # This stage is evaluated at the end of the step, which has a cotangent already.
                if found is not None:
                    bars[index].add_(found)
            elif found is None:
                bars[index].zero_()
            else:
                bars[index].copy_(found)
        by_y0 = self._room.all_bars.sum(0)
        for inner in repeat.inner:
            if inner.local is None:
                by_y0 += inner.cotangent
            else:
                by_y0.index_add_(0, inner.local, inner.cotangent)
        return Pulled(by_y0, carry, self._cond.values)

    def _slope_bar(self, index: int) -> Tensor | None:
        """The cotangent of a slope from those of the points after it, of states kept, and of the carry."""
        bar = self._carry_end if index == len(self._room.bars) - 1 else None
        if self._weights.used[index]:
            product = torch.mv(self._room.after[index], self._weights.columns[index]).view_as(self._y0)
            product.mul_(self._h)
            bar = product if bar is None else product.add_(bar)
        if self._direct is not None:
            bar = self._direct[index] if bar is None else bar + self._direct[index]
        return bar

    def _back(self, index: int, bar: Tensor | None) -> Tensor | None:
        """The cotangent of a stage's point from that of its slope."""
        call = self._calls[index] if index < self._count else None
        if call is None or bar is None:
            return None
        self._calls[index] = None
        point, slope = call
        if not slope.requires_grad:
            return None
        found = torch.autograd.grad(slope, (point, *self._inputs), bar, allow_unused=True)
        if self._inputs:
            count = len(self._cond.values)
            if count:
                self._cond.add(found[1 : 1 + count])
            self._total.add(found[1 + count :])
        return found[0]

    def _from_inner(self) -> Tensor | None:
        """Cotangents of the slopes from states kept within the step, shape (S, n, *event)."""
        repeat, y0 = self._repeat, self._y0
        if not repeat.inner:
            return None
        direct = y0.new_zeros((len(self._table.b), *y0.shape))
        for inner in repeat.inner:
            powers = inner.theta[..., None] ** self._weights.powers
            shares = (powers @ self._weights.dense.T).to(y0.dtype)
            if inner.local is None:
                grown = self._h * inner.cotangent
                direct += shares.reshape(-1, *[1] * y0.ndim) * grown
            else:
                h = self._h[inner.local] if self._h.ndim else self._h
                spread = shares.T.reshape(len(direct), -1, *[1] * (y0.ndim - 1))
                direct.index_add_(1, inner.local, spread * (h * inner.cotangent))
        return direct


class _Weights(NamedTuple):
    """A tableau as tensors.

    Attributes:
        rows: for every point, the last of which is the end, the weights of the slopes before it.
        columns: for every slope, its weights in the points after it.
        used: whether a slope has a weight at all.
        last: the last one that has.
        dense: coefficients of the dense output, float64, shape (S, P).
        powers: exponents 1 … P.
    """

    rows: tuple[Tensor, ...]
    columns: tuple[Tensor, ...]
    used: tuple[bool, ...]
    last: int
    dense: Tensor
    powers: Tensor


@kept(maxsize=256)
def _weights(table: Tableau, dtype: torch.dtype, device: torch.device) -> _Weights:
    points = table.a if table.first_same_as_last else (*table.a, table.b)
    stages = len(table.b)
    rows = tuple(torch.tensor(row, dtype=dtype, device=device) for row in points)
    after = [[row[index] for row in points[index + 1 :]] for index in range(stages)]
    columns = tuple(torch.tensor(column, dtype=dtype, device=device) for column in after)
    used = tuple(any(column) for column in after)
    dense = torch.tensor(table.dense or ((),), dtype=torch.float64, device=device)
    powers = torch.arange(1, dense.shape[1] + 1, dtype=torch.float64, device=device)
    return _Weights(rows, columns, used, max(index for index in range(stages) if used[index]), dense, powers)
