"""Masks and uniform noise together: tokens are hidden, and some visible ones are wrong.

Source: "Generalized Interpolating Discrete Diffusion", von Rütte et al., 2025, section 3 (GIDD).
"""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractMaskingCorruption
from isocline.processes.kernel import AbstractKernel, copy_visible, uniforms
from isocline.processes.token_schedule import AbstractSurvival
from isocline.shapes import expand_like

__all__ = ["HybridKernel", "HybridSurvival"]


class HybridSurvival(AbstractSurvival):
    """a(t) = (1 − t)/(1 + c), c = B (t(1 − t))^(γ/2): the rest is mask, t/(1 + c), and uniform noise, c/(1 + c).

    B = 2^γ p/(1 − p) makes the share of uniform noise p where it is greatest, at t = ½. Fresh uniform noise comes at
    rate c [γ/(2t) + (1 − γ/2)/(1 − t)]/(1 + c), which a γ above 2 would make negative near t = 1.

    Args:
        uniform_share: p, the greatest share of uniform noise, in [0, 1); 0 leaves masks alone.
        gamma: γ in (0, 2], how fast uniform noise comes at t = 0 and goes at t = 1.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(self, uniform_share: float = 0.1, gamma: float = 1.0) -> None:
        if not 0.0 <= uniform_share < 1.0:
            raise ValueError(
                f"uniform_share = {uniform_share}: must be in [0, 1); for uniform noise alone use UniformKernel"
            )
        if not 0.0 < gamma <= 2.0:
            raise ValueError(f"gamma = {gamma}: must be in (0, 2]; above 2 the rate of fresh uniform noise is negative")
        self.uniform_share = uniform_share
        self.gamma = gamma
        self.scale = 2.0**gamma * uniform_share / (1.0 - uniform_share)

    @property
    def onset(self) -> float:
        """γ/2 of the uniform noise, which comes before the masks; 1 without it."""
        return 0.5 * self.gamma if self.uniform_share > 0 else 1.0

    def weight(self, t: Tensor) -> Tensor:
        """c(t), the uniform noise beside a mass 1 of data and masks."""
        t = t.double()
        return self.scale * (t * (1.0 - t)) ** (0.5 * self.gamma)

    def dweight(self, t: Tensor) -> Tensor:
        """c'(t); infinite at both ends if γ < 2."""
        t = t.double()
        return self.scale * 0.5 * self.gamma * (t * (1.0 - t)) ** (0.5 * self.gamma - 1.0) * (1.0 - 2.0 * t)

    def a(self, t: Tensor) -> Tensor:
        """(1 − t)/(1 + c)."""
        return (1.0 - t.double()) / (1.0 + self.weight(t))

    def da(self, t: Tensor) -> Tensor:
        """−[1 + (1 − t) c'/(1 + c)]/(1 + c)."""
        return -self._fall(t) / (1.0 + self.weight(t))

    def hazard(self, t: Tensor) -> Tensor:
        """[1 + (1 − t) c'/(1 + c)]/(t + c): the quotient without its cancellation near t = 0."""
        return self._fall(t) / (t.double() + self.weight(t))

    def _fall(self, t: Tensor) -> Tensor:
        t = t.double()
        power = 0.5 * self.gamma
        # (1 − t) c' as one product: at t = 1 the factors are 0 and infinite.
        slope = self.scale * power * t ** (power - 1.0) * (1.0 - t) ** power * (1.0 - 2.0 * t)
        return 1.0 + slope / (1.0 + self.weight(t))


class HybridKernel(AbstractMaskingCorruption, AbstractKernel):
    """q_t = ((1 − t) δ_x + t δ_mask + c_t u)/(1 + c_t), u uniform on the V − 1 real symbols.

    The law of the noise moves, so generators at different times do not commute: the transition is not the exponential
    of their integral. At t = 1 everything is masked.

    Args:
        vocab_size: vocabulary V, the mask token counted.
        uniform_share: greatest share of uniform noise, p_u, reached at t = ½.
        gamma: exponent γ of `HybridSurvival`.

    Raises:
        ValueError: if a value is out of range.
    """

    schedule: HybridSurvival

    def __init__(self, vocab_size: int, uniform_share: float = 0.1, gamma: float = 1.0) -> None:
        super().__init__(vocab_size, HybridSurvival(uniform_share, gamma))

    def noise(self, t: Tensor) -> Tensor:
        """(t δ_mask + c u)/(1 + c)."""
        weight = self.schedule.weight(t)
        return self._shares(t.double() / (1.0 + weight), weight / (1.0 + weight))

    def noise_rate(self, t: Tensor) -> Tensor:
        """(1/(1 + c) − t c'/(1 + c)²) δ_mask + c'/(1 + c)² u."""
        total, slope = 1.0 + self.schedule.weight(t), self.schedule.dweight(t)
        return self._shares((total - t.double() * slope) / total**2, slope / total**2)

    def draw_noise(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """The mask with probability t/(t + c), a real symbol otherwise."""
        share = expand_like(t.double() / (t.double() + self.schedule.weight(t)), x0)
        masked = uniforms(x0.shape, generator, x0.device) < share
        return (uniforms(x0.shape, generator, x0.device) * self.mask).long().masked_fill(masked, self.mask)

    def undecided(self, z: Tensor) -> Tensor:
        """All positions, since a visible token may be noise; the masked ones if there is no uniform noise."""
        return super().undecided(z) if self.schedule.uniform_share > 0 else z == self.mask

    def clean_log_probs(self, logits: Tensor, z: Tensor) -> Tensor:
        """Log-softmax over the real symbols; a visible token is copied if there is no uniform noise."""
        log_probs = super().clean_log_probs(logits, z)
        return log_probs if self.schedule.uniform_share > 0 else copy_visible(log_probs, z, self.undecided(z))

    def _shares(self, masked: Tensor, uniform: Tensor) -> Tensor:
        """``(*t.shape, V)``: one value on the mask, the other spread over the real symbols."""
        spread = (uniform / self.mask).unsqueeze(-1).expand(*uniform.shape, self.mask)
        return torch.cat([spread, masked.unsqueeze(-1)], dim=-1)
