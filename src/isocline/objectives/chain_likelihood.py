"""Likelihood of a masked model that writes one token at a time: the chain rule in a given order.

A model that knows p(x_i | any visible tokens) is also an autoregressive model in every order of the positions. In a
fixed order, left to right for one, that is an exact likelihood and needs no bound. With an order drawn for each
sequence it is exact for generation in that order; its mean over orders is the any-order bound ("Autoregressive
Diffusion Models", Hoogeboom et al., 2022), which equals the fixed-count bound of masked diffusion in expectation and
is estimated here with less noise, since every count of masks is visited once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isocline.objectives.sequence_likelihood import LikelihoodEstimate, token_log_probs
from isocline.processes.kernel import AbsorbingKernel

__all__ = ["any_order_likelihood", "chain_nats", "left_to_right_likelihood"]


@torch.no_grad()
def chain_nats(network: nn.Module, kernel: AbsorbingKernel, tokens: Tensor, order: Tensor, cond: Any = None) -> Tensor:
    """−Σ_j log p(x_{o_j} | x_{o_1}, …, x_{o_{j−1}}, all other positions masked), nats, ``(B,)`` float64.

    Args:
        network: ``network(t, z, cond) -> (B, L, V)``; shown the time at which its number of masks is expected.
        kernel: the absorbing kernel of its training.
        tokens: ``(B, L)``; L evaluations per sequence.
        order: a permutation of 0 … L − 1 in each row, ``(B, L)``; the first entry is decided first.
        cond: condition or None.
    """
    batch, length = tokens.shape
    nats = torch.zeros(batch, dtype=torch.float64, device=tokens.device)
    rank = order.argsort(dim=-1)
    rows = torch.arange(batch, device=tokens.device)
    for decided in range(length):
        z = tokens.masked_fill(rank >= decided, kernel.mask)
        share = torch.full_like(nats, decided / length)
        here = order[:, decided]
        # The law is needed at one position: the softmax over all others would cost as much as the network.
        logits = network(kernel.schedule.inverse(share), z, cond)[rows, here].unsqueeze(1)
        law = kernel.clean_log_probs(logits, z[rows, here].unsqueeze(1))
        nats -= token_log_probs(law, tokens[rows, here].unsqueeze(1)).squeeze(1).double()
    return nats


def left_to_right_likelihood(
    network: nn.Module, kernel: AbsorbingKernel, tokens: Tensor, cond: Any = None
) -> LikelihoodEstimate:
    """Exact nats per sequence for generation from left to right, one by one; see `chain_nats`."""
    order = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    return LikelihoodEstimate(chain_nats(network, kernel, tokens, order, cond), "exact")


def any_order_likelihood(
    network: nn.Module, kernel: AbsorbingKernel, tokens: Tensor, generator: torch.Generator, cond: Any = None
) -> LikelihoodEstimate:
    """Nats per sequence in an order drawn for each; see `chain_nats`.

    Exact for generation in the drawn order, hence an unbiased estimate of a bound for generation in a random one:
    E_o −log p(x|o) ≥ −log E_o p(x|o).
    """
    keys = torch.rand(tokens.shape, generator=generator, device=tokens.device, dtype=torch.float64)
    return LikelihoodEstimate(chain_nats(network, kernel, tokens, keys.argsort(dim=-1), cond), "bound")
