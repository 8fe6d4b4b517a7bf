"""Samplers of one image model side by side: quality and distance from the flow's end over function evaluations.

All samplers start from the same noise, so that their differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.datasets.quantisation import to_uint8
from isocline.metrics.image_metrics import ImageReference
from isocline.metrics.jackknife import Jackknifed
from isocline.metrics.paired_samples import PairedSamples
from isocline.metrics.uncertainty import Estimate, paired_difference
from isocline.processes.denoiser import AbstractDenoiser
from isocline.samplers.base import AbstractSampler

__all__ = ["Measured", "SolverStudy", "SolverStudySettings", "study_solvers"]

Progress = Callable[[str], None]


@dataclass(frozen=True)
class SolverStudySettings:
    """What the study of a model's samplers does.

    Attributes:
        samplers: by name, each on its own grid.
        on_optimised: which of them are run on an optimised grid of the model too, where one was made for the budget,
            and whose: the name of the sampler that it was made for.
        reference: an accurate sampler of the flow; its ends are what the distances are measured from.
        nfe: budgets.
        reference_nfe: budget of the reference.
        samples: images for every sampler and budget.
        batch_size: images sampled at once; changes no noise.
        groups: of the jackknife.
        wrap: by model, what is put around its denoiser for all samplers (clipping, say).

    Raises:
        ValueError: if a name in ``on_optimised`` is no sampler, or a number is out of range.
    """

    samplers: Mapping[str, AbstractSampler]
    reference: AbstractSampler
    on_optimised: Mapping[str, str] = field(default_factory=dict)
    nfe: Sequence[int] = (3, 5, 8, 10, 15, 20, 32)
    reference_nfe: int = 64
    samples: int = 320
    batch_size: int = 80
    groups: int = 10
    wrap: Mapping[str, Callable[[AbstractDenoiser], AbstractDenoiser]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.samplers or not self.nfe or min(self.nfe) < 1 or self.reference_nfe < 1 or self.batch_size < 1:
            raise ValueError("evaluation.solvers: samplers and nfe must not be empty, budgets and sizes at least 1")
        if strange := [name for name in self.on_optimised if name not in self.samplers]:
            raise ValueError(f"evaluation.solvers.on_optimised: no sampler {strange[0]!r}; there are {self.names}")
        if not 2 <= self.groups <= self.samples / 2:
            raise ValueError(f"evaluation.solvers.groups={self.groups} must be in [2, samples / 2]")

    @property
    def names(self) -> str:
        """The samplers' names in words."""
        return ", ".join(self.samplers)


class Measured(NamedTuple):
    """One sampler at one budget.

    Attributes:
        frechet: judge Fréchet distance from the test split.
        rmse: root mean square distance of an image from the reference's end, over images.
        spent: function evaluations that an image took at most.
    """

    frechet: Jackknifed
    rmse: Estimate
    spent: int


@dataclass(frozen=True)
class SolverStudy:
    """What `study_solvers` found.

    Attributes:
        points: by sampler and budget.
        reference: Fréchet distance of the reference's images.
        floor: of as many real training images.
        sheets: uint8 ``(samplers, images, C, H, W)`` by budget, in the order of the names that have the budget.
    """

    points: Mapping[str, Mapping[int, Measured]]
    reference: Jackknifed
    floor: Jackknifed
    sheets: Mapping[int, Tensor]

    def best(self, nfe: int, names: Sequence[str] | None = None) -> str:
        """Return the sampler of least Fréchet distance at a budget, among some names (default all)."""
        known = {name: curve[nfe] for name, curve in self.points.items() if nfe in curve}
        chosen = known if names is None else {name: known[name] for name in names if name in known}
        return min(chosen, key=lambda name: chosen[name].frechet.estimate.mean)

    def excess(self, name: str, nfe: int) -> dict[str, float]:
        """Return the Fréchet distance over the reference's, minus one, with its 95 % interval (paired)."""
        mine, base = self.points[name][nfe].frechet, self.reference
        found = paired_difference(mine.values, base.values)
        spread = Estimate.from_values([a - b for a, b in zip(mine.values, base.values, strict=True)])
        parts = {"mean": found.mean, "se": spread.se or 0.0, "low": found.low, "high": found.high}
        return {**{key: part / base.estimate.mean for key, part in parts.items()}, "n": float(spread.n)}


def study_solvers(
    denoiser: AbstractDenoiser,
    reference: ImageReference,
    settings: SolverStudySettings,
    more: Mapping[str, AbstractSampler],
    seed: int,
    *,
    classes: int = 0,
    device: str | torch.device = "cpu",
    progress: Progress = lambda _: None,
) -> SolverStudy:
    """Measure every sampler at every budget that it takes.

    Args:
        denoiser: network and process, wrapped as all samplers are to see it.
        reference: real images under the judge.
        settings: samplers, budgets, sizes.
        more: samplers that were made for this model, by name; budgets that they were not made for are left out.
        seed: of the noise; not the model's, so that all models share it.
        classes: class labels of a conditional network, 0 for none.
        device: where the network is.
        progress: told what has just been measured.

    Raises:
        ValueError: if a sampler takes none of the budgets.
    """
    images = PairedSamples(
        denoiser, reference, seed, settings.samples, settings.batch_size, settings.groups, classes, device=device
    )
    truth = images.draw(settings.reference, settings.reference_nfe).samples
    points: dict[str, dict[int, Measured]] = {}
    sheets: dict[int, list[Tensor]] = {}
    for name, sampler in {**settings.samplers, **more}.items():
        refused = ""
        for nfe in settings.nfe:
            try:
                drawn = images.draw(sampler, nfe)
            except ValueError as error:  # a budget that the sampler cannot be run at
                refused = str(error)
                progress(f"{name} not at {nfe}: {refused}")
                continue
            ends = drawn.samples
            rmse = Estimate.from_values(images.apart(ends, truth).numpy())
            found = Measured(images.frechet(ends), rmse, drawn.nfe)
            points.setdefault(name, {})[nfe] = found
            sheets.setdefault(nfe, []).append(to_uint8(ends[:8]))
            progress(f"{name} at {nfe}: Fréchet {found.frechet.estimate.mean:.3g}, RMSE {found.rmse.mean:.3g}")
        if name not in points:
            raise ValueError(f"sampler {name} takes none of the budgets {list(settings.nfe)}: {refused}")
    pictures = {nfe: torch.stack(rows) for nfe, rows in sheets.items()}
    return SolverStudy(points, images.frechet(truth), images.floor(), pictures)
