"""What a network sees of a noisy state: an input of unit variance, and the noise level in place of the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from isocline.processes.schedule import AbstractSchedule
from isocline.shapes import expand_like

__all__ = ["Preconditioned", "preconditioned"]


class Preconditioned(nn.Module):
    """``network(c_noise, c_in x, cond)`` with c_in = 1/√(σ² + α² σ_d²) and c_noise = ¼ ln(σ/α).

    Inputs have unit variance at every noise level for data of variance σ_d², where VE's own states have standard
    deviations up to 50. c_skip and c_out are the business of
    `isocline.processes.prediction.PreconditionedPrediction`, which the raw output then is. The factors are float64
    until they meet x, so that autocast never rounds a noise level.

    Source: *Elucidating the Design Space of Diffusion-Based Generative Models*, Karras et al., 2022, Table 1.

    Args:
        network: called as ``network(t, x, cond)``.
        schedule: of the process in training, with α and σ above 0 on [t_min, t_max] and at every end of a flow map:
            c_noise is infinite elsewhere.
        sigma_data: σ_d, the data's standard deviation.

    Raises:
        ValueError: if sigma_data is not above 0.
    """

    def __init__(self, network: nn.Module, schedule: AbstractSchedule, sigma_data: float) -> None:
        super().__init__()
        if not sigma_data > 0:
            raise ValueError(f"sigma_data={sigma_data} must be above 0")
        self.network = network
        self.schedule = schedule
        self.sigma_data = sigma_data

    @property
    def takes_end(self) -> bool:
        """Whether the network takes the end of a flow map."""
        return bool(getattr(self.network, "takes_end", False))

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """Evaluate at ``t`` ``()`` or ``(B,)`` and ``x`` ``(B, *event)``; what the network returns."""
        values = self.schedule(t)
        scale = (values.sigma.square() + (values.alpha * self.sigma_data).square()).rsqrt()
        end = () if s is None else (-0.25 * self.schedule.log_ratio(s),)
        return self.network(-0.25 * values.log_ratio, expand_like(scale.to(x.dtype), x) * x, cond, *end)  # type: ignore[no-any-return]


def preconditioned(
    network: Callable[..., nn.Module], schedule: AbstractSchedule, sigma_data: float, **sizes: Any
) -> Preconditioned:
    """Build a network and precondition it; its sizes stay beside the wrapper's, in one section of a configuration.

    Args:
        network: makes the raw network from ``sizes``.
        schedule: see `Preconditioned`.
        sigma_data: see `Preconditioned`.
        **sizes: arguments of ``network``.

    Raises:
        ValueError: if sigma_data is not above 0, or from ``network``.
    """
    return Preconditioned(network(**sizes), schedule, sigma_data)
