"""The schedule of Gaussian noise on one-hot vectors under which the share of decided tokens falls linearly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isocline.processes.schedule import AbstractSchedule, ScheduleValues

__all__ = ["DecidedShareSchedule", "undecided_share"]

_REACH, _NODES = 9.0, 257
_LAST, _ROWS = 40.0, 2001
_WIDTH = _LAST / (_ROWS - 1)


def undecided_share(ratio: Tensor, symbols: int) -> tuple[Tensor, Tensor]:
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
    density = torch.exp(-0.5 * y.square()) / math.sqrt(2 * math.pi)
    below = torch.special.log_ndtr(y + rho)
    wrong = -torch.expm1((symbols - 1) * below)
    slope = (symbols - 1) * torch.exp((symbols - 2) * below - 0.5 * (y + rho).square()) / math.sqrt(2 * math.pi)
    whole = 1.0 - 1.0 / symbols
    return (density * wrong).sum(-1) * step / whole, -(density * slope).sum(-1) * step / whole


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
        ratios = torch.linspace(0.0, _LAST, _ROWS, dtype=torch.float64)
        share, slope = undecided_share(ratios, symbols)
        self._table = torch.stack([share.log(), slope / share * _WIDTH])

    def _cubic(self, cell: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Coefficients in the share of a cell, lowest first, of the cubic with the table's values and slopes."""
        (y0, d0), (y1, d1) = table[:, cell], table[:, cell + 1]
        return y0, d0, 3 * (y1 - y0) - 2 * d0 - d1, 2 * (y0 - y1) + d0 + d1

    def _log_share(self, ratio: Tensor) -> Tensor:
        """Ln u(ρ), read from the table."""
        place = (ratio / _WIDTH).clamp(0.0, _ROWS - 1.0)
        cell = place.long().clamp(max=_ROWS - 2)
        c0, c1, c2, c3 = self._cubic(cell, self._table.to(ratio.device))
        x = place - cell
        return c0 + x * (c1 + x * (c2 + x * c3))

    def _ratio(self, log_share: Tensor) -> tuple[Tensor, Tensor]:
        """The ρ with ln u(ρ) = log_share by Newton's method on the table's cubic, and dρ/d ln u."""
        table = self._table.to(log_share.device)
        wanted = log_share.clamp(float(table[0, -1]), 0.0)
        # ln u falls; searchsorted wants it to rise.
        cell = (torch.searchsorted(-table[0], -wanted) - 1).clamp(0, _ROWS - 2)
        c0, c1, c2, c3 = self._cubic(cell, table)
        x = (wanted - c0) / (table[0, cell + 1] - c0)
        for _ in range(4):
            x = x - (c0 - wanted + x * (c1 + x * (c2 + x * c3))) / (c1 + x * (2 * c2 + x * 3 * c3))
        return (cell + x) * _WIDTH, _WIDTH / (c1 + x * (2 * c2 + x * 3 * c3))

    def _values(self, t: Tensor) -> ScheduleValues:
        rho, slope = (part / self.scale for part in self._ratio(t.log()))
        sigma = 1.0 / (1.0 + rho)
        alpha, dalpha = rho * sigma, slope * sigma.square() / t
        ended = t <= 0
        alpha, sigma = alpha.masked_fill(ended, 1.0), sigma.masked_fill(ended, 0.0)
        dalpha = dalpha.masked_fill(ended, -torch.inf)
        return ScheduleValues(alpha, sigma, dalpha, -dalpha)

    def inverse_log_ratio(self, log_ratio: Tensor | float) -> Tensor:
        """Return u(s e^λ)."""
        ratio = torch.as_tensor(log_ratio, dtype=torch.float64).exp() * self.scale
        return torch.where(ratio < _LAST, self._log_share(ratio).exp(), 0.0)
