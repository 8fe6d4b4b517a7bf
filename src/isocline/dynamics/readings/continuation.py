"""Reading: a denoiser's attractor followed as the noise falls, and where it ceases to attract."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from isocline.dynamics.attractors import distinct_attractors, map_limits
from isocline.dynamics.classify import classify, point_spectrum
from isocline.dynamics.continuation import follow_times
from isocline.dynamics.distinct import spread
from isocline.dynamics.newton_krylov import NewtonKrylov
from isocline.dynamics.readings.base import AbstractReading, Findings, Row, Subject, positive
from isocline.dynamics.readings.denoiser_map import denoiser_map, time_of_noise, typical_states
from isocline.dynamics.system import row_rms
from isocline.randomness import generator

__all__ = ["ContinuationReading"]


@dataclass(frozen=True)
class ContinuationReading(AbstractReading):
    """Follow the attractor that draws most starts at the first share of noise through the others.

    It is found by iteration, followed by Newton's method, which goes on where it no longer attracts. A mode whose
    growth |λ| − 1 rises through 0 is the direction in which the one image splits into several.

    Attributes:
        samples: starts of the iteration.
        times: shares of noise σ/(α + σ), falling.
        steps: of the trajectories that lead to the starts.
        iterations: most iterations at the first share.
        products: Jacobian products for each spectrum.
        finder: Newton's method.
    """

    samples: int = 4
    times: Sequence[float] = (0.9, 0.85, 0.8, 0.75)
    steps: int = 8
    iterations: int = 60
    products: int = 10
    finder: NewtonKrylov = field(default_factory=lambda: NewtonKrylov(tolerance=1e-3, iterations=6, krylov=8))

    def __post_init__(self) -> None:
        positive(self, "samples", "steps", "iterations", "products")
        if len(self.times) < 2 or not all(0 < time < 1 for time in self.times):
            raise ValueError(f"ContinuationReading: times = {list(self.times)}; give two or more shares in (0, 1)")

    def refusal(self, subject: Subject) -> str | None:
        """Needs a denoiser of images."""
        if subject.image_denoiser is not None:
            return None
        return "it is no denoiser of images, which can be followed through levels of noise"

    def read(self, subject: Subject, seed: int) -> Findings:
        """Find the attractor, follow it, and ask at each share what its modes do."""
        flow, denoiser = subject.flow, subject.image_denoiser
        assert flow is not None
        assert denoiser is not None
        starts, cond = typical_states(flow, self.samples, self.steps, seed), flow.condition(self.samples, seed)
        first = denoiser_map(denoiser, self.times[0], cond)
        limits = map_limits(first, starts, self.iterations, tolerance=2e-3)
        attractors = distinct_attractors(limits, 0.05 * spread(starts))
        protocol = f"the attractor of most of {self.samples} samples at {self.times[0]:g} of noise, by Newton's method"
        if not len(attractors.points):
            return Findings({"followed": 0.0}, protocol=protocol)
        system = first.at_rows(attractors.sources[:1])
        times = [time_of_noise(denoiser, time) for time in self.times]
        found = follow_times(system, attractors.points[:1], times, self.finder)
        rows: list[Row] = []
        before: Tensor | None = None
        for noise, time, roots in zip(self.times, times, found, strict=True):
            here, point = system.at_time(time), roots.points
            spectrum = point_spectrum(here, point, generator(seed, "arnoldi"), steps=min(self.products, point.numel()))
            verdict = classify(here, spectrum, point.dtype, point[0].numel())
            moved = 0.0 if before is None else float(row_rms(point - before)[0])
            rows.append(
                {
                    "noise": noise,
                    "leading_growth": float(verdict.leading[0]),
                    "found": float(roots.converged[0]),
                    "moved": moved,
                    "residual": float(roots.residuals[0]),
                }
            )
            before = point
        kept = [row for row in rows if row["found"]]
        metrics = {"followed": len(kept) / len(rows), **_crossing(kept)}
        return Findings(metrics, {"continuation": rows}, protocol=protocol)


def _crossing(rows: Sequence[Row]) -> dict[str, float]:
    """The share of noise at which the leading growth rises through 0, linearly between neighbours, if it does."""
    for one, other in itertools.pairwise(rows):
        low, high = one["leading_growth"], other["leading_growth"]
        if low < 0 <= high:
            return {"splits_at": one["noise"] + (other["noise"] - one["noise"]) * low / (low - high)}
    return {}
