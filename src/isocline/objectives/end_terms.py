"""What a likelihood bound owes at the two ends of time: the prior at t = 1, the reconstruction near t = 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.objectives.sequence_likelihood import token_log_probs
from isocline.processes.corruption import AbstractCorruption
from isocline.processes.kernel import AbstractKernel

__all__ = ["prior_divergence", "reconstruction"]


def prior_divergence(kernel: AbstractCorruption, tokens: Tensor) -> Tensor:
    """KL(q_1(·|x) ‖ prior) summed over the positions of ``tokens`` ``(B, L)``; ``(B,)`` float64.

    Zero where nothing survives to t = 1; infinite for an all-mask prior if something does.
    """
    end = kernel.marginal(tokens, torch.ones((), dtype=torch.float64, device=tokens.device))
    prior = kernel.stationary(tokens.device)
    return torch.where(end > 0, end * (end / prior).log(), 0.0).sum((-2, -1))


def reconstruction(
    network: nn.Module,
    kernel: AbstractKernel,
    tokens: Tensor,
    start: float,
    generator: torch.Generator,
    cond: Tensor | None = None,
) -> Tensor:
    """−Σ_i ln p(x_i|z) with one draw of z ~ q_start(·|x): every token is drawn from the clean law at ``start``.

    Zero, at no evaluation, at t = 0 where every token is clean then, a(0) = 1; a schedule that begins with some noise
    owes the term there too.

    Args:
        network: ``network(t, z, cond) -> (B, L, V)`` logits of p(x|z).
        kernel: the corruption.
        tokens: ``(B, L)``.
        start: time at which the model decides.
        generator: source of the noise.
        cond: condition or None.

    Returns:
        ``(B,)`` float64.
    """
    t = torch.full((len(tokens),), start, dtype=torch.float64, device=tokens.device)
    if start == 0.0 and float(kernel.schedule.a(t.new_zeros(()))) == 1.0:
        return torch.zeros_like(t)
    z = kernel.sample(tokens, t, generator)
    log_probs = kernel.clean_log_probs(network(t, z, cond), z).double()
    return -token_log_probs(log_probs, tokens).sum(-1)
