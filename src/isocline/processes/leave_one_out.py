"""Laws of a clean token with and without what its own noisy token says of it.

Positions are corrupted independently, so p(x_i = k | z) ∝ x_loo(k) q_t(z_i|k), where the leave-one-out law x_loo sees
the other positions alone. Samplers and cross-entropies want the former; the bounds of uniform and hybrid kernels plug
in the latter: Q_t(y→z) q_t(y|x_loo)/q_t(z|x_loo) is the exact reverse rate, and with p(x|z) in its place the bound is
loose (docs/results/language-objectives.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.processes.kernel import AbstractKernel
from isocline.shapes import expand_like

__all__ = ["evidence", "leave_one_out_log_probs", "noise_of"]


def noise_of(noise: Tensor, tokens: Tensor) -> Tensor:
    """Look up per-symbol values ``(V,)`` or ``(B, V)``, such as n_t, at ``tokens`` ``(B, L)``; ``(B, L)``."""
    return noise.expand(len(tokens), -1).gather(-1, tokens)


def evidence(kernel: AbstractKernel, z: Tensor, t: Tensor) -> Tensor:
    """How much a noisy token speaks for being clean: ln q_t(z_i|x = z_i) − ln q_t(z_i|x ≠ z_i) = ln(1 + a/n_t(z_i)).

    Args:
        kernel: the corruption.
        z: noisy tokens, ``(B, L)``.
        t: time, ``()`` or ``(B,)``.

    Returns:
        ``(B, L)`` float64. Some 700, for infinity, where noise never yields the token.
    """
    noise = noise_of(kernel.noise(t), z).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.log1p(expand_like(kernel.schedule.a(t), noise) / noise)


def leave_one_out_log_probs(kernel: AbstractKernel, logits: Tensor, z: Tensor, t: Tensor) -> Tensor:
    """Turn logits of p(x|z) into log x_loo, the law given the other positions: x_loo(k) ∝ p(k|z)/q_t(z_i|k).

    The evidence is taken off the logits, not off their log-softmax, of which nothing but z_i is left in float32 as
    t → 0. A token that noise never yields stays certain.

    Args:
        kernel: the corruption.
        logits: a network's output, ``(B, L, V)``.
        z: noisy tokens, ``(B, L)``.
        t: time, ``()`` or ``(B,)``.

    Returns:
        ``(B, L, V)`` of the logits' dtype, float32 at least; −∞ where x is impossible.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = -evidence(kernel, z, t).to(logits.dtype)
    return kernel.clean_log_probs(logits.scatter_add(-1, z.unsqueeze(-1), own.unsqueeze(-1)), z)
