"""Exponential moving average of weights: what is evaluated and saved."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage(nn.Module):
    """Average the parameters of a network; buffers are copied, not averaged.

    After update n the decay is ``min(decay, (1 + n) / (10 + n))`` when ``warmup`` is on, so that a short run
    does not evaluate its own initialisation.

    Args:
        network: the network to follow; the average starts as its copy.
        decay: weight of the past per update, in [0, 1).
        warmup: whether the decay grows from 0.1.

    Raises:
        ValueError: if ``decay`` is outside [0, 1).
    """

    updates: torch.Tensor

    def __init__(self, network: nn.Module, decay: float = 0.999, warmup: bool = True) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema.decay = {decay}: must be in [0, 1)")
        self.decay = decay
        self.warmup = warmup
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._count: int | None = None

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network's present weights."""
        count = int(self.updates) if self._count is None else self._count
        decay = min(self.decay, (1 + count) / (10 + count)) if self.warmup else self.decay
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1.0 - decay)
        for average, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            average.copy_(buffer)
        self._count = count + 1
        self.updates += 1

    def kept(self) -> dict[str, torch.Tensor]:
        """Return what a model keeps beside its weights: nothing."""
        return {}

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        # Called for a module inside another too, where `load_state_dict` is not.
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[misc]
        self._count = None
