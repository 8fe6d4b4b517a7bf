"""Interpolants between two Gaussian mixtures, of which velocity and noise are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.mixture import GaussianMixture
from isocline.processes.stochastic_interpolant import StochasticInterpolant

D = torch.float64
FIRST = GaussianMixture(
    torch.tensor([0.4, 0.6]), torch.tensor([[1.0, -0.5], [-0.6, 0.4]]), torch.tensor([[0.04, 0.1], [0.1, 0.05]])
)
SECOND = GaussianMixture(
    torch.tensor([0.7, 0.3]), torch.tensor([[0.2, 1.0], [-1.0, -1.0]]), torch.tensor([[0.2, 0.03], [0.05, 0.1]])
)


class ExactInterpolant(nn.Module):
    """E[ẋ | x_t = x] and E[z | x_t = x] for independent ends: a mixture over pairs of components.

    Given the pair, x_t is Gaussian with mean m = (1 − t) m_0 + t m_1 and variance C = (1 − t)² v_0 + t² v_1 + γ², and
    E[x_i | x] = m_i + c_i (x − m)/C with c_0 = (1 − t) v_0, c_1 = t v_1, E[z | x] = γ (x − m)/C.
    """

    def __init__(self, interpolant: StochasticInterpolant, first: GaussianMixture, second: GaussianMixture) -> None:
        super().__init__()
        self.interpolant = interpolant
        self.log_weights = (first.weights[:, None] * second.weights[None]).log().reshape(-1)
        pairs = len(second.weights), len(first.weights)
        self.m0, self.v0 = (part.repeat_interleave(pairs[0], 0) for part in (first.means, first.variances))
        self.m1, self.v1 = (part.repeat(pairs[1], 1) for part in (second.means, second.variances))

    def _posterior(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of pairs ``(B, K, 1)``, (x − m)/C ``(B, K, d)``, times ``(B, 1, 1)``."""
        t = t.reshape(-1, 1, 1).to(D)
        mean = (1 - t) * self.m0 + t * self.m1
        variance = (1 - t) ** 2 * self.v0 + t**2 * self.v1 + self.interpolant.gamma(t) ** 2
        centred = x[:, None] - mean
        log = self.log_weights - 0.5 * (centred**2 / variance + variance.log() + math.log(2 * math.pi)).sum(-1)
        return log.softmax(-1)[..., None], centred / variance, t

    def noise(self, t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        share, pull, t = self._posterior(t, x)
        return (share * self.interpolant.gamma(t) * pull).sum(1)

    def velocity(self, t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        share, pull, t = self._posterior(t, x)
        gain = t * self.v1 - (1 - t) * self.v0 + self.interpolant.noise**2 * (1 - 2 * t) / 2  # γ γ̇ at the end
        return (share * (self.m1 - self.m0 + gain * pull)).sum(1)
