"""Gaussian processes x_t = α_t x_0 + σ_t x_1: diffusion and flow matching are two schedules of one path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.processes.prediction import AbstractPrediction
from isocline.processes.schedule import AbstractSchedule, ScheduleValues
from isocline.shapes import expand_like

__all__ = ["GaussianProcess", "PathSample"]


class PathSample(NamedTuple):
    """A point of the path.

    Attributes:
        t: times ``(B,)`` or ``()``.
        x: noisy state α x_0 + σ x_1, ``(B, *event)``.
        x0: data.
        x1: unit-variance noise.
        target: what the network is to predict, ``(B, *event)``.
        values: the schedule at t.
    """

    t: Tensor
    x: Tensor
    x0: Tensor
    x1: Tensor
    target: Tensor
    values: ScheduleValues


class GaussianProcess:
    """A schedule together with what the network predicts and the times at which it is trained.

    Choose ``t_min > 0`` where the prediction or the velocity is not defined at t = 0: a noise prediction under
    VP-linear, whose σ̇ diverges there, is trained on [t_min, 1]. Samplers never ask the network for a time outside
    ``[t_min, t_max]``; whether they stop at t_min or take a last step to 0 is their variable's choice and documented
    there.

    Args:
        schedule: gives α, σ and their derivatives.
        prediction: what the network predicts.
        t_min: smallest time of training.
        t_max: largest time of training; below 1 for a noise prediction under a schedule with α(1) = 0.

    Raises:
        ValueError: unless 0 <= t_min < t_max <= 1.
    """

    def __init__(
        self,
        schedule: AbstractSchedule,
        prediction: AbstractPrediction,
        t_min: float = 0.0,
        t_max: float = 1.0,
    ) -> None:
        if not 0 <= t_min < t_max <= 1:
            raise ValueError(f"t_min={t_min} and t_max={t_max} must satisfy 0 <= t_min < t_max <= 1")
        self.schedule = schedule
        self.prediction = prediction
        self.t_min = t_min
        self.t_max = t_max

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> PathSample:
        """Return the state at time t between data and noise, with the network's target.

        Args:
            x0: data ``(B, *event)``.
            x1: unit-variance noise, same shape and dtype.
            t: times ``()`` or ``(B,)``.

        Returns:
            The named parts; ``x`` and ``target`` have x0's dtype.
        """
        values = self.schedule(t)
        x = self.mix(x0, x1, values)
        return PathSample(t, x, x0, x1, self.prediction.target(x0, x1, values), values)

    @staticmethod
    def mix(x0: Tensor, x1: Tensor, values: ScheduleValues) -> Tensor:
        """Return α x_0 + σ x_1 for schedule values of shape ``()`` or ``(B,)``."""
        alpha = expand_like(values.alpha.to(x0.dtype), x0)
        sigma = expand_like(values.sigma.to(x0.dtype), x0)
        return alpha * x0 + sigma * x1

    def prior(self, x1: Tensor) -> Tensor:
        """Return the state from which generation starts, σ(t_max) x_1 for unit noise x_1 ``(B, *event)``.

        It drops the α(t_max) x_0 that the process still carries at t_max (0.7 % of the data under VP-linear).
        """
        return x1 * float(self.schedule(self.t_max).sigma)

    def prior_log_density(self, x: Tensor) -> Tensor:
        """Return ln N(x; 0, σ(t_max)² I) in nats, float64 ``(B,)``, for states ``(B, *event)``."""
        flat = x.flatten(1).to(torch.float64)
        sigma = float(self.schedule(self.t_max).sigma)
        dimension = flat.shape[1]
        return -0.5 * (flat / sigma).square().sum(1) - dimension * (math.log(sigma) + 0.5 * math.log(2 * math.pi))

    def noise(self, shape: Sequence[int], generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw unit-variance noise of the given shape on the generator's device."""
        return torch.randn(*shape, generator=generator, dtype=dtype, device=generator.device)
