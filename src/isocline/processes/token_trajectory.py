"""Deterministic trajectories of tokens: one noise for all times, so that states at two times belong to each other."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isocline.processes.kernel import AbstractFixedNoiseKernel, uniforms
from isocline.shapes import expand_like

__all__ = ["TokenTrajectory", "draw_trajectory"]


class TokenTrajectory(NamedTuple):
    """Where clean tokens are at every time: z_t = x where u < a(t), the noise token elsewhere.

    Every position changes at most once, at the time at which a(t) = u. The state at t has the kernel's law q_t(·|x);
    jointly the states of two times have another law than under the kernel's forward chain, which draws new noise on
    its way.

    For the uniform kernel these are, in law, the trajectories z_t = argmax(α_t e_x + σ_t ε) of a Gaussian diffusion of
    one-hot vectors with one ε (`isocline.processes.decided_schedule`), the probability flow of a law of one point: the
    arg-max is x from the time on at which α/σ passes the gap max_{j≠x} ε_j − ε_x, and before it the symbol of the
    largest other ε_j, uniform on the others. That costs V normal numbers for each token, this two uniform ones.

    Source: *The Diffusion Duality*, Sahoo et al., 2025, §4.2 (deterministic discrete trajectories).

    Attributes:
        kernel: gives a(t).
        x0: clean tokens, ``(B, L)``.
        noise: what they turn into, ``(B, L)``.
        share: u, ``(B, L)`` float64 in [0, 1).
    """

    kernel: AbstractFixedNoiseKernel
    x0: Tensor
    noise: Tensor
    share: Tensor

    def at(self, t: Tensor) -> Tensor:
        """Return the state at ``t``, ``()`` or ``(B,)``; int64 ``(B, L)``."""
        return torch.where(self.share < expand_like(self.kernel.schedule.a(t), self.x0), self.x0, self.noise)


def draw_trajectory(kernel: AbstractFixedNoiseKernel, x0: Tensor, generator: torch.Generator) -> TokenTrajectory:
    """Draw the noise of clean tokens ``x0`` ``(B, L)``."""
    share = uniforms(x0.shape, generator, x0.device)
    return TokenTrajectory(kernel, x0, kernel.prior(x0.shape, generator, x0.device), share)
