"""The stiffness and stability report of one trained field: what its Jacobian along its paths means for solvers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.dynamics.field_path import costs_of, path_of, precision_of, segments
from isocline.dynamics.lipschitz import LipschitzEstimate, estimate_lipschitz
from isocline.dynamics.local_error import LocalErrorRow, measure_local_error
from isocline.dynamics.path import FieldPath
from isocline.dynamics.precision import PrecisionGrowth
from isocline.dynamics.solver_cost import SolverCosts
from isocline.dynamics.spectrum import PathSpectrum, spectrum_along
from isocline.dynamics.stability_region import StabilityRegion, stability_region, steps_within_growth
from isocline.dynamics.stability_settings import StabilitySettings
from isocline.dynamics.trained_field import TrainedField
from isocline.metrics.uncertainty import Estimate
from isocline.randomness import derive_seed, generator

__all__ = ["StabilityReport", "report_stability"]

_REFERENCE_STEPS = 2
_MANY_STEPS = 20_000.0
_LEFT, _RIGHT, _HEIGHT = -5.0, 1.5, 3.5


@dataclass(frozen=True, eq=False)
class StabilityReport:
    """What was measured of one field; samples are followed from typical starting states.

    Attributes:
        name: of the model.
        kind: of the field, see `isocline.dynamics.trained_field.TrainedField`.
        start: where integration begins.
        end: where it ends.
        size: components of a state.
        spectrum: leading eigenvalues along the path, in the direction of integration.
        lipschitz: norms of the Jacobian there.
        stable_steps: by method, the fewest equal steps over the span in which the method amplifies no mode beyond what
            the equation does (twice), were the eigenvalues of that time those of all times; shape (K, B).
        local: by method, errors of single steps along the path.
        costs: of adaptive solvers at equal error.
        precision: of solves in lower precision.
        regions: by method, where it is stable.
    """

    name: str
    kind: str
    start: float
    end: float
    size: int
    spectrum: PathSpectrum
    lipschitz: LipschitzEstimate
    stable_steps: Mapping[str, Tensor]
    local: Mapping[str, tuple[LocalErrorRow, ...]]
    costs: SolverCosts
    precision: tuple[PrecisionGrowth, ...]
    regions: Mapping[str, StabilityRegion]

    @property
    def span(self) -> float:
        """Time from start to end, not negative."""
        return abs(self.end - self.start)

    def summary(self) -> dict[str, Estimate]:
        """Return the worst of each measure along the path, averaged over samples.

        ``spectral_radius``, ``fastest_decay``, ``fastest_growth`` and ``oscillation`` are rates per unit of the field's
        own time, ``horizon`` is |λ|max times the span. ``log_growth`` is ∫ μ₂ dt: a small error of the start grows by
        at most its exponential. ``stiffness_ratio`` is 1 where no two decaying rates were told apart.
        """
        values, ratios = self.spectrum.values, self.spectrum.stiffness_ratio
        known = torch.where(ratios.isfinite(), ratios, 1.0).clamp(min=1.0)
        found = {
            "spectral_radius": self.spectrum.radius.amax(0),
            "fastest_decay": (-values.real.amin(-1)).amax(0),
            "fastest_growth": values.real.amax(-1).amax(0),
            "oscillation": values.imag.amax(-1).amax(0),
            "horizon": self.spectrum.radius.amax(0) * self.span,
            "stiffness_ratio": known.amax(0),
            "lipschitz": self.lipschitz.norms.amax(0),
            "log_growth": self._log_growth(),
        }
        return {name: Estimate.from_values(each.double().tolist()) for name, each in found.items()}

    def demanded_steps(self) -> dict[str, Estimate]:
        """Return by method the equal steps that stability alone demands, at the worst time, averaged over samples."""
        return {name: Estimate.from_values(steps.amax(0).tolist()) for name, steps in self.stable_steps.items()}

    def _log_growth(self) -> Tensor:
        """∫ μ₂ dt over the span: the trapezoidal rule between the times, the last value beyond; layers in depth."""
        log_norms, ts = self.lipschitz.log_norms, self.lipschitz.ts
        if self.kind == "depth":
            return log_norms.sum(0)
        steps = ts.diff().abs()[:, None]
        within = (steps * (log_norms[1:] + log_norms[:-1]) / 2).sum(0)
        return within + abs(self.end - float(ts[-1])) * log_norms[-1]


def report_stability(
    field: TrainedField, settings: StabilitySettings, seed: int, progress: Callable[[str], None] = lambda _: None
) -> StabilityReport:
    """Follow a field from typical starts and measure its Jacobian, local errors and demands along the way.

    Args:
        field: the trained field.
        settings: sizes and methods.
        seed: run seed; the states depend on it and the sample alone, so that models of one shape share them.
        progress: told what has just been measured.
    """
    states_seed = derive_seed(seed, "stability", "starts")
    starts, cond = (draw(settings.samples, states_seed) for draw in (field.starts, field.condition))
    assert isinstance(starts, Tensor)
    path = path_of(field, starts, settings.shares, settings.accuracy, cond)
    spectrum = spectrum_along(field.field, path, settings.krylov, generator(seed, "stability", "spectrum"), cond)
    progress(f"spectral radius {float(spectrum.radius.max()):.3g}")
    lipschitz = estimate_lipschitz(field.field, path, settings.norms, generator(seed, "stability", "norms"), cond)
    progress(f"Lipschitz constant {lipschitz.constant:.3g}")
    local = {name: _local(field, path, settings, name, cond) for name in settings.local}
    costs = costs_of(field, path, settings.sweep, settings.accuracy, cond)
    progress(
        "costs " + ", ".join(f"{curve.candidate.name} {float(curve.nfe[-1].mean()):.3g}" for curve in costs.curves)
    )
    precision = precision_of(field, starts, settings.shares, settings.precision, settings.substeps, cond)
    span = abs(field.end - field.start)
    return StabilityReport(
        name=field.name,
        kind=field.kind,
        start=field.start,
        end=field.end,
        size=math.prod(starts.shape[1:]),
        spectrum=spectrum,
        lipschitz=lipschitz,
        stable_steps={
            name: steps_within_growth(method, spectrum.values, span).clamp(max=_MANY_STEPS)
            for name, method in settings.methods.items()
        },
        local=local,
        costs=costs,
        precision=tuple(precision),
        regions={
            name: stability_region(method, (_LEFT, _RIGHT), (-_HEIGHT, _HEIGHT), settings.resolution)
            for name, method in settings.methods.items()
        },
    )


def _local(
    field: TrainedField, path: FieldPath, settings: StabilitySettings, name: str, cond: Any
) -> tuple[LocalErrorRow, ...]:
    """Errors of steps from each of the path's times to the next, and to the end; in depth of a layer each."""
    method, parts = settings.methods[name], segments(field)
    if len(parts) == 1 and field.kind != "depth":
        # The state at the end is where no step begins, so that any stands for it.
        ts = torch.cat([path.ts, torch.tensor([field.end], dtype=torch.float64)])
        grid = FieldPath(ts, torch.cat([path.states, path.states[-1:]]))
        return tuple(measure_local_error(field.field, grid, method, cond, reference_steps=_REFERENCE_STEPS).rows())
    rows: list[LocalErrorRow] = []
    for part, state in zip(parts, path.states, strict=True):
        ends = torch.tensor([part.start, part.end], dtype=torch.float64)
        stretch = FieldPath(ends, torch.stack([state, state]))
        rows += measure_local_error(part.field, stretch, method, cond, reference_steps=_REFERENCE_STEPS).rows()
    total = math.fsum(row.error.mean for row in rows) or 1.0
    return tuple(row._replace(share=row.error.mean / total) for row in rows)
