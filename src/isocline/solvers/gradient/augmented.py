"""The continuous adjoint as one system: states, cotangents and gradients of parameters of the whole batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.controller import PIDController
from isocline.solvers.gradient import trees
from isocline.solvers.gradient.adjoint import Slope, slope_of
from isocline.solvers.gradient.base import AbstractReverse, Cotangents
from isocline.solvers.gradient.continuous import BackwardSolver, Doubts, saved_at
from isocline.solvers.gradient.inputs import Inputs
from isocline.solvers.gradient.stops import Stops
from isocline.solvers.problem import AbstractProblem, ODEProblem
from isocline.solvers.solution import SaveAt

__all__ = ["AugmentedReverse"]


class AugmentedReverse(AbstractReverse):
    """Solves ``d(y, a, g)/dt = (f, -(∂f/∂y)ᵀ a, -(∂f/∂θ)ᵀ a)`` backward as one sample under one clock.

    The norm of an error is the largest of the root mean squares over y, a and each part of g.

    Source: Chen, Rubanova, Bettencourt, Duvenaud, Neural ordinary differential equations (2018), Eqs. 46 and 51.
    """

    def __init__(
        self,
        problem: AbstractProblem,
        inputs: Inputs,
        stops: Stops,
        ys: Tensor,
        solver: BackwardSolver,
        tolerance: float,
    ) -> None:
        """Keep what the way back needs; see `isocline.solvers.gradient.continuous.ContinuousReverse`.

        Raises:
            ValueError: if samples have spans of their own.
        """
        times = stops.times
        if times.ndim == 2:
            if not bool((times == times[:, :1]).all()):
                raise ValueError(
                    "seminorm=False solves the whole batch by one clock, but samples have spans of their own; give t0 "
                    "and t1 as numbers, or leave seminorm=True"
                )
            stops = dataclasses.replace(stops, times=times[:, 0], order=stops.order[:, 0])
        self._problem, self._inputs, self._stops, self._ys = problem, inputs, stops, ys
        self._slope = slope_of(problem)
        self._solver, self._tolerance = solver, tolerance
        tensors = trees.flatten(problem.cond)
        self._wanted = [*(tensors[place] for place in inputs.places), *inputs.parameters]

    def pull(self, grad_ys: Tensor) -> Cotangents:
        """See the base class."""
        start, stops = self._problem.start, self._stops
        y, a = start, torch.zeros_like(start)
        parts = [torch.zeros_like(tensor) for tensor in self._wanted]
        doubts = Doubts(self._ys, self._tolerance)
        begun = torch.ones(len(start), dtype=torch.bool, device=start.device)
        for interval in reversed(range(len(stops.order))):
            saved, cotangent = (saved_at(values, stops.order[interval]) for values in (self._ys, grad_ys))
            reached = expand_like(saved.isfinite().reshape(len(saved), -1).all(1), saved)
            y, a = torch.where(reached, saved, y), torch.where(reached, a + cotangent, a)
            # Without a cotangent there is nothing to solve, and no state to compare.
            moved = (a != 0).any().expand_as(begun)
            y, a, parts = self._interval(interval, y, a, parts, doubts)
            known = saved_at(self._ys, stops.order[interval - 1]) if interval else start
            doubts.compare(stops.times[interval], y, known, moved)
        doubts.warn()
        count = len(self._inputs.places)
        return Cotangents(a, parts[:count], parts[count:])

    def _interval(
        self, interval: int, y: Tensor, a: Tensor, parts: list[Tensor], doubts: Doubts
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        t0, t1 = self._stops.times[interval : interval + 2]
        scale = float(a.abs().max())
        if t0 == t1 or scale == 0:
            return y, a, parts
        layout = _Layout([y, a, *parts])
        start = layout.flatten([y, a / scale, *(torch.zeros_like(part) for part in parts)])
        problem = ODEProblem(_Field(self._slope, self._inputs, layout), start, t1, t0, self._problem.cond, False)
        control = self._solver.control(self._stops, interval, None)
        if isinstance(control, PIDController):
            control = dataclasses.replace(control, norm=layout.norm, joint=False)
        solution = self._solver.integrate(problem, self._solver.stepper, control, SaveAt(), None, event=None)
        doubts.note(torch.zeros(1, dtype=torch.int64), solution)
        y, a, *more = layout.restore(solution.final)
        return y, a * scale, [part + new * scale for part, new in zip(parts, more, strict=True)]


class _Layout:
    """Several tensors as one row of real numbers, shape (1, N)."""

    def __init__(self, parts: list[Tensor]) -> None:
        self._parts = [(part.shape, part.dtype) for part in parts]
        self._dtype = parts[0].real.dtype
        self._sizes = [part.numel() * (2 if part.is_complex() else 1) for part in parts]

    def flatten(self, parts: Iterable[Tensor]) -> Tensor:
        """Tensors to a row."""
        flat = (torch.view_as_real(part.resolve_conj()) if part.is_complex() else part for part in parts)
        return torch.cat([part.reshape(-1).to(self._dtype) for part in flat])[None]

    def restore(self, row: Tensor) -> list[Tensor]:
        """A row to tensors."""
        found = []
        for piece, (shape, dtype) in zip(torch.split(row[0], self._sizes), self._parts, strict=True):
            whole = torch.view_as_complex(piece.reshape(*shape, 2)) if dtype.is_complex else piece.reshape(shape)
            found.append(whole.to(dtype))
        return found

    def norm(self, error: Tensor) -> Tensor:
        """The largest root mean square of any part, shape (1,)."""
        pieces = [
            piece.double().square().mean().sqrt() for piece in torch.split(error[0], self._sizes) if piece.numel()
        ]
        return torch.stack(pieces).max()[None]


class _Field:
    """The slope of the whole system."""

    def __init__(self, slope: Slope, inputs: Inputs, layout: _Layout) -> None:
        self._slope, self._inputs, self._layout = slope, inputs, layout

    def __call__(self, t: Tensor, z: Tensor, cond: Any) -> Tensor:
        y, a, *parts = self._layout.restore(z)
        recorded = torch.is_grad_enabled()
        tensors = trees.flatten(cond)
        with torch.enable_grad():
            point = y if recorded and y.requires_grad else y.detach().requires_grad_()
            for place in self._inputs.places:
                tensors[place] = tensors[place].detach().requires_grad_()
            leaves = [tensors[place] for place in self._inputs.places]
            slope = self._slope(t, point, trees.replace(cond, tensors))
            wanted = (point, *leaves, *self._inputs.parameters)
            found: Sequence[Tensor | None] = [None] * len(wanted)
            if slope.requires_grad:
                found = torch.autograd.grad(slope, wanted, a, create_graph=recorded, allow_unused=True)
        examples = (y, *parts)
        products = (
            torch.zeros_like(like) if value is None else -value for value, like in zip(found, examples, strict=True)
        )
        return self._layout.flatten([slope if recorded else slope.detach(), *products])
