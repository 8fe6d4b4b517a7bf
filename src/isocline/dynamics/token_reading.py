"""What a model of text says of held-out tokens: one evaluation on data of its own process, and what counts of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isocline.networks.block_transformer import BlockTransformer
from isocline.objectives.autoregressive import next_token_log_probs
from isocline.processes.corruption import AbstractCorruption
from isocline.processes.embedding import EmbeddingProcess, ask
from isocline.processes.token_path import AbstractTokenPath
from isocline.randomness import generator, sample_noise

__all__ = ["TokenReading", "token_reading"]


class TokenReading(NamedTuple):
    """A question that can be put to a network again and again, to all of it or to some of its layers.

    Attributes:
        evaluate: one forward; log-probabilities of the clean tokens, ``(B, L, S)``.
        truth: the clean tokens, ``(B, L)``.
        counted: positions whose token is open, bool ``(B, L)``.
    """

    evaluate: Callable[[], Tensor]
    truth: Tensor
    counted: Tensor


def token_reading(network: nn.Module, process: Any, tokens: Tensor, seed: int) -> TokenReading:
    """Corrupt tokens by a model's process, at times spread evenly over the sequences.

    Args:
        network: the model.
        process: None for an autoregressive model, whose every next token counts; a Markov chain, of which undecided
            positions count; relaxed tokens or embeddings, of which all count.
        tokens: ``(B, L)`` int64.
        seed: of the corruption.

    Raises:
        ValueError: if the network is a `BlockTransformer`, whose two streams share layers, or the process is unknown.
    """
    if isinstance(network, BlockTransformer):
        raise ValueError("a BlockTransformer runs two streams through its layers; its depth is not read")
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    if process is None:
        return TokenReading(lambda: next_token_log_probs(network, tokens), tokens, everywhere)
    count, stream = len(tokens), generator(seed, "corruption", device=tokens.device)
    share = (torch.arange(count, dtype=torch.float64, device=tokens.device) + 0.5) / count
    if isinstance(process, AbstractCorruption):
        t = process.t_min + (process.t_max - process.t_min) * share
        z = process.sample(tokens, t, stream)
        return TokenReading(lambda: process.clean_log_probs(network(t, z, None), z), tokens, process.undecided(z))
    if isinstance(process, AbstractTokenPath):
        t = process.t_min + (process.t_max - process.t_min) * share
        x = process.sample(tokens, t, stream)
        return TokenReading(lambda: process.log_probs(network, t, x), tokens, everywhere)
    if isinstance(process, EmbeddingProcess):
        gaussian = process.gaussian
        t = gaussian.t_min + (gaussian.t_max - gaussian.t_min) * share
        clean: Tensor = network.embed(tokens).detach()  # type: ignore[operator]
        noise = sample_noise(seed, "corruption", range(count), clean.shape[1:]).to(clean)
        states = gaussian.mix(clean, noise, gaussian.schedule(t))
        nothing = torch.zeros_like(states)
        return TokenReading(lambda: process.clean_log_probs(ask(network, t, states, None, nothing)), tokens, everywhere)
    raise ValueError(f"process = {type(process).__name__}: no way is known to ask for clean tokens")
