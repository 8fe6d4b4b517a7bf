"""Evaluate an image model: distances over function evaluations, with the spread over sampling seeds.

The noise of sample i under seed s is the same for every model and every NFE, so that differences between models and
along a curve are paired. Real and generated images are quantised once, by the same rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from isocline.datasets.quantisation import to_uint8
from isocline.metrics.class_balance import class_balance, class_shares
from isocline.metrics.frechet import FrechetDistance
from isocline.metrics.kernel_distance import kernel_distance
from isocline.metrics.memorisation import memorisation
from isocline.metrics.precision_recall import precision_recall
from isocline.metrics.settings import ImageSettings
from isocline.metrics.uncertainty import Estimate
from isocline.randomness import derive_seed, generator, sample_noise

__all__ = ["Curve", "Drawn", "ImageEvaluation", "ImageJudge", "ImageReference", "draw_images", "evaluate_images"]

Curve = dict[str, dict[int, list[float]]]
"""Metric name to NFE to one value per sampling seed."""


class ImageJudge(Protocol):
    """A classifier whose inner features measure distances between image sets."""

    def features(self, images: Tensor) -> Tensor:
        """Map uint8 images ``(N, C, H, W)`` to features ``(N, d)``."""

    def logits(self, images: Tensor) -> Tensor:
        """Map uint8 images ``(N, C, H, W)`` to class logits ``(N, K)``."""


class Drawn(NamedTuple):
    """Generated images.

    Attributes:
        images: uint8 ``(N, C, H, W)`` on the CPU.
        nfe: largest number of function evaluations that any of them took.
        seconds: wall-clock time of sampling, for the tracker only.
    """

    images: Tensor
    nfe: int
    seconds: float


class ImageReference:
    """Real images as the judge sees them; computed once and used for every NFE and seed.

    Args:
        judge: see `ImageJudge`.
        train: training images ``(M, C, H, W)`` uint8.
        test: held-out images ``(K, C, H, W)`` uint8: the reference of all distances.
    """

    def __init__(self, judge: ImageJudge, train: Tensor, test: Tensor) -> None:
        self.judge, self.train, self.test = judge, train, test
        self.train_features, self.test_features = judge.features(train), judge.features(test)
        self.frechet = FrechetDistance(self.test_features)
        self.frechet_train = FrechetDistance(self.train_features)
        logits = judge.logits(test)
        self.shares = class_shares(logits.argmax(dim=1), logits.shape[1])

    def distances(self, images: Tensor) -> dict[str, float]:
        """Fréchet and kernel distances and class balance of uint8 images ``(N, C, H, W)``."""
        features = self.judge.features(images)
        balance = class_balance(self.judge.logits(images), self.shares)
        return {
            "frechet": self.frechet(features),
            "frechet_train": self.frechet_train(features),
            "kernel": kernel_distance(features, self.test_features),
            "class_entropy": balance.entropy,
            "class_balance_tv": balance.total_variation,
        }

    def detail(self, images: Tensor, neighbours: int) -> dict[str, float]:
        """Precision, recall, density, coverage and memorisation of uint8 images ``(N, C, H, W)``."""
        manifold = precision_recall(self.test_features, self.judge.features(images), neighbours)
        copied = memorisation(images, self.train, self.test)
        return {**manifold._asdict(), "memorisation": copied.ratio, "copies": copied.copies}

    def floor(self, samples: int, seeds: int, seed: int, neighbours: int) -> dict[str, Estimate]:
        """Measure real training images as if a model had drawn them: what a perfect model would score.

        Args:
            samples: images per set; at most the whole training split is used.
            seeds: sets, drawn without replacement from the training split, each on its own.
            seed: run seed.
            neighbours: k of precision and recall.
        """
        rows: list[dict[str, float]] = []
        for index in range(seeds):
            order = torch.randperm(len(self.train), generator=generator(seed, "floor", index))[:samples]
            images = self.train[order]
            found = self.distances(images)
            found.pop("frechet_train")
            manifold = precision_recall(self.test_features, self.judge.features(images), neighbours)
            rows.append({**found, **manifold._asdict()})
        return {name: Estimate.from_values([row[name] for row in rows]) for name in rows[0]}


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


def _batches(count: int, size: int) -> Iterator[range]:
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def draw_images(
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
    """Sample ``count`` images; image i starts from noise that depends on (seed, i) alone.

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
    parts, spent, began = [], 0, time.perf_counter()
    for rows in _batches(count, batch_size):
        noise = sample_noise(seed, "sample", rows, shape).to(device)
        labels = torch.tensor([i % classes for i in rows], device=device) if classes else None
        stream = generator(seed, "steps", rows.start, device=device)
        with torch.inference_mode():
            solution = sampler.sample(denoiser, noise, nfe, cond=labels, generator=stream)
            solution.raise_on_failure()
            parts.append(to_uint8(solution.final).cpu())
        spent = max(spent, int(solution.stats.nfe.max()))
    return Drawn(torch.cat(parts), spent, time.perf_counter() - began)


def evaluate_images(
    denoiser: Any,
    sampler: Any,
    reference: ImageReference,
    settings: ImageSettings,
    seed: int,
    *,
    classes: int = 0,
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> ImageEvaluation:
    """Measure a model at every budget and sampling seed.

    Args:
        denoiser: network and process.
        sampler: see `draw_images`.
        reference: real images under the judge.
        settings: sizes and budgets.
        seed: run seed; not the model's, so that all models share their noise.
        classes: class labels of a conditional network, 0 for none.
        device: where the network is.
        progress: told what has just been measured.

    Raises:
        ValueError: if a metric is not finite.
        isocline.solvers.solution.SolverError: if sampling fails, naming sample and time.
    """
    values: Curve = {}
    grids: list[Tensor] = []
    rates: dict[int, float] = {}
    shape = tuple(reference.test.shape[1:])
    for nfe in settings.nfe:
        seconds = 0.0
        for index in range(settings.seeds):
            drawn = draw_images(
                denoiser, sampler,
                seed=derive_seed(seed, "evaluate", index), count=settings.samples, nfe=nfe, shape=shape,
                batch_size=settings.batch_size, classes=classes, device=device,
            )  # fmt: skip
            found = {**reference.distances(drawn.images), "spent_nfe": float(drawn.nfe)}
            if nfe in settings.detail_nfe:
                found.update(reference.detail(drawn.images, settings.neighbours))
            for name, value in found.items():
                values.setdefault(name, {}).setdefault(nfe, []).append(value)
            seconds += drawn.seconds
            if index == 0:
                grids.append(drawn.images[: settings.grid])
        rates[nfe] = settings.samples * settings.seeds / max(seconds, 1e-9)
        progress(f"NFE {nfe}: judge Fréchet {Estimate.from_values(values['frechet'][nfe]).mean:.3g}")
    times, states = _trajectory(denoiser, sampler, settings, seed, shape, classes, device)
    return ImageEvaluation(
        values=values,
        floor=reference.floor(settings.samples, settings.seeds, seed, settings.neighbours),
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
