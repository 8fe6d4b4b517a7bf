"""The spherical path: geodesics of the Fisher information metric, which are great circles of the square roots."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from isocline.processes.falling_table import FallingTable
from isocline.processes.token_path import AbstractTokenPath
from isocline.processes.undecided_share import UndecidedShare, shifted_noise
from isocline.shapes import expand_like

__all__ = ["FisherPath", "half_normal_undecided_share"]

HALF_PI = math.pi / 2


def half_normal_undecided_share(height: Tensor, symbols: int) -> UndecidedShare:
    """Probability that arg-max is wrong where half-normal noise carries h at one coordinate, and its derivative.

    arg-max of h e_k + |ε| in S dimensions is right with probability ∫_0^∞ 2φ(y) (2Φ(y + h) − 1)^{S−1} dy; returned is
    u(h) = (1 − that)/(1 − 1/S), by Gauss–Legendre quadrature.

    Args:
        height: h at least 0, any shape, float64.
        symbols: S.

    Returns:
        u and du/dh, shape of height.
    """
    nodes, weights = (torch.as_tensor(part, device=height.device) for part in np.polynomial.legendre.leggauss(256))
    y = 4.5 * (nodes + 1.0)
    above = y + height.unsqueeze(-1)
    log_below = torch.log1p(-torch.erfc(above / 2**0.5))
    return shifted_noise(4.5 * weights * _density(y), log_below, _density(above), symbols)


def _density(y: Tensor) -> Tensor:
    """Half-normal density at y at least 0."""
    return torch.exp(-0.5 * y.square()) * (2.0 / math.pi) ** 0.5


class FisherPath(AbstractTokenPath):
    """z on the great circle from e_k to a uniformly drawn point n of the sphere's positive orthant, at angle s θ.

    z = [sin((1 − s)θ) e_k + sin(sθ) n]/sin θ with cos θ = n_k; z² is a law of tokens. The position is s. With φ the
    angle between z and e_k,

        q(z|k) ∝ (sin(φ/s)/sin φ)^{S−2} for φ ≤ sπ/2, otherwise 0,

    and the velocity away from the corner is φ/s along the circle. For large S a coordinate of n is |N(0,1)|/√S and the
    path decides tokens near s = 1, within O(1/√S): times are spread there so that, to leading order, arg-max is right
    at rate 1 − t (1 − 1/S), see
    `half_normal_undecided_share`.

    References: "Fisher Flow Matching for Generative Modeling over Discrete Data", Davis et al., 2024; "Categorical
    Flow Matching on Statistical Manifolds", Cheng et al., 2024.

    Args:
        vocab_size: vocabulary V, the mask counted.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self._clock = FallingTable(lambda height: half_normal_undecided_share(height, self.symbols), last=20.0)

    def prior(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Uniform on the positive orthant of the unit sphere."""
        draws = torch.randn((*shape, self.symbols), generator=generator, device=generator.device, dtype=dtype).abs()
        return (draws / draws.norm(dim=-1, keepdim=True)).to(device)

    def sample(
        self, tokens: Tensor, t: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Go the share s of the way from the corner to a draw of the prior."""
        noise = self.prior(tokens.shape, generator, tokens.device, dtype)
        s = expand_like(self.position(t).to(dtype), noise)
        angle = noise.gather(-1, tokens.unsqueeze(-1)).acos()
        # n_k = 1 has probability 0 but rounding reaches it, and the limit s of the ratio is not found by division.
        far = angle.sin().clamp(min=torch.finfo(dtype).tiny)
        return ((1.0 - s) * angle).sin() / far * self.corner(tokens, dtype) + (s * angle).sin() / far * noise

    def evidence(self, t: Tensor, x: Tensor) -> Tensor:
        """(S − 2) ln(sin(φ/s)/sin φ) within reach, else −∞; the nearest corner always is."""
        cosine, angle = self._angles(x)
        s = expand_like(self.position(t).to(x.dtype), x)
        # The angle a state of this time has at most, or the nearest corner's where numerical errors exceed it.
        within = angle <= torch.maximum(HALF_PI * s, angle.amin(-1, keepdim=True)) * (1.0 + 1e-6)
        whole = (angle / s).clamp(max=HALF_PI)
        value = (self.symbols - 2) * (whole.sin().log() - 0.5 * torch.log1p(-cosine.square()))
        return value.masked_fill(~within, -torch.inf)

    def _angles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and angle to every corner, for states whose length a solver has changed."""
        limit = 1.0 - torch.finfo(x.dtype).eps
        cosine = (x / x.norm(dim=-1, keepdim=True)).clamp(-limit, limit)
        return cosine, cosine.acos()

    def position(self, t: Tensor) -> Tensor:
        """Return 1 − (2/π) arctan(h/√S), h the height at which a share t of the tokens is undecided."""
        height, _ = self._clock.inverse(t.double())
        return 1.0 - torch.atan(height / self.symbols**0.5) / HALF_PI

    def time(self, position: Tensor) -> Tensor:
        """Inverse of `position`."""
        return self._clock.value(torch.tan(HALF_PI * (1.0 - position.double())) * self.symbols**0.5)

    def velocity(self, position: Tensor, x: Tensor, probs: Tensor) -> Tensor:
        """−(1/s) Σ_k p_k (φ_k/sin φ_k) (e_k − z_k z), in proportion to the length of x, at a right angle to it."""
        cosine, angle = self._angles(x)
        length = x.norm(dim=-1, keepdim=True)
        pull = probs.to(x.dtype) * angle / (1.0 - cosine.square()).sqrt()
        away = cosine * (pull * cosine).sum(-1, keepdim=True) - pull
        return length * away / expand_like(position.to(x.dtype), x)
