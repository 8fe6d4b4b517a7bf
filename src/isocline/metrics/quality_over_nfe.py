"""Solvers of one image model side by side, fixed and adaptive: the evaluations that each needs for equal quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from isocline.metrics.equal_quality import Level, Needed, needed_nfe
from isocline.metrics.image_metrics import ImageReference
from isocline.metrics.jackknife import Jackknifed, delete_group_jackknife
from isocline.metrics.paired_samples import PairedSamples
from isocline.metrics.uncertainty import Estimate
from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.grid import AbstractTimeGrid
from isocline.processes.probability_flow import LinearPathVariable
from isocline.samplers.adaptive import AdaptiveSampler
from isocline.samplers.base import AbstractSampler
from isocline.samplers.continuous import ContinuousSampler
from isocline.solvers.controller import PIDController
from isocline.solvers.stepper import AbstractStepper

__all__ = ["Quality", "QualityPoint", "QualitySettings", "quality_over_nfe"]

_VARIABLE = LinearPathVariable()
_LIMIT = 4000


@dataclass(frozen=True)
class QualitySettings:
    """Which solvers are run how often.

    Attributes:
        fixed: steppers by name, run on `grid` at every budget of `nfe`.
        adaptive: steppers with an error estimate by name, run at every one of `tolerances`.
        grid: where fixed steps lie.
        reference: an accurate sampler: its images set the model's converged distance, and what errors are measured
            from.
        reference_nfe: its budget.
        nfe: budgets, rising.
        tolerances: relative and absolute at once, falling.
        samples: images for every solver and budget.
        batch_size: images at once; changes no noise.
        groups: of the jackknife.
        within: what counts as equal quality: a distance at most so much, relatively, above the converged one.
        error: what counts as equal error: a root mean square distance per pixel from the flow's end, in [-1, 1].
        wrap: by model, what is put around its denoiser for all solvers (clipping, say).

    Raises:
        ValueError: if a number is out of range, or there is no solver.
    """

    fixed: Mapping[str, AbstractStepper]
    adaptive: Mapping[str, AbstractStepper]
    grid: AbstractTimeGrid
    reference: AbstractSampler
    reference_nfe: int = 96
    nfe: Sequence[int] = (4, 8, 16, 32)
    tolerances: Sequence[float] = (0.1, 0.01)
    samples: int = 256
    batch_size: int = 64
    groups: int = 8
    within: float = 0.05
    error: float = 0.02
    wrap: Mapping[str, Callable[[AbstractDenoiser], AbstractDenoiser]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        key = "evaluation.stability.quality"
        if not self.fixed and not self.adaptive:
            raise ValueError(f"{key}: name a solver under fixed or adaptive")
        if list(self.nfe) != sorted(set(self.nfe)) or min(self.nfe, default=1) < 1:
            raise ValueError(f"{key}.nfe={list(self.nfe)}: rising budgets of at least 1")
        if list(self.tolerances) != sorted(set(self.tolerances), reverse=True) or min(self.tolerances, default=1) <= 0:
            raise ValueError(f"{key}.tolerances={list(self.tolerances)}: falling and above 0")
        if not 2 <= self.groups <= self.samples / 2:
            raise ValueError(f"{key}.groups={self.groups} must be in [2, samples / 2]")
        if self.within <= 0 or self.error <= 0:
            raise ValueError(f"{key}: within={self.within} and error={self.error} must be above 0")


class QualityPoint(NamedTuple):
    """One solver at one budget or tolerance.

    Attributes:
        nfe: evaluations that an image took, mean over images.
        frechet: judge Fréchet distance from the test split.
        rmse: root mean square distance of an image from the reference's end.
    """

    nfe: Estimate
    frechet: Jackknifed
    rmse: Jackknifed


@dataclass(frozen=True)
class Quality:
    """What `quality_over_nfe` found.

    Attributes:
        points: by solver, then by budget (``8``) or tolerance (``rtol_1e-02``), in rising order of the evaluations.
        reference: Fréchet distance of the reference's images: the model's own, whatever the solver.
        floor: of as many real training images.
        settings: what was asked for.
    """

    points: Mapping[str, Mapping[str, QualityPoint]]
    reference: Jackknifed
    floor: Jackknifed
    settings: QualitySettings

    def for_quality(self, solver: str) -> Needed | None:
        """Return the evaluations to come within `QualitySettings.within` of the model's own converged distance."""
        bar = _level(self.reference).times(1.0 + self.settings.within)
        return self._needed(solver, [_level(point.frechet) for point in self.points[solver].values()], bar)

    def for_error(self, solver: str) -> Needed | None:
        """Return the evaluations to come within `QualitySettings.error` of the flow's own ends, on average."""
        bar = Level(self.settings.error, (self.settings.error,) * self.settings.groups)
        return self._needed(solver, [_level(point.rmse) for point in self.points[solver].values()], bar)

    def _needed(self, solver: str, curve: Sequence[Level], bar: Level) -> Needed | None:
        return needed_nfe([point.nfe.mean for point in self.points[solver].values()], curve, bar)


def _level(found: Jackknifed) -> Level:
    return Level.of(found.as_dict())


def quality_over_nfe(
    denoiser: AbstractDenoiser,
    reference: ImageReference,
    settings: QualitySettings,
    seed: int,
    *,
    classes: int = 0,
    device: str | torch.device = "cpu",
    decode: Callable[[AbstractSampler], AbstractSampler] = lambda sampler: sampler,
    shape: Sequence[int] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Quality:
    """Measure every solver at every budget or tolerance, from the same noise.

    All integrate the flow in `LinearPathVariable`. A budget that does not pay for one step of a fixed method is left
    out.

    Args:
        denoiser: network and process, wrapped as all solvers are to see it.
        reference: real images under the judge.
        settings: solvers, budgets, sizes.
        seed: of the noise; not the model's, so that all models share it.
        classes: class labels of a conditional network, 0 for none.
        device: where the network is.
        decode: turns a sampler of the model's states into one of images.
        shape: of one state; that of the images by default.
        progress: told what has just been measured.
    """
    images = PairedSamples(
        denoiser, reference, seed, settings.samples, settings.batch_size, settings.groups, classes, shape, device
    )
    truth = images.draw(decode(settings.reference), settings.reference_nfe).samples

    def point(sampler: AbstractSampler, nfe: int, label: str) -> QualityPoint:
        drawn = images.draw(decode(sampler), nfe)
        apart = images.apart(drawn.samples, truth)
        rmse = delete_group_jackknife(lambda part: float(part.mean()), apart, settings.groups)
        spent = Estimate.from_values(drawn.evaluations.double().numpy())
        found = QualityPoint(spent, images.frechet(drawn.samples), rmse)
        said = f"NFE {spent.mean:.3g}, Fréchet {found.frechet.estimate.mean:.3g}, RMSE {rmse.estimate.mean:.3g}"
        progress(f"{label}: {said}")
        return found

    points: dict[str, dict[str, QualityPoint]] = {}
    for name, stepper in settings.fixed.items():
        sampler = ContinuousSampler(stepper, settings.grid, _VARIABLE)
        budgets = [nfe for nfe in settings.nfe if sampler.plan(nfe, denoiser.evaluations).stepper is stepper]
        points[name] = {str(nfe): point(sampler, nfe, f"{name} at {nfe}") for nfe in budgets}
    for name, stepper in settings.adaptive.items():
        points[name] = {
            f"rtol_{rtol:.0e}": point(
                AdaptiveSampler(stepper, PIDController(rtol=rtol, atol=rtol), _VARIABLE), _LIMIT, f"{name} at {rtol:g}"
            )
            for rtol in settings.tolerances
        }
    return Quality(points, images.frechet(truth), images.floor(), settings)
