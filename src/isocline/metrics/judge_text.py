"""The autoregressive text judge: a small causal network on a split that no generative model sees."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from isocline.datasets.datamodule import StepBatches
from isocline.objectives.autoregressive import next_token_log_probs
from isocline.objectives.sequence_likelihood import token_log_probs

__all__ = ["negative_log_likelihood", "train_judge_ar"]


@torch.no_grad()
def negative_log_likelihood(network: nn.Module, tokens: Tensor, batch_size: int = 128) -> Tensor:
    """Return -ln p of each row under a causal network, exactly, in nats: ``(N, L)`` to ``(N,)`` float64.

    A row that holds the mask token (an unfinished sample) has probability zero under the network.
    """
    mode = network.training
    network.eval()
    device = next(network.parameters()).device
    parts = []
    for part in torch.split(tokens, batch_size):
        moved = part.to(device)
        parts.append(-token_log_probs(next_token_log_probs(network, moved), moved).double().sum(dim=1).cpu())
    network.train(mode)
    return torch.cat(parts)


def train_judge_ar(
    network: nn.Module,
    tokens: Tensor,
    seed: int,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    weight_decay: float = 0.1,
    gradient_clip: float = 1.0,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Train a causal network by AdamW on the chain rule; warm-up, then a cosine to zero.

    Args:
        network: trained in place and left in evaluation mode; see `next_token_log_probs` for its signature.
        tokens: rows ``(N, L)`` int64.
        seed: of the batches.
        steps: optimiser steps.
        batch_size: rows per step.
        lr: largest learning rate.
        weight_decay: of AdamW.
        gradient_clip: largest gradient norm.
        progress: called after each step with its number and loss (nats per token).

    Returns:
        The loss of every step, nats per token.

    Raises:
        ValueError: if ``steps`` is not positive.
        FloatingPointError: if the loss is not finite.
    """
    if steps < 1:
        raise ValueError(f"judge.text.steps = {steps}: must be at least 1")
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=weight_decay, betas=(0.9, 0.95))
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.5 * (1.0 + math.cos(math.pi * min(1.0, s / steps))))
    )
    losses: list[float] = []
    network.train()
    device = next(network.parameters()).device
    for step, batch in enumerate(StepBatches({"x0": tokens}, batch_size, seed, steps)):
        rows = batch.x0.to(device)
        loss = -token_log_probs(next_token_log_probs(network, rows), rows).mean()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"text judge: loss {losses[-1]} at step {step}; lower judge.text.lr = {lr}")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        clip_grad_norm_(network.parameters(), gradient_clip)
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, losses[-1])
    network.eval()
    return losses
