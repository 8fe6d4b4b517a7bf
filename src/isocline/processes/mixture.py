"""Gaussian-mixture data, for which everything about a Gaussian process is known in closed form: the tests' truth."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import AbstractPrediction
from isocline.processes.schedule import ScheduleValues

__all__ = ["ExactNetwork", "GaussianMixture"]


class GaussianMixture:
    """Σ_k w_k N(m_k, diag v_k) on R^d, in float64. A zero variance makes a point mass.

    At time t the law is Σ_k w_k N(α m_k, α² v_k + σ²).

    Args:
        weights: ``(K,)``, positive; normalised to sum to one.
        means: ``(K, d)``.
        variances: ``(K, d)``, not negative.

    Raises:
        ValueError: on shapes that do not fit, a weight that is not positive or a negative variance.
    """

    def __init__(self, weights: Tensor, means: Tensor, variances: Tensor) -> None:
        if means.ndim != 2 or weights.shape != means.shape[:1] or variances.shape != means.shape:
            raise ValueError(
                f"weights {tuple(weights.shape)}, means {tuple(means.shape)}, variances {tuple(variances.shape)}: "
                "expected (K,), (K, d), (K, d)"
            )
        if bool((weights <= 0).any()) or bool((variances < 0).any()):
            raise ValueError("weights must be positive and variances not negative")
        self.weights = (weights / weights.sum()).to(torch.float64)
        self.means = means.to(torch.float64)
        self.variances = variances.to(torch.float64)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n points, float64 ``(n, d)``."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + self.variances[k].sqrt() * noise

    @property
    def mean(self) -> Tensor:
        """Mean of the data, ``(d,)``."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """Covariance of the data, ``(d, d)``."""
        centred = self.means - self.mean
        between = torch.einsum("k,ki,kj->ij", self.weights, centred, centred)
        return between + torch.diag(self.weights @ self.variances)

    def log_density(self, values: ScheduleValues, x: Tensor) -> Tensor:
        """Return ln p_t(x) in nats, ``(B,)``, for x ``(B, d)``."""
        return self._log_components(values, x)[0].logsumexp(-1)

    def posterior(self, values: ScheduleValues, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return E[x_0 | x_t = x] and E[ε | x_t = x], each ``(B, d)``, without dividing by α or σ."""
        log_joint, centred, spread = self._log_components(values, x)
        share = log_joint.softmax(-1).unsqueeze(-1)
        alpha, sigma = self._columns(values)
        data = self.means + alpha * self.variances * centred / spread
        noise = sigma * centred / spread
        return (share * data).sum(1), (share * noise).sum(1)

    def predict(self, values: ScheduleValues, x: Tensor, to: AbstractPrediction) -> Tensor:
        """Return the exact prediction, the posterior mean of a x_0 + b ε, ``(B, d)``."""
        data, noise = self.posterior(values, x)
        a, b = to.coefficients(values)
        return a.reshape(-1, 1) * data + b.reshape(-1, 1) * noise

    def score(self, values: ScheduleValues, x: Tensor) -> Tensor:
        """Return ∇ ln p_t(x), ``(B, d)``."""
        log_joint, centred, spread = self._log_components(values, x)
        return -(log_joint.softmax(-1).unsqueeze(-1) * centred / spread).sum(1)

    def network(self, process: GaussianProcess) -> ExactNetwork:
        """Return the network that minimises every matching loss under the process."""
        return ExactNetwork(self, process)

    def _log_components(self, values: ScheduleValues, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Joint log densities ``(B, K)``, x − α m_k and α² v_k + σ², both ``(B, K, d)``."""
        alpha, sigma = self._columns(values)
        centred = x.to(torch.float64).unsqueeze(1) - alpha * self.means
        spread = (alpha.square() * self.variances + sigma.square()).expand_as(centred)
        quadratic = (centred.square() / spread + spread.log() + math.log(2 * math.pi)).sum(-1)
        return self.weights.log() - 0.5 * quadratic, centred, spread

    @staticmethod
    def _columns(values: ScheduleValues) -> tuple[Tensor, Tensor]:
        return values.alpha.reshape(-1, 1, 1), values.sigma.reshape(-1, 1, 1)


class ExactNetwork(nn.Module):
    """A mixture's exact prediction in the guise of a network.

    Args:
        mixture: the law of the data.
        process: what is predicted, under which schedule.
    """

    def __init__(self, mixture: GaussianMixture, process: GaussianProcess) -> None:
        super().__init__()
        self.mixture = mixture
        self.process = process

    def forward(self, t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        """Return the posterior mean of the process's prediction, shape ``(B, d)`` and dtype of x."""
        return self.mixture.predict(self.process.schedule(t), x, self.process.prediction).to(x.dtype)
