"""How a trained field is followed: smooth stretches of its span, states along it, costs and roundings over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.dynamics.cost_curve import CostCurve
from isocline.dynamics.path import FieldPath, follow
from isocline.dynamics.precision import PrecisionGrowth, PrecisionRun, measure_precision
from isocline.dynamics.solver_cost import SolverCosts, SolverSweep, measure_solver_costs
from isocline.dynamics.trained_field import TrainedField
from isocline.solvers.controller import PIDController
from isocline.solvers.explicit import Dopri8, Euler
from isocline.solvers.loop import solve_strict
from isocline.solvers.problem import ODEProblem, VectorField
from isocline.solvers.stepper import AbstractStepper

__all__ = ["Segment", "costs_of", "path_of", "precision_of", "segments"]

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Segment:
    """A stretch of the span on which the field is smooth in time.

    Attributes:
        start: where it begins.
        end: where it ends.
        field: the field on it, its ends included.
    """

    start: float
    end: float
    field: VectorField


def segments(field: TrainedField) -> list[Segment]:
    """Return the smooth stretches of a field: all of it in t, layer by layer in depth."""
    if field.kind != "depth":
        return [Segment(field.start, field.end, field.field)]
    return [Segment(float(layer), layer + 1.0, _held(field.field, layer)) for layer in range(round(field.end))]


def _held(field: VectorField, layer: int) -> VectorField:
    """The field of one layer for all times, so that a step's far end does not ask the next one."""
    at = torch.tensor(float(layer), dtype=torch.float64)
    return lambda t, x, cond: field(at, x, cond)


def path_of(
    field: TrainedField, starts: Tensor, shares: Sequence[float], accuracy: float, cond: Any = None
) -> FieldPath:
    """Return states of accurate solutions at shares of the span; in depth the network's own, before every layer.

    Args:
        field: the trained field.
        starts: states at its start.
        shares: rising from 0.
        accuracy: relative and absolute tolerance.
        cond: handed to the field.
    """
    if field.kind != "depth":
        ts = field.start + (field.end - field.start) * torch.tensor(shares, dtype=torch.float64)
        return follow(field.field, starts, ts, cond, rtol=accuracy, atol=accuracy)
    ts, states = torch.arange(round(field.end), dtype=torch.float64), [starts]
    with torch.no_grad():
        for t in ts[:-1]:
            states.append(states[-1] + field.field(t, states[-1], cond))
    return FieldPath(ts, torch.stack(states))


def costs_of(
    field: TrainedField, path: FieldPath, sweep: SolverSweep, accuracy: float, cond: Any = None
) -> SolverCosts:
    """Measure what solvers cost over the whole span; in depth from the network's own state before each layer.

    In depth a sample's cost is the sum over layers, its error the largest of any layer's end.

    Args:
        field: the trained field.
        path: see `path_of`.
        sweep: the solvers.
        accuracy: relative tolerance of the end from which errors are measured.
        cond: handed to the field.
    """
    parts = []
    for part, start in zip(segments(field), path.states, strict=False):
        problem = ODEProblem(part.field, start, part.start, part.end, cond)
        with torch.no_grad():
            control = PIDController(rtol=accuracy, atol=accuracy * 1e-2, max_steps=20_000)
            exact = solve_strict(problem, Dopri8(), control).final
        parts.append(measure_solver_costs(problem, sweep, exact=exact))
    first = parts[0]
    if len(parts) == 1:
        return first
    columns = zip(*(part.curves for part in parts), strict=True)
    return SolverCosts(tuple(_joined(list(curves)) for curves in columns), first.left_out, first.levels)


def _joined(curves: Sequence[CostCurve]) -> CostCurve:
    """One solver over successive layers at the same settings."""
    errors = torch.stack([curve.errors for curve in curves]).amax(0)
    nfe, jacobians, factorizations, work = (
        torch.stack([getattr(curve, key) for curve in curves]).sum(0)
        for key in ("nfe", "jacobians", "factorizations", "work")
    )
    return CostCurve(curves[0].candidate, curves[0].settings, errors, nfe, jacobians, factorizations, work)


def precision_of(
    field: TrainedField,
    starts: Tensor,
    shares: Sequence[float],
    stepper: AbstractStepper,
    substeps: int,
    cond: Any = None,
) -> list[PrecisionGrowth]:
    """Measure how solves in float32 and bfloat16 part from the one in float64; in depth of the network itself.

    Args:
        field: the trained field.
        starts: states at its start.
        shares: of the span at which they are compared; the end is added.
        stepper: the method, in t.
        substeps: its steps between two times.
        cond: handed to the field.
    """
    runs = [PrecisionRun(name, field.in_dtype(dtype), dtype) for name, dtype in _PRECISIONS.items()]
    reference = field.in_dtype(torch.float64)
    if field.kind == "depth":
        layers = torch.arange(round(field.end) + 1, dtype=torch.float64)
        return measure_precision(runs, reference, starts, layers, Euler(), cond)
    ts = field.start + (field.end - field.start) * torch.tensor([*shares, 1.0], dtype=torch.float64)
    return measure_precision(runs, reference, starts, ts, stepper, cond, substeps=substeps)
