"""Reading: fixed points of a denoiser, or of a field with its time held fixed, and what kind they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isocline.dynamics.anderson import Anderson
from isocline.dynamics.fixed_points import FixedPoints, find_fixed_points
from isocline.dynamics.newton_krylov import NewtonKrylov
from isocline.dynamics.readings.base import AbstractReading, Findings, Row, Subject, positive
from isocline.dynamics.readings.denoiser_map import denoiser_map, image_sheet, typical_states
from isocline.dynamics.readings.paths import follow
from isocline.dynamics.root_finder import AbstractRootFinder
from isocline.dynamics.system import AbstractSystem, Flow
from isocline.randomness import derive_seed, generator

__all__ = ["FixedPointsReading"]


_SMALL = 64
"""Components of a state up to which Newton's method looks for fixed points of all kinds; beyond, it costs too much."""


def _finder() -> AbstractRootFinder:
    return Anderson(memory=0, tolerance=1e-3, iterations=150)


@dataclass(frozen=True)
class FixedPointsReading(AbstractReading):
    """Where a denoiser leaves an image as it is, or where a field stands still.

    Attributes:
        samples: starts.
        times: of an image model, shares of noise σ/(α + σ) at which its denoiser is held; of others, shares of the span
            at which the field is.
        steps: of the trajectories that the starts are taken from.
        products: Jacobian products for each spectrum, of states of many components.
        shown: fixed points in the picture and in the table, for each time.
        separation: of points of many components, in units of the starts' spread.
        finder: how they are looked for among states of many components; small ones are looked for by Newton's method.
    """

    samples: int = 8
    times: Sequence[float] = (0.7,)
    steps: int = 8
    products: int = 12
    shown: int = 8
    separation: float = 0.05
    finder: AbstractRootFinder = field(default_factory=_finder)

    def __post_init__(self) -> None:
        positive(self, "samples", "steps", "products", "shown")
        if not self.times or not all(0 < time < 1 for time in self.times):
            raise ValueError(f"FixedPointsReading: times = {list(self.times)}; give shares between 0 and 1")

    def refusal(self, subject: Subject) -> str | None:
        """Needs a denoiser of images, or the field of a density or classifier."""
        if subject.image_denoiser is not None:
            return None
        if subject.flow is not None and subject.flow.kind in ("density", "classifier"):
            return None
        return "fixed points are read of denoisers of images, densities and classifiers"

    def read(self, subject: Subject, seed: int) -> Findings:
        """Search at each time from typical states, and classify."""
        flow = subject.flow
        assert flow is not None
        cond = flow.condition(self.samples, seed)
        rows: list[Row] = []
        pictures: dict[str, Tensor] = {}
        counts: dict[str, dict[str, float]] = {"distinct": {}, "attracting": {}, "converged": {}}
        sheets: list[Tensor] = []
        for number, time in enumerate(self.times):
            system, starts = self._system(subject, time, cond, derive_seed(seed, number))
            small = starts[0].numel() <= _SMALL
            found = find_fixed_points(
                system,
                starts,
                generator(seed, "arnoldi", number),
                finder=NewtonKrylov() if small else self.finder,
                separation=1e-3 if small else self.separation,
                steps=None if small else self.products,
            )
            rows += self._rows(found, time)
            key = f"at_{time:g}".replace(".", "_")
            counts["distinct"][key] = len(found.points)
            counts["attracting"][key] = int(found.attracting.sum())
            counts["converged"][key] = float(found.roots.converged.double().mean())
            if subject.images is not None and len(found.points):
                sheets += image_sheet(subject.images.pixels(found.points), subject.images, self.shown)
        if sheets:
            pictures["fixed_points"] = torch.stack(sheets)
        what = "denoiser y ↦ D(α y, t) at shares of noise" if subject.image_denoiser is not None else "field at"
        protocol = (
            f"{self.samples} starts on the model's trajectories; {what} {', '.join(f'{t:g}' for t in self.times)}"
        )
        return Findings(counts, {"fixed_points": rows}, pictures, protocol)

    def _system(self, subject: Subject, time: float, cond: Tensor | None, seed: int) -> tuple[AbstractSystem, Tensor]:
        flow, denoiser = subject.flow, subject.image_denoiser
        assert flow is not None
        if denoiser is not None:
            starts = typical_states(flow, self.samples, self.steps, seed)
            return denoiser_map(denoiser, time, cond), starts
        paths = follow(flow, self.samples, self.steps, seed)
        at = flow.start + time * (flow.end - flow.start)
        return Flow(flow.field, at, cond), paths.ys[round(time * (len(paths.ys) - 1))]

    def _rows(self, found: FixedPoints, time: float) -> list[Row]:
        return [
            {
                "t": time,
                "point": index + 1,
                "hits": int(found.hits[index]),
                "attracts": float(found.attracting[index]),
                "unstable_directions": int(found.index[index]),
                "leading_growth": float(found.classification.leading[index]),
                "residual": float(found.residuals[index]),
            }
            for index in range(min(self.shown, len(found.points)))
        ]
