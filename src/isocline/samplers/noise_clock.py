"""How noise leaves a sequence while it is generated: when the next position may be redrawn, and where it goes.

Given its clean token x, a position follows the path q_t(·|x) = a δ_x + n_t with the fewest jumps. A symbol z ≠ x whose
noise falls as t does is left at the rate n'_t(z)/n_t(z), for the symbols that gain: x, at the rate −a' − n'(x), and
noise of rising mass, at −n'(y). A symbol that is x only gains. Where the law of noise is constant in time everything
goes to x, and the rates are those of discrete flow matching, −a'/(1−a) [p − δ_z] ("Discrete Flow Matching", Gat et
al., 2024); for moving noise they are the conditional rates of Campbell et al. ("Generative Flows on Discrete
State-Spaces", 2024) with the gains in proportion.

The rates of leaving depend on the network through the probability that z is x alone, which is at most one: candidates
can be drawn without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from isocline.processes.kernel import AbstractFixedNoiseKernel, AbstractKernel
from isocline.solvers.markov import draw_symbols

__all__ = ["AbstractNoiseClock", "FixedNoiseClock", "MovingNoiseClock", "noise_clock", "settle"]


def settle(z: Tensor, clean: Tensor, rise: Tensor, gain: Tensor, generator: torch.Generator) -> Tensor:
    """Where positions that leave their symbol go.

    Args:
        z: symbols left, ``(m,)``.
        clean: their clean tokens, ``(m,)``.
        rise: what the survival gains, over a step or per unit of time, ``(m,)``.
        gain: what noise gains likewise, ``(m, V)``; negative where it falls.
        generator: source of the draws, used only where noise gains.

    Returns:
        ``(m,)``; ``z`` itself where that is the clean token.
    """
    if not bool((gain > 0).any()):
        return clean
    at_clean = (gain.gather(1, clean[:, None])[:, 0] + rise).clamp(min=0)
    weights = gain.clamp(min=0).scatter(1, clean[:, None], at_clean[:, None])
    return torch.where(clean == z, clean, draw_symbols(weights, generator))


class AbstractNoiseClock(ABC):
    """When positions may be redrawn.

    Args:
        kernel: the corruption that is undone.
    """

    def __init__(self, kernel: AbstractKernel) -> None:
        self.kernel = kernel

    @abstractmethod
    def after(self, t: Tensor, z: Tensor, amount: Tensor) -> Tensor:
        """The time at which the rates of all positions have integrated to an amount.

        Args:
            t: present times, ``(B,)`` float64.
            z: tokens, ``(B, L)``, some of which may be noise in every row.
            amount: ``(B,)`` float64, positive.

        Returns:
            ``(B,)``, between 0 and ``t``.
        """

    def hazard(self, t: Tensor, z: Tensor) -> Tensor:
        """Rate at which each position leaves its symbol if that is not the clean one, ``(B, L)``, for ``t`` ``(B,)``.

        Up to a factor of each row.
        """
        noise, slope = (
            values.to(z.device).gather(1, z) for values in (self.kernel.noise(t), self.kernel.noise_rate(t))
        )
        return torch.where(noise > 0, slope / noise, 0.0).clamp(min=0)

    def destinations(self, t: Tensor, z: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        """Where positions that leave ``z`` ``(n,)`` at ``t`` ``(n,)`` go, given clean tokens ``(n,)``."""
        gain = -self.kernel.noise_rate(t).to(z.device)
        return settle(z, clean, -self.kernel.schedule.da(t).to(z.device), gain, generator)


class FixedNoiseClock(AbstractNoiseClock):
    """Noise of a law that is constant in time: one clock for all symbols, −ln(1 − a), inverted in closed form."""

    def after(self, t: Tensor, z: Tensor, amount: Tensor) -> Tensor:
        """The time at which 1 − a has fallen by the factor exp(−amount/n), n positions being possibly noise."""
        count = (self.kernel.stationary(z.device)[z] > 0).sum(-1)
        noise = (1.0 - self.kernel.schedule.a(t)) * torch.exp(-amount / count)
        return torch.minimum(self.kernel.schedule.inverse(1.0 - noise), t)

    def hazard(self, t: Tensor, z: Tensor) -> Tensor:
        """The same for all that may be noise."""
        return (self.kernel.stationary(z.device)[z] > 0).double()

    def destinations(self, t: Tensor, z: Tensor, clean: Tensor, generator: torch.Generator) -> Tensor:
        """The clean token."""
        return clean


class MovingNoiseClock(AbstractNoiseClock):
    """Noise of a moving law, in which the mass of every symbol rises with t to one peak, then falls.

    A symbol's clock is ln n from its peak on towards the data, and stands still before. The sum over positions is
    inverted by bisection, to the last bits of t.

    Args:
        kernel: the corruption that is undone.
    """

    def __init__(self, kernel: AbstractKernel) -> None:
        super().__init__(kernel)
        self.peak = _peaks(kernel)
        self.top = kernel.noise(self.peak).diagonal()

    def after(self, t: Tensor, z: Tensor, amount: Tensor) -> Tensor:
        """Bisection of the sum of the clocks."""
        target = self._level(t, z) - amount
        low, high = torch.zeros_like(t), t
        for _ in range(64):
            middle = 0.5 * (low + high)
            early = self._level(middle, z) > target
            low, high = torch.where(early, low, middle), torch.where(early, middle, high)
        return high

    def _level(self, t: Tensor, z: Tensor) -> Tensor:
        """Σ_i ln n_t(z_i), the mass of a symbol before its peak being that at the peak; symbols that are never noise
        do not count.
        """
        noise = torch.where(
            t[:, None] < self.peak.to(z.device), self.kernel.noise(t).to(z.device), self.top.to(z.device)
        )
        ever = (self.top > 0).to(z.device)
        return torch.where(ever, noise.log(), 0.0).gather(1, z).sum(-1)


def _peaks(kernel: AbstractKernel, points: int = 1025) -> Tensor:
    """Time at which the noise of each symbol is largest, ``(V,)``: a grid, then golden sections."""
    grid = torch.linspace(0.0, 1.0, points, dtype=torch.float64)
    best = kernel.noise(grid).argmax(0)
    low, high = grid[(best - 1).clamp(min=0)], grid[(best + 1).clamp(max=points - 1)]
    ratio = 0.5 * (5.0**0.5 - 1.0)
    for _ in range(50):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        falls = kernel.noise(left).diagonal() > kernel.noise(right).diagonal()
        low, high = torch.where(falls, low, left), torch.where(falls, right, high)
    middle, end = 0.5 * (low + high), grid[best]
    return torch.where(kernel.noise(end).diagonal() >= kernel.noise(middle).diagonal(), end, middle)


def noise_clock(kernel: AbstractKernel) -> AbstractNoiseClock:
    """The clock of a kernel."""
    return FixedNoiseClock(kernel) if isinstance(kernel, AbstractFixedNoiseKernel) else MovingNoiseClock(kernel)
