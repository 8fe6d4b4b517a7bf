"""Sampling in a latent space: what a sampler draws there, decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.randomness import Streams
from isocline.samplers.base import AbstractSampler
from isocline.solvers.solution import Solution

__all__ = ["LatentSampler"]


class LatentSampler(AbstractSampler):
    """Draw latents by any sampler and decode every state that it keeps.

    Noise and network live in the latent space, the solution's states in that of the data; the decoder is no network
    evaluation in ``stats.nfe``.

    Args:
        sampler: draws latents.
        decode: latents ``(B, c, h, w)`` to images ``(B, C, H, W)``.
    """

    def __init__(self, sampler: AbstractSampler, decode: Callable[[Tensor], Tensor]) -> None:
        self.sampler = sampler
        self.decode = decode
        self.grid = sampler.grid

    def sample(
        self,
        denoiser: AbstractDenoiser,
        x1: Tensor,
        nfe: int,
        cond: Any = None,
        generator: Streams | None = None,
        save_steps: bool = False,
    ) -> Solution:
        """Generate; x1 has the latents' shape. See the base class."""
        solution = self.sampler.sample(denoiser, x1, nfe, cond, generator, save_steps)
        return dataclasses.replace(solution, ys=torch.stack([self.decode(state) for state in solution.ys]))

    def on(self, grid: Any) -> Self:
        """The same sampler on another grid; see the base class."""
        return type(self)(self.sampler.on(grid), self.decode)
