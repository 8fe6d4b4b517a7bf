"""Reading: what a denoiser of images draws its own samples to, how much each attractor draws, and whether it copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.dynamics.attractors import distinct_attractors, map_limits
from isocline.dynamics.basins import basin_shares
from isocline.dynamics.distinct import spread
from isocline.dynamics.memorisation import attractor_memorisation
from isocline.dynamics.readings.base import AbstractReading, Findings, ImageSide, Row, Subject, positive
from isocline.dynamics.readings.denoiser_map import denoiser_map, image_sheet, typical_states

__all__ = ["AttractorsReading"]


@dataclass(frozen=True)
class AttractorsReading(AbstractReading):
    """Iterate y ↦ D(α y, t) from samples of the model until it rests, at several shares of noise.

    At much noise a denoiser knows one image, the mean; as the noise falls that splits into more and more. Where the
    noise is little an iteration hardly moves an image, and takes long to rest.

    Attributes:
        samples: starts, for each share.
        times: shares of noise σ/(α + σ).
        steps: of the trajectories that lead to the starts.
        iterations: most iterations.
        tolerance: distance that counts as none, in units of the starts' spread.
        separation: distance within which two attractors are one, likewise.
        shown: attractors in the picture, for each share.
    """

    samples: int = 16
    times: Sequence[float] = (0.7, 0.8, 0.9)
    steps: int = 8
    iterations: int = 150
    tolerance: float = 2e-3
    separation: float = 0.05
    shown: int = 8

    def __post_init__(self) -> None:
        positive(self, "samples", "steps", "iterations", "shown")
        if not self.times or not all(0 < time < 1 for time in self.times):
            raise ValueError(f"AttractorsReading: times = {list(self.times)}; give shares of noise between 0 and 1")

    def refusal(self, subject: Subject) -> str | None:
        """Needs a denoiser of images."""
        if subject.image_denoiser is not None:
            return None
        return "it is no denoiser of images, which can be iterated at one level of noise"

    def read(self, subject: Subject, seed: int) -> Findings:
        """Iterate at every share of noise, merge, and hold against the data."""
        flow, side, denoiser = subject.flow, subject.images, subject.image_denoiser
        assert flow is not None
        assert denoiser is not None
        assert side is not None
        starts, cond = typical_states(flow, self.samples, self.steps, seed), flow.condition(self.samples, seed)
        rows: list[Row] = []
        counts: list[Row] = []
        metrics: dict[str, dict[str, float]] = {"distinct": {}, "settled": {}, "largest_basin": {}}
        found = []
        for time in self.times:
            system = denoiser_map(denoiser, time, cond)
            limits = map_limits(system, starts, self.iterations, tolerance=self.tolerance)
            attractors = distinct_attractors(limits, self.separation * spread(starts))
            shares = basin_shares(attractors.members, len(attractors.points))
            key = f"noise_{time:g}".replace(".", "_")
            metrics["distinct"][key] = len(attractors.points)
            metrics["settled"][key] = float(limits.settled.double().mean())
            metrics["largest_basin"][key] = max((basin.share for basin in shares.basins), default=0.0)
            counts.append({"noise": time, "distinct": len(attractors.points), "settled": metrics["settled"][key]})
            if not len(attractors.points):
                continue
            images = side.pixels(attractors.points)
            found.append(images)
            copies = attractor_memorisation(images, side.train, side.test)
            classes = side.judge.logits(images).argmax(-1)
            for index, basin in enumerate(shares.basins):
                rows.append(
                    {
                        "noise": time,
                        "attractor": index + 1,
                        "basin": basin.share,
                        "basin_low": basin.low,
                        "basin_high": basin.high,
                        "class": int(classes[index]),
                        "distance_to_training": float(copies.distances[index]),
                        "p_value": float(copies.p_values[index]),
                    }
                )
        protocol = (
            f"{self.samples} samples of the model, iterated at most {self.iterations} times; intervals of basins: "
            "Wilson's, 95 %; p-value: share of unseen images that lie as near to the training set"
        )
        return Findings(
            {**metrics, **self._memorisation(found, side)},
            {"attractors": rows, "splitting": counts},
            {"attractors": torch.stack([sheet for images in found for sheet in image_sheet(images, side, self.shown)])}
            if found
            else {},
            protocol,
        )

    def _memorisation(self, found: Sequence[Tensor], side: ImageSide) -> dict[str, object]:
        if not found:
            return {}
        copies = attractor_memorisation(torch.cat(list(found)), side.train, side.test)
        return {
            "memorisation_ratio": copies.ratio,
            "copied": {"mean": copies.share, "low": copies.low, "high": copies.high},
        }
