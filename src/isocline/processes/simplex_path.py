"""The linear path on the simplex, from a corner towards a uniformly drawn point."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.processes.token_path import AbstractTokenPath, share_in_play
from isocline.shapes import expand_like

__all__ = ["LinearSimplexPath", "uniform_on_simplex"]


def uniform_on_simplex(
    shape: Sequence[int], generator: torch.Generator, device: torch.device | str, dtype: torch.dtype
) -> Tensor:
    """Draw from Dirichlet(1, …, 1) along the last axis: exponentials over their sum."""
    draws = torch.empty(tuple(shape), dtype=dtype, device=generator.device)
    draws.exponential_(generator=generator)
    return (draws / draws.sum(-1, keepdim=True)).to(device)


class LinearSimplexPath(AbstractTokenPath):
    """x = (1 − s) e_k + s n with n ~ Dirichlet(1, …, 1); the position is s.

    Since n is uniform, all symbols with x_k ≥ 1 − s are equally likely and no other is possible: a position's state
    tells a set of candidates. With r = (1 − s)/s a wrong symbol is in it with probability (1 − r)^{S−1}, which falls
    from 1 to about 0 while s falls from 1 to 1 − O(ln S/S). Times are spread over that range, by
    `share_in_play`; the straight path cannot use the rest, which is why Stark et al. prefer Dirichlet paths.

    References: "Dirichlet Flow Matching", Stark et al., 2024, §3.1 and Proposition 1 (linear paths and their limit).
    """

    def prior(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Uniform on the simplex."""
        return uniform_on_simplex((*shape, self.symbols), generator, device, dtype)

    def sample(
        self, tokens: Tensor, t: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw (1 − s) e_k + s n."""
        noise = self.prior(tokens.shape, generator, tokens.device, dtype)
        s = expand_like(self.position(t).to(dtype), noise)
        return torch.lerp(self.corner(tokens, dtype), noise, s)

    def evidence(self, t: Tensor, x: Tensor) -> Tensor:
        """0 for candidates, −∞ for others.

        Where a numerical state leaves no candidate, the largest coordinate is one.
        """
        reach = 1.0 - expand_like(self.position(t).to(x.dtype), x)
        # A corner's own coordinate is 1 − s + s n, which rounding may put below 1 − s.
        threshold = torch.minimum(reach * (1.0 - 4 * torch.finfo(x.dtype).eps), x.amax(-1, keepdim=True))
        return torch.zeros_like(x).masked_fill(x < threshold, -torch.inf)

    def position(self, t: Tensor) -> Tensor:
        """1/(1 + r) with r = 1 − q^{1/(S−1)}, q the share in play; from 1/2, where r = 1, to 1."""
        share = share_in_play(t.double(), self.symbols)
        return 1.0 / (1.0 - torch.expm1(share.log() / (self.symbols - 1)))

    def time(self, position: Tensor) -> Tensor:
        """The time at which a wrong symbol is a candidate with probability q = (1 − r)^{S−1}."""
        position = position.double()
        share = ((2.0 * position - 1.0).clamp(min=0.0) / position) ** (self.symbols - 1)
        return self.symbols * share / (1.0 + (self.symbols - 1) * share)

    def velocity(self, position: Tensor, x: Tensor, probs: Tensor) -> Tensor:
        """(x − p)/s."""
        return (x - probs.to(x.dtype)) / expand_like(position.to(x.dtype), x)
