"""The shape of a model's trajectories, measured alike for every model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from isocline.metrics.trajectory_shape import TrajectoryShape, trajectory_shape
from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.probability_flow import LinearPathVariable
from isocline.randomness import derive_seed, sample_noise
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.solvers.explicit import Euler

__all__ = ["flow_shape"]


def flow_shape(
    denoiser: AbstractDenoiser,
    seed: int,
    *,
    count: int,
    steps: int,
    shape: Sequence[int],
    classes: int = 0,
    device: str | torch.device = "cpu",
) -> TrajectoryShape:
    """Follow a model's field in DDIM steps of equal time and measure the paths.

    The sampler is the same for teachers and students, whatever their own: one that adds noise on the way has no
    trajectories to compare. The noise of path i depends on (seed, i) alone, so models are compared path by path.

    Args:
        denoiser: network and process.
        seed: run seed, see `isocline.metrics.image_evaluation.evaluate_images`.
        count: trajectories.
        steps: of each; straightness and curvature are those of the polygon.
        shape: event shape of the noise.
        classes: class labels of a conditional network; path i is given label ``i mod classes``.
        device: where the network is.
    """
    noise = sample_noise(derive_seed(seed, "evaluate", 0), "sample", range(count), shape).to(device)
    labels = torch.arange(count, device=device) % classes if classes else None
    sampler = ContinuousSampler(Euler(), UniformTimeGrid(), LinearPathVariable())
    with torch.inference_mode():
        solution = sampler.sample(denoiser, noise, steps, cond=labels, save_steps=True)
    return trajectory_shape(solution.raise_on_failure(), denoiser.process)
