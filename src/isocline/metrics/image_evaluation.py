"""Evaluate an image model: distances over function evaluations, with the spread over sampling seeds.

The noise of sample i under seed s is the same for every model and every NFE, so that differences between models and
along a curve are paired. Real and generated images are quantised once, by the same rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.datasets.quantisation import to_uint8
from isocline.metrics.collapse import Diversity, collapse
from isocline.metrics.image_metrics import AbstractImageMetric, ImageReference, ImageSet
from isocline.metrics.settings import ImageSettings
from isocline.metrics.uncertainty import Estimate
from isocline.randomness import derive_seed, generator, sample_noise

__all__ = ["Curve", "Drawn", "ImageEvaluation", "draw_samples", "evaluate_images", "image_floor"]

Curve = dict[str, dict[int, list[float]]]
"""Metric name to NFE to one value per sampling seed."""


class Drawn(NamedTuple):
    """Generated images.

    Attributes:
        samples: as the sampler gives them, ``(N, C, H, W)`` on the CPU.
        evaluations: function evaluations that each of them took, int64 ``(N,)``.
        seconds: wall-clock time of sampling, for the tracker only.
    """

    samples: Tensor
    evaluations: Tensor
    seconds: float

    @property
    def nfe(self) -> int:
        """The largest number of function evaluations that any of them took."""
        return int(self.evaluations.max())


def image_floor(
    reference: ImageReference, metrics: Iterable[AbstractImageMetric], samples: int, seeds: int, seed: int
) -> dict[str, Estimate]:
    """Measure real training images as if a model had drawn them: what a perfect model would score.

    Args:
        reference: real images.
        metrics: what to measure.
        samples: images per set; at most the whole training split is used.
        seeds: sets, drawn without replacement from the training split, each on its own.
        seed: run seed.
    """
    chosen, rows = [metric for metric in metrics if metric.floored], []
    for index in range(seeds):
        order = torch.randperm(len(reference.train.images), generator=generator(seed, "floor", index))[:samples]
        seen = ImageSet(*(part[order.to(part.device)] for part in reference.train))
        rows.append({name: value for metric in chosen for name, value in metric(seen, reference).items()})
    names = [name for name in rows[0] if name != "frechet_train"]  # a subset of that very split
    return {name: Estimate.from_values([row[name] for row in rows]) for name in names}


@dataclass(frozen=True)
class ImageEvaluation:
    """What `evaluate_images` found.

    Attributes:
        values: one number per metric, NFE and sampling seed; ``spent_nfe`` is what a budget really cost.
        floor: the same metrics for real training images.
        nfe: budgets, in order.
        grids: uint8 ``(len(nfe), grid, C, H, W)``, the same noise along the first axis.
        trajectory: uint8 ``(S, trajectory, C, H, W)``, from noise to image.
        times: t of the trajectory's states, float64 ``(S,)``.
        rates: samples per second at each budget, for the tracker only.
    """

    values: Curve
    floor: dict[str, Estimate]
    nfe: tuple[int, ...]
    grids: Tensor
    trajectory: Tensor
    times: Tensor
    rates: dict[int, float]

    def estimates(self) -> dict[str, dict[int, Estimate]]:
        """Average over sampling seeds."""
        return {
            name: {nfe: Estimate.from_values(seeds) for nfe, seeds in curve.items()}
            for name, curve in self.values.items()
        }

    def collapsed(self) -> dict[int, str]:
        """Say by budget what has collapsed, measured against real images (see `isocline.metrics.collapse`)."""
        found, names = self.estimates(), ("recall", "class_balance_tv")

        def diversity(values: Mapping[str, Estimate | None]) -> Diversity:
            return Diversity(*(value.mean if (value := values.get(name)) else None for name in names))

        real = diversity(self.floor)
        by_budget = {nfe: diversity({name: found.get(name, {}).get(nfe) for name in names}) for nfe in self.nfe}
        return {nfe: ", ".join(phrases) for nfe, made in by_budget.items() if (phrases := collapse(made, real))}


def _batches(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def draw_samples(
    denoiser: Any,
    sampler: Any,
    *,
    seed: int,
    count: int,
    nfe: int,
    shape: Sequence[int],
    batch_size: int,
    classes: int = 0,
    device: str | torch.device = "cpu",
) -> Drawn:
    """Sample ``count`` images; all noise of image i, at the start and on the way, depends on (seed, i) alone.

    Args:
        denoiser: what the sampler integrates, see `isocline.processes.denoiser.Denoiser`.
        sampler: has ``sample(denoiser, x1, nfe, cond, generator)``.
        seed: sampling seed.
        count: images.
        nfe: function evaluations per image.
        shape: event shape ``(C, H, W)``.
        batch_size: images at once.
        classes: class labels of a conditional network; image i is given label ``i mod classes``.
        device: where the network is.
    """
    parts, spent, began = [], [], time.perf_counter()
    for rows in _batches(count, batch_size):
        noise = sample_noise(seed, "sample", rows, shape).to(device)
        labels = torch.tensor([i % classes for i in rows], device=device) if classes else None
        streams = [generator(seed, "steps", i) for i in rows]
        with torch.inference_mode():
            solution = sampler.sample(denoiser, noise, nfe, cond=labels, generator=streams)
            solution.raise_on_failure()
            parts.append(solution.final.cpu())
        spent.append(solution.stats.nfe.cpu())
    return Drawn(torch.cat(parts), torch.cat(spent), time.perf_counter() - began)


def evaluate_images(
    denoiser: Any,
    sampler: Any,
    reference: ImageReference,
    settings: ImageSettings,
    seed: int,
    *,
    classes: int = 0,
    shape: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> ImageEvaluation:
    """Measure a model at every budget and sampling seed.

    Args:
        denoiser: network and process.
        sampler: see `draw_samples`.
        reference: real images under the judge.
        settings: sizes and budgets.
        seed: run seed; not the model's, so that all models share their noise.
        classes: class labels of a conditional network, 0 for none.
        shape: of the noise; the images' by default (a sampler that decodes starts from another one).
        device: where the network is.
        progress: told what has just been measured.

    Raises:
        ValueError: if a metric is not finite.
        isocline.solvers.solution.SolverError: if sampling fails, naming sample and time.
    """
    values: Curve = {}
    grids: list[Tensor] = []
    rates: dict[int, float] = {}
    shape = tuple(reference.test.images.shape[1:]) if shape is None else tuple(shape)
    for nfe in settings.nfe:
        seconds = 0.0
        for index in range(settings.seeds):
            drawn = draw_samples(
                denoiser, sampler,
                seed=derive_seed(seed, "evaluate", index), count=settings.samples, nfe=nfe, shape=shape,
                batch_size=settings.batch_size, classes=classes, device=device,
            )  # fmt: skip
            images = to_uint8(drawn.samples)
            seen = reference.see(images)
            found = [item for metric in settings.measured(nfe) for item in metric(seen, reference).items()]
            for name, value in [*found, ("spent_nfe", float(drawn.nfe))]:
                values.setdefault(name, {}).setdefault(nfe, []).append(value)
            seconds += drawn.seconds
            if index == 0:
                grids.append(images[: settings.grid])
        rates[nfe] = settings.samples * settings.seeds / max(seconds, 1e-9)
        shown = next(iter(values))
        progress(f"NFE {nfe}: {shown} {Estimate.from_values(values[shown][nfe]).mean:.3g}")
    times, states = _trajectory(denoiser, sampler, settings, seed, shape, classes, device)
    return ImageEvaluation(
        values=values,
        floor=image_floor(reference, settings.measured(None), settings.samples, settings.seeds, seed),
        nfe=tuple(settings.nfe),
        grids=torch.stack(grids),
        trajectory=states,
        times=times,
        rates=rates,
    )


def _trajectory(
    denoiser: Any,
    sampler: Any,
    settings: ImageSettings,
    seed: int,
    shape: Sequence[int],
    classes: int,
    device: str | torch.device,
) -> tuple[Tensor, Tensor]:
    """Return the times ``(S,)`` and quantised states ``(S, B, C, H, W)`` of a few samples."""
    first, rows = derive_seed(seed, "evaluate", 0), range(settings.trajectory)
    noise = sample_noise(first, "sample", rows, shape).to(device)
    labels = torch.tensor([i % classes for i in rows], device=device) if classes else None
    stream = generator(first, "steps", 0, device=device)
    with torch.inference_mode():
        solution = sampler.sample(
            denoiser, noise, settings.trajectory_nfe, cond=labels, generator=stream, save_steps=True
        )
        solution.raise_on_failure()
        states = torch.stack([to_uint8(state) for state in solution.ys]).cpu()
    return solution.ts.double().cpu().reshape(len(states), -1)[:, 0].clone(), states
