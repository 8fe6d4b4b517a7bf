"""The schedule of Gaussian noise on one-hot vectors under which the share of decided tokens falls linearly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isocline.processes.falling_table import FallingTable
from isocline.processes.schedule import AbstractSchedule, ScheduleValues
from isocline.processes.undecided_share import UndecidedShare, shifted_noise

__all__ = ["DecidedShareSchedule", "gaussian_undecided_share"]

_REACH, _NODES = 9.0, 257


def gaussian_undecided_share(ratio: Tensor, symbols: int) -> UndecidedShare:
    """Probability that arg-max is wrong, from 1 at ratio 0, and its derivative.

    For z = ρ e_k + ε in S dimensions arg-max z = k has probability ∫ φ(y) Φ(y + ρ)^{S−1} dy, from 1/S to 1; returned is
    u(ρ) = (1 − that)/(1 − 1/S). The trapezoidal rule is exact to rounding on integrands of this kind.

    Args:
        ratio: ρ = α/σ at least 0, any shape, float64.
        symbols: S.

    Returns:
        u and du/dρ, shape of ratio.
    """
    rho = ratio.unsqueeze(-1)
    # Wrong decisions come from y about −ρ/2, far out in the tail of φ where ρ is large.
    low, unit = -_REACH - 0.5 * rho, torch.linspace(0.0, 1.0, _NODES, dtype=torch.float64, device=ratio.device)
    span = _REACH - low
    y = low + span * unit
    step = span.squeeze(-1) / (_NODES - 1)
    weights = _density(y) * step.unsqueeze(-1)
    return shifted_noise(weights, torch.special.log_ndtr(y + rho), _density(y + rho), symbols)


def _density(y: Tensor) -> Tensor:
    """Normal density."""
    return torch.exp(-0.5 * y.square()) / math.sqrt(2 * math.pi)


class DecidedShareSchedule(AbstractSchedule):
    """α = c, σ = 1 − c, with c(t) such that arg-max of a one-hot vector's noisy state is right at rate 1 − t (1 − 1/S).

    Between c = 0 and 1 almost all of a token is decided within a small range that depends on S; uniform times would
    fall outside of it. At t = 1 the state is noise and at t = 0 it is data; c's slope is infinite at t = 0.

    Source: *The Diffusion Duality*, Sahoo et al., 2025 (arg-max of a Gaussian diffusion of one-hot vectors is a
    uniform-state diffusion of tokens, whose survival probability is linear under this schedule).

    Args:
        symbols: S, the length of a one-hot vector.
        scale: length of the vectors, if they are s e_k instead of e_k.

    Raises:
        ValueError: if there are not two symbols, or scale is not above 0.
    """

    def __init__(self, symbols: int, scale: float = 1.0) -> None:
        if symbols < 2:
            raise ValueError(f"symbols = {symbols}: a choice needs at least two")
        if not scale > 0:
            raise ValueError(f"scale = {scale}: must be above 0")
        self.symbols, self.scale = symbols, scale
        self._table = FallingTable(lambda ratio: gaussian_undecided_share(ratio, symbols), last=40.0)

    def _values(self, t: Tensor) -> ScheduleValues:
        rho, slope = (part / self.scale for part in self._table.inverse(t))
        sigma = 1.0 / (1.0 + rho)
        alpha, dalpha = rho * sigma, slope * sigma.square()
        ended = t <= 0
        alpha, sigma = alpha.masked_fill(ended, 1.0), sigma.masked_fill(ended, 0.0)
        dalpha = dalpha.masked_fill(ended, -torch.inf)
        return ScheduleValues(alpha, sigma, dalpha, -dalpha)

    def inverse_log_ratio(self, log_ratio: Tensor | float) -> Tensor:
        """Return u(s e^λ)."""
        ratio = torch.as_tensor(log_ratio, dtype=torch.float64).exp() * self.scale
        return self._table.value(ratio)
