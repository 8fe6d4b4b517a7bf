"""Which positions of a text are given in training, so that a network learns to go on from a prompt and to fill in."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["GivenPositions"]


class GivenPositions:
    """In a share of the texts, some of the positions: a prefix, or any subset, of a length uniform on 1 … L − 1.

    Source: *Continuous Diffusion for Categorical Data*, Dieleman et al., 2022, §4 (prefix and random masks).

    Args:
        share: of the texts that have given positions.
        prefixes: share of prefixes among those.

    Raises:
        ValueError: if a share is outside [0, 1].
    """

    def __init__(self, share: float = 0.25, prefixes: float = 0.5) -> None:
        for name, value in (("share", share), ("prefixes", prefixes)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} = {value}: must be in [0, 1]")
        self.share = share
        self.prefixes = prefixes

    def __call__(self, batch: int, length: int, generator: torch.Generator) -> Tensor:
        """Draw the given positions, bool ``(batch, length)`` on the generator's device."""
        draws = torch.rand(3, batch, 1, generator=generator, device=generator.device, dtype=torch.float64)
        keys = torch.rand(batch, length, generator=generator, device=generator.device, dtype=torch.float64)
        place = torch.arange(length, device=generator.device).expand(batch, length)
        rank = torch.where(draws[1] < self.prefixes, place, keys.argsort(-1).argsort(-1))
        count = (1 + (draws[2] * (length - 1)).long()).clamp(max=length - 1)  # a text of one token is all question
        return (rank < count) & (draws[0] < self.share)
