"""Bits per character and perplexity from per-sequence negative log-likelihoods."""

from __future__ import annotations

import math

from torch import Tensor

from isocline.metrics.uncertainty import Estimate

__all__ = ["bits_per_character", "corpus_perplexity", "nats_per_token"]


def bits_per_character(nats: Tensor, characters: Tensor) -> Estimate:
    """Corpus bits per character, ``sum nats / (ln 2 * sum characters)``, with the ratio estimator's error.

    Args:
        nats: negative log-likelihood of each sequence, shape ``(N,)``.
        characters: characters that each sequence decodes to, shape ``(N,)``.
    """
    return Estimate.from_ratio((nats.double() / math.log(2.0)).cpu().numpy(), characters.double().cpu().numpy())


def nats_per_token(nats: Tensor, tokens: int) -> Estimate:
    """Mean nats per token over sequences ``(N,)`` of ``tokens`` tokens each."""
    return Estimate.from_values((nats.double() / tokens).cpu().numpy())


def corpus_perplexity(nats: Tensor, tokens: int) -> Estimate:
    """Perplexity per token, ``exp(sum nats / number of tokens)``; its error by the delta method.

    The corpus form (one mean inside the exponential), not the mean of per-sequence perplexities: rare bad
    sequences would dominate that one.

    Args:
        nats: negative log-likelihood of each sequence, shape ``(N,)``.
        tokens: tokens that were scored in every sequence.
    """
    rate = nats_per_token(nats, tokens)
    value = math.exp(rate.mean)
    return rate.map(lambda _: value, value)
