"""Networks whose raw logits are the law of a clean token given the other positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.kernel import AbstractKernel
from isocline.processes.leave_one_out import evidence

__all__ = ["LeaveOneOut", "leave_one_out"]


class LeaveOneOut(nn.Module):
    """``network(t, z, cond) + ln(1 + a/n_t(z_i))`` at z_i: logits of p(x|z) from logits of the leave-one-out law.

    As t → 0 the odds of a token being clean grow like 1/t, and the rates that a bound compares are ruined by a network
    that misses them by a factor. Here Bayes' rule supplies them, and the raw logits stay of the size of the data's own
    uncertainty. What comes out is what every sampler and objective expects.

    Args:
        network: called as ``network(t, z, cond)``, raw logits ``(B, L, V)``.
        kernel: the corruption in training.
    """

    def __init__(self, network: nn.Module, kernel: AbstractKernel) -> None:
        super().__init__()
        self.network = network
        self.kernel = kernel

    @property
    def vocab_size(self) -> int:
        """Vocabulary V, the mask token counted."""
        return self.kernel.vocab_size

    def forward(self, t: Tensor, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Evaluate at ``t`` ``()`` or ``(B,)`` and tokens ``z`` ``(B, L)``; ``(B, L, V)``, float32 at least."""
        logits: Tensor = self.network(t, z, cond)
        # Reduced precision would round the evidence, which reaches 20, by more than a network's errors.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        own = evidence(self.kernel, z, t).to(logits.dtype)
        return logits.scatter_add(-1, z.unsqueeze(-1), own.unsqueeze(-1))


def leave_one_out(network: Callable[..., nn.Module], kernel: AbstractKernel, **sizes: Any) -> LeaveOneOut:
    """Build a network and wrap it; its sizes stay beside the wrapper's, in one section of a configuration.

    Args:
        network: makes the raw network from ``sizes``.
        kernel: see `LeaveOneOut`.
        **sizes: arguments of ``network``.
    """
    return LeaveOneOut(network(**sizes), kernel)
