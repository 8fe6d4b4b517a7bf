"""Noise that confuses similar symbols first: rates fall with the distance of embeddings.

Source: "Structured Denoising Diffusion Models in Discrete State-Spaces", Austin et al., 2021, section 3.1 and appendix
A.2.4 (nearest neighbours in embedding space; here with smooth rates in place of a neighbour graph).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractCorruption
from isocline.processes.frequency_kernel import symbol_law
from isocline.processes.token_schedule import AbstractSurvival
from isocline.shapes import expand_like

__all__ = ["DistanceKernel"]


class _Spectrum(NamedTuple):
    """G = −left diag(decay) right on the real symbols, with its stationary law; V' = V − 1."""

    generator: Tensor
    decay: Tensor
    left: Tensor
    right: Tensor
    law: Tensor

    def to(self, device: torch.device) -> _Spectrum:
        return _Spectrum(*(part.to(device) for part in self))


class DistanceKernel(AbstractCorruption):
    """Jumps from i to j at rate ∝ π_j exp(−d_ij²/2b²), d the distance of embeddings over its median.

    The generator G is reversible for π, which is therefore the stationary law: detailed balance π_i G_ij = π_j G_ji.
    Its eigendecomposition gives every transition at once, P(s, t) = Σ_k (a_t/a_s)^λ_k l_k r_kᵀ, with 0 = λ_0 < λ_1 ≤ …
    in units in which the mean rate of leaving a symbol is 1: a(t) is about the share of tokens that never jumped, and
    at a = 0 only the stationary law is left. Without a mask, and not of the form a δ_x + n_t: the place that a token
    jumped to says where it came from.

    Args:
        vocab_size: vocabulary V, the mask token counted.
        schedule: a(t), which sets the clock −ln a.
        embeddings: of the V − 1 real symbols, ``(V − 1, D)``.
        bandwidth: b; small values keep jumps among near neighbours.
        frequencies: π as counts or shares of the real symbols, all positive; equal by default (G is then symmetric).

    Raises:
        ValueError: if embeddings or frequencies do not fit the vocabulary, all embeddings coincide, or the bandwidth
            is not positive.
    """

    def __init__(
        self,
        vocab_size: int,
        schedule: AbstractSurvival,
        embeddings: Tensor | Sequence[Sequence[float]],
        bandwidth: float = 1.0,
        frequencies: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__(vocab_size)
        self.schedule = schedule
        points = torch.as_tensor(embeddings, dtype=torch.float64).detach().cpu()
        if points.ndim != 2 or len(points) != self.mask or not bool(points.isfinite().all()):
            raise ValueError(f"embeddings of shape {tuple(points.shape)}: expected ({self.mask}, D), finite numbers")
        if not bandwidth > 0:
            raise ValueError(f"bandwidth = {bandwidth}: must be positive, 1 for the median distance")
        law = symbol_law([1.0] * self.mask if frequencies is None else frequencies, vocab_size)
        self._spectra = {torch.device("cpu"): _decompose(points, bandwidth, law)}

    @property
    def gap(self) -> float:
        """λ_1, the slowest decay: how much longer than a mean jump the noise remembers the neighbourhood."""
        return float(self._spectrum("cpu").decay[1])

    def stationary(self, device: torch.device | str = "cpu") -> Tensor:
        """π on the real symbols, 0 on the mask."""
        law = self._spectrum(device).law
        return torch.cat([law, law.new_zeros(1)])

    def push(self, s: Tensor, t: Tensor, weights: Tensor) -> Tensor:
        """Σ_k w_k P(s, t)[k, ·]; a mask, which no noise makes, leaves for π at rate 1."""
        spectrum, ratio = self._spectrum(weights.device), self._ratio(s, t, weights)
        real, masked = weights[..., : self.mask].double(), weights[..., self.mask :].double()
        moved = ((real @ spectrum.left) * ratio**spectrum.decay) @ spectrum.right
        # Rounding leaves −1e-17 where the exact probability vanishes.
        real = moved.clamp_min(0.0) + (1.0 - ratio) * masked * spectrum.law
        return torch.cat([real, ratio * masked], dim=-1)

    def likelihood(self, s: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """P(s, t)[·, z]."""
        spectrum, ratio = self._spectrum(z.device), self._ratio(s, t, z.unsqueeze(-1))
        masked = (z == self.mask).unsqueeze(-1)
        known = z.clamp_max(self.mask - 1)
        real = ((spectrum.right.T[known] * ratio**spectrum.decay) @ spectrum.left.T).clamp_min(0.0)
        column = torch.cat([real, (1.0 - ratio) * spectrum.law[known].unsqueeze(-1)], dim=-1)
        return torch.where(masked, ratio * self._at_mask(z), column)

    def rates_into(self, t: Tensor, z: Tensor) -> Tensor:
        """−(a'/a) G[·, z]."""
        spectrum = self._spectrum(z.device)
        masked = (z == self.mask).unsqueeze(-1)
        known = z.clamp_max(self.mask - 1)
        column = torch.cat([spectrum.generator.T[known], spectrum.law[known].unsqueeze(-1)], dim=-1)
        clock = expand_like(-self.schedule.da(t) / self.schedule.a(t), column)
        return clock * torch.where(masked, -self._at_mask(z), column)

    def _at_mask(self, z: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.full_like(z, self.mask), self.vocab_size).double()

    def _ratio(self, s: Tensor, t: Tensor, like: Tensor) -> Tensor:
        return expand_like(self.schedule.a(t) / self.schedule.a(s), like)

    def _spectrum(self, device: torch.device | str) -> _Spectrum:
        device = torch.device(device)
        if device not in self._spectra:
            self._spectra[device] = self._spectra[torch.device("cpu")].to(device)
        return self._spectra[device]


def _decompose(points: Tensor, bandwidth: float, law: Tensor) -> _Spectrum:
    """Build G and diagonalise D^½ G D^−½, which is symmetric, D the stationary law on the diagonal."""
    distance = torch.cdist(points, points)
    apart = distance[~torch.eye(len(points), dtype=torch.bool)]
    scale = apart.median() if len(apart) else apart.sum()
    if not scale > 0:
        raise ValueError("embeddings: half of all pairs of symbols coincide; give embeddings that tell them apart")
    rates = torch.exp(-0.5 * (distance / (scale * bandwidth)) ** 2) * law
    generator = rates - rates.sum(-1).diag()
    generator = generator / -(law * generator.diagonal()).sum()
    root = law.sqrt()
    symmetric = root.unsqueeze(-1) * generator / root
    values, vectors = torch.linalg.eigh(0.5 * (symmetric + symmetric.T))
    decay = (-values.flip(0)).clamp_min(0.0)
    vectors = vectors.flip(1)
    # Known exactly: the chain ends in π, whatever rounding makes of the eigenvalue 0 and its vector.
    decay[0], vectors[:, 0] = 0.0, root
    return _Spectrum(generator, decay, vectors / root.unsqueeze(-1), vectors.T * root, law)
