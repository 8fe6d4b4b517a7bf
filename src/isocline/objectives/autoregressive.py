"""Autoregressive modelling by the chain rule: the exact baseline of every other language model here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.sequence_likelihood import LikelihoodEstimate, token_log_probs

__all__ = ["AutoregressiveObjective", "begin_token", "next_token_log_probs"]


def begin_token(network: nn.Module) -> int:
    """Return the token that starts a sequence: the mask, last of the network's vocabulary.

    Raises:
        ValueError: if the network says neither ``vocab_size`` nor has an ``embed`` table.
    """
    size = getattr(network, "vocab_size", None)
    if size is None:
        size = getattr(getattr(network, "embed", None), "num_embeddings", None)
    if size is None:
        raise ValueError(f"{type(network).__name__} has no vocab_size; give it that attribute (mask token counted)")
    return int(size) - 1


def next_token_log_probs(network: nn.Module, tokens: Tensor, cond: Tensor | None = None) -> Tensor:
    """Log-probabilities of every token given those before it.

    The causal network is fed [begin, x_1, …, x_{L−1}]; the begin token is the mask and is never predicted.

    Args:
        network: ``network(t, z, cond) -> (B, L, V)``, causal; ``t`` is 0.
        tokens: ``(B, L)``; the last one is not looked at.
        cond: condition or None.

    Returns:
        ``(B, L, V)``; −∞ for the mask.
    """
    begin = begin_token(network)
    inputs = torch.cat([torch.full_like(tokens[:, :1], begin), tokens[:, :-1]], dim=1)
    logits = network(torch.zeros((), device=tokens.device), inputs, cond)
    forbidden = torch.arange(logits.shape[-1], device=logits.device) == begin
    result: Tensor = logits.masked_fill(forbidden, -torch.inf).log_softmax(-1)
    return result


class AutoregressiveObjective(Objective):
    """−log p(x) = −Σ_i log p(x_i | x_<i), per token in nats."""

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Mean negative log-likelihood per token of ``batch.x0`` ``(B, L)``; nothing is drawn."""
        log_probs = next_token_log_probs(network, batch.x0, batch.cond)
        total = -token_log_probs(log_probs, batch.x0).mean()
        return Loss(total, {"nats_per_token": total.detach()})

    @torch.no_grad()
    def negative_log_likelihood(
        self,
        network: nn.Module,
        tokens: Tensor,
        generator: torch.Generator | None = None,
        strata: int = 1,
        cond: Tensor | None = None,
    ) -> LikelihoodEstimate:
        """Exact nats per sequence of ``tokens`` ``(B, L)``; one evaluation, ``generator`` and ``strata`` unused."""
        log_probs = next_token_log_probs(network, tokens, cond)
        return LikelihoodEstimate(-token_log_probs(log_probs, tokens).double().sum(-1), "exact")
