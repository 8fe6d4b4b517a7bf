"""Negative log-likelihoods of token sequences, each with the name of what it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

__all__ = ["FLOW_BOUND", "LikelihoodEstimate", "stratified_uniforms", "token_log_probs"]

FLOW_BOUND: Final = "flow bound"
"""Kind of the bound of flow-matching rates under noise of real symbols: loose even for the exact denoiser."""


class LikelihoodEstimate(NamedTuple):
    """Negative log-likelihood per sequence.

    Attributes:
        nats: ``(B,)`` float64.
        kind: ``exact`` (chain rule), ``bound`` (unbiased estimate of an upper bound), or `FLOW_BOUND`, one that has
            its own name because it cannot stand beside the others.
    """

    nats: Tensor
    kind: Literal["exact", "bound", "flow bound"]


def stratified_uniforms(strata: int, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield, for each of ``strata`` equal cells of (0, 1], one draw per sequence, ``(count,)`` float64.

    The mean of a function over all cells is an unbiased estimate of its integral over (0, 1].

    Raises:
        ValueError: if ``strata`` is not positive.
    """
    if strata < 1:
        raise ValueError(f"strata = {strata}: must be a positive integer, 32 or more for a figure to report")
    for cell in range(strata):
        draw = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64)
        yield (cell + 1.0 - draw) / strata


def token_log_probs(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each token, ``(B, L)``, out of ``(B, L, V)``."""
    return log_probs.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
