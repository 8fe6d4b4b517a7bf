"""The family of reverse-time equations that share the process's laws, from the flow (η = 0) to Anderson's SDE (η = 1).

dx = [F x − ½ (1 + η²) g² s(x, t)] dt + η g dw̄ with F = α̇/α and g² = 2σσ̇ − 2Fσ², which is the flow's velocity plus
½ η² g² ε/σ. With r = σ̇ − σ α̇/α (α times the speed of σ/α): g² = 2σ r, and the drift is the prediction
α̇ x_0 + (σ̇ + η² r) ε, one network forward.

On the straight path y = (1 − s) x_0 + s ε of `LinearPathVariable`, in λ = ln((1 − s)/s), which increases towards data,
the family is dy = [s (1 − s) x_0 − s (1 − s + η²) ε] dλ + η √2 s dw: the same for every process, and of order one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import AbstractPrediction, Coefficients
from isocline.processes.probability_flow import LinearPathVariable
from isocline.processes.schedule import ScheduleValues
from isocline.shapes import expand_like
from isocline.solvers.problem import VectorField

__all__ = [
    "ReverseDriftPrediction",
    "StraightDriftPrediction",
    "reverse_diffusion",
    "reverse_drift",
    "straight_diffusion",
    "straight_drift",
]


class ReverseDriftPrediction(AbstractPrediction):
    """p = α̇ x_0 + (σ̇ + η² r) ε: the drift, in the time of the process. Infinite where α = 0, and where σ̇ is.

    Args:
        eta: η.

    Source: *Score-Based Generative Modeling through SDEs*, Song et al., 2021, Eqs. 6 and 13; for the family *A
    Variational Perspective on Diffusion-Based Generative Models*, Huang et al., 2021, App. H.
    """

    def __init__(self, eta: float) -> None:
        self.eta = eta

    def scaled_coefficients(self, values: ScheduleValues) -> Coefficients:
        """Return (α̇, σ̇ + η² r, 1)."""
        noise = values.dsigma + self.eta**2 * _rate(values)
        return Coefficients(values.dalpha, noise, torch.ones_like(values.alpha))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReverseDriftPrediction) and self.eta == other.eta

    def __hash__(self) -> int:
        return hash((type(self), self.eta))


def reverse_drift(denoiser: AbstractDenoiser, eta: float) -> VectorField:
    """Return the drift as a function of (t, x, cond), for an `SDEProblem` solved from noise to data.

    Args:
        denoiser: asked once a call.
        eta: η.
    """
    prediction = ReverseDriftPrediction(eta)

    def drift(t: Tensor, x: Tensor, cond: Any) -> Tensor:
        return denoiser.predict(t, x, cond, prediction)

    return drift


def reverse_diffusion(process: GaussianProcess, eta: float) -> VectorField:
    """Return η g(t) as a function of (t, x, cond), broadcastable to x; it depends on t alone.

    Args:
        process: gives the schedule.
        eta: η.
    """

    def diffusion(t: Tensor, x: Tensor, cond: Any) -> Tensor:
        values = process.schedule(t)
        return expand_like((eta * (2 * values.sigma * _rate(values)).sqrt()).to(x.dtype), x)

    return diffusion


class StraightDriftPrediction(AbstractPrediction):
    """p = s (1 − s) x_0 − s (1 − s + η²) ε with s = σ/(α + σ): the drift on the straight path in λ. Finite everywhere.

    Args:
        eta: η.
    """

    def __init__(self, eta: float) -> None:
        self.eta = eta

    def scaled_coefficients(self, values: ScheduleValues) -> Coefficients:
        """Return (s (1 − s), −s (1 − s + η²), 1)."""
        s = values.sigma / (values.alpha + values.sigma)
        return Coefficients(s * (1 - s), -s * (1 - s + self.eta**2), torch.ones_like(s))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StraightDriftPrediction) and self.eta == other.eta

    def __hash__(self) -> int:
        return hash((type(self), self.eta))


def straight_drift(denoiser: AbstractDenoiser, eta: float) -> VectorField:
    """Return dy/dλ without noise as a function of (λ, y, cond), for an `SDEProblem` solved from noise to data.

    Args:
        denoiser: asked once a call, at a time in [t_min, t_max].
        eta: η.
    """
    prediction, variable = StraightDriftPrediction(eta), LinearPathVariable()

    def drift(log_ratio: Tensor, y: Tensor, cond: Any) -> Tensor:
        t, x = variable.question(denoiser.process, torch.sigmoid(-log_ratio), y)
        return denoiser.predict(t, x, cond, prediction)

    return drift


def straight_diffusion(eta: float) -> VectorField:
    """Return η √2 s as a function of (λ, y, cond), broadcastable to y; it depends on λ alone.

    Args:
        eta: η.
    """

    def diffusion(log_ratio: Tensor, y: Tensor, cond: Any) -> Tensor:
        return expand_like((eta * 2**0.5 * torch.sigmoid(-log_ratio)).to(y.dtype), y)

    return diffusion


def _rate(values: ScheduleValues) -> Tensor:
    return values.dsigma - values.sigma * values.dalpha / values.alpha
