"""The way back: cotangents of the full batch, pulled through one step after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.gradient import trees
from isocline.solvers.gradient.base import Cotangents
from isocline.solvers.gradient.inputs import Inputs
from isocline.solvers.gradient.pull import AbstractPull, Inner, Leaves, Repeat, Total, differentiate
from isocline.solvers.gradient.steps import Course, Kept, Taken
from isocline.solvers.problem import AbstractProblem

__all__ = ["Sweep"]


class Sweep:
    """One backward pass over the steps of a solve, the last first."""

    def __init__(self, course: Course, inputs: Inputs, pull: AbstractPull, grad_ys: Tensor) -> None:
        """Begin at the end.

        Args:
            course: the solve.
            inputs: what to differentiate by.
            pull: how to go back through one step.
            grad_ys: cotangents of the saved states, shape (K, B, *event).
        """
        self._course, self._inputs, self._pull = course, inputs, pull
        start = course.problem.start
        self._grads = grad_ys.reshape(-1, *start.shape[1:])
        self._y = torch.zeros_like(start)
        self._carry: list[Tensor | None] = []
        tensors = trees.flatten(course.problem.cond)
        self._cond = [torch.zeros_like(tensors[place]) for place in inputs.places]
        self._total = Total(len(inputs.parameters))
        self._whole = Leaves.of(course.problem, inputs.places)
        # The samples of the last step and what was made for them: as long as they stay, nothing is indexed again.
        self._rows: Tensor | None = None
        self._part = self._whole

    def choose(self, rows: Tensor | None) -> AbstractProblem:
        """The equation for the samples ``rows``; None for all."""
        return self._leaves(rows).problem

    def back(self, taken: Taken, y0: Tensor, carry: Any) -> None:
        """Go back through a step.

        Args:
            taken: the part of it that was taken, its problem from `choose`.
            y0: states of its samples at its start.
            carry: the stepper's there.
        """
        end, carry_end = self._gather(taken.rows)
        passed: tuple[Tensor, list[Tensor | None]] | None = None
        if taken.frozen is not None:
            passed = _masked(taken.frozen, end, carry_end)
            end, carry_end = _masked(~taken.frozen, end, carry_end)
            taken = self._calm(taken, taken.frozen, y0, carry)
        end, inner = self._add_saved(taken.kept, end)
        leaves = self._leaves(taken.rows)
        pulled = self._pull.pull(
            Repeat(leaves, taken.t0, taken.t1, y0, carry, end, carry_end, inner), self._inputs.parameters, self._total
        )
        self._add_cond(taken.rows, pulled.cond)
        by_y0, by_carry = pulled.y0, pulled.carry
        at = self._course.leaps(taken)
        if at is not None:
            by_y0, by_carry = self._leap(taken, leaves, at, y0, by_y0, by_carry)
        if passed is not None:
            by_y0 = by_y0 + passed[0]
            by_carry = [_sum(new, old) for new, old in _pairs(by_carry, passed[1])]
        self._scatter(taken.rows, by_y0, by_carry)

    def finish(self, living: Tensor | None) -> Cotangents:
        """Go back through the start; returns the gradients.

        Args:
            living: samples that took a step which anything depends on, bool, shape (B,); None for all.
        """
        course, y = self._course, self._y
        for saved in course.saved:
            if saved.local is None:
                y = y + self._grads.reshape(-1, *y.shape)[saved.save].sum(0)
            else:
                y = y.index_add(0, saved.local, self._grads[saved.save * len(y) + saved.local])
        if any(bar is not None for bar in self._carry):
            rows = None if living is None else torch.nonzero(living).flatten()
            leaves, t0 = self._leaves(rows), course.t0
            _, carry = self._gather(rows)
            t0 = t0[rows] if rows is not None and t0.ndim else t0
            more, by_cond = self._through_init(leaves, t0, leaves.problem.start, carry)
            self._add_cond(rows, by_cond)
            if more is not None:
                y = y + more if rows is None else y.index_add(0, rows, more)
        return Cotangents(y, self._cond, self._total.values)

    def _through_init(
        self, leaves: Leaves, t0: Tensor, y0: Tensor, carry: Sequence[Tensor | None]
    ) -> tuple[Tensor | None, Sequence[Tensor | None]]:
        """Cotangents of the carry, pulled back through `AbstractStepper.init`."""
        with torch.enable_grad():
            point = y0.detach().requires_grad_()
            made = trees.batched(self._course.stepper.init(leaves.problem, t0, point))
        found = differentiate(made, carry, (point, *leaves.cond, *self._inputs.parameters))
        middle = 1 + len(leaves.cond)
        self._total.add(found[middle:])
        return found[0], found[1:middle]

    def _leap(
        self, taken: Taken, leaves: Leaves, at: Tensor, y0: Tensor, by_y0: Tensor, by_carry: list[Tensor | None]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The carry of some samples was made anew at the start of this step, and not by the step before."""
        made, kept = [], []
        for bar in by_carry:
            new, old = (None, None) if bar is None else _split(at, bar)
            made.append(new)
            kept.append(old)
        more, by_cond = self._through_init(leaves, taken.t0, y0, made)
        self._add_cond(taken.rows, by_cond)
        return by_y0 if more is None else by_y0 + more, kept

    def _leaves(self, rows: Tensor | None) -> Leaves:
        if rows is None:
            return self._whole
        if rows is not self._rows:
            self._rows, self._part = rows, Leaves.of(self._course.choose(rows), self._inputs.places)
        return self._part

    def _calm(self, taken: Taken, frozen: Tensor, y0: Tensor, carry: Any) -> Taken:
        """Let samples that rejected a step that was not finite stay where they are: 0 · inf is NaN."""
        y1 = self._course.stepper.step(self.choose(taken.rows), taken.t0, taken.t1, y0, carry).y1
        wild = frozen & ~y1.isfinite().reshape(len(y1), -1).all(1)
        return taken._replace(t1=torch.where(wild, taken.t0, taken.t1)) if bool(wild.any()) else taken

    def _gather(self, rows: Tensor | None) -> tuple[Tensor, list[Tensor | None]]:
        if rows is None:
            return self._y, self._carry
        return self._y[rows], [None if bar is None else bar[rows] for bar in self._carry]

    def _scatter(self, rows: Tensor | None, y: Tensor, carry: list[Tensor | None]) -> None:
        if rows is None:
            self._y, self._carry = y, carry
            return
        self._y = self._y.index_copy(0, rows, y)
        spread: list[Tensor | None] = []
        for new, old in _pairs(carry, self._carry):
            if new is None and old is None:
                spread.append(None)
                continue
            example = new if new is not None else old
            assert example is not None
            whole = example.new_zeros((len(self._y), *example.shape[1:])) if old is None else old
            spread.append(whole.index_fill(0, rows, 0) if new is None else whole.index_copy(0, rows, new))
        self._carry = spread

    def _add_saved(self, kept: tuple[Kept, ...], end: Tensor) -> tuple[Tensor, tuple[Inner, ...]]:
        """Add cotangents of saved ends to ``end``; those of states within the step are returned apart."""
        inner = []
        for states in kept:
            cotangents, theta, local = self._grads[states.places], states.theta, states.local
            at_end = theta == 1
            if local is None:
                if bool(at_end):
                    end = end + cotangents
                else:
                    inner.append(Inner(theta, None, cotangents))
                continue
            if bool(at_end.any()):
                end = end.index_add(0, local[at_end], cotangents[at_end])
                theta, local, cotangents = theta[~at_end], local[~at_end], cotangents[~at_end]
            if len(theta):
                inner.append(Inner(theta, local, cotangents))
        return end, tuple(inner)

    def _add_cond(self, rows: Tensor | None, gradients: Sequence[Tensor | None]) -> None:
        for total, gradient in zip(self._cond, gradients, strict=True):
            if gradient is None:
                continue
            if rows is None or not total.ndim:
                total += gradient
            else:
                total.index_add_(0, rows, gradient)


def _pairs(new: Sequence[Tensor | None], old: Sequence[Tensor | None]) -> list[tuple[Tensor | None, Tensor | None]]:
    """Cotangents of the same carry; an empty list stands for nothing at all."""
    size = max(len(new), len(old))
    return list(zip(new or [None] * size, old or [None] * size, strict=True))


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


def _split(mask: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The samples where the mask is set, and the others, zero elsewhere."""
    spread = mask.reshape(-1, *[1] * (value.ndim - 1))
    return torch.where(spread, value, 0.0), torch.where(spread, 0.0, value)


def _masked(mask: Tensor, y: Tensor, carry: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
    return _split(mask, y)[0], [None if bar is None else _split(mask, bar)[0] for bar in carry]
