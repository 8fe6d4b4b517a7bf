"""Tokens as points of a Gaussian process: each is an embedding e(x), and x_t = α e(x) + σ ε at every position.

References: "Diffusion-LM Improves Controllable Text Generation", Li et al., 2022; "Continuous Diffusion for Categorical
Data", Dieleman et al., 2022 (CDCD: cross-entropy, score interpolation); "Likelihood-Based Diffusion Language Models",
Gulrajani & Hashimoto, 2023 (Plaid: the evidence of a position itself).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DataPrediction
from isocline.processes.schedule import AbstractSchedule, ScheduleValues
from isocline.shapes import expand_like

__all__ = ["EmbeddingProcess", "ask", "expected_embedding", "log_evidence"]


class EmbeddingProcess:
    """A Gaussian process on embeddings ``(B, L, D)`` of tokens, which a network is asked to name.

    The network holds the embeddings, so that they are trained and averaged with it: ``network.table()`` is ``(V − 1,
    D)``, one row for each real symbol, ``network.embed(tokens)`` looks tokens ``(B, L)`` up, and
    ``network(t, x, cond)`` gives logits ``(B, L, V)`` of the clean tokens. A network with a true attribute
    ``takes_previous`` is also handed its last guess of the embeddings, ``network(t, x, cond, previous)``
    (self-conditioning).

    Args:
        vocab_size: vocabulary V, the mask token counted (it is the last, and never a clean token).
        schedule: α and σ.
        t_min: smallest time of training and of the likelihood, where tokens are read off the states.
        t_max: largest time.

    Raises:
        ValueError: if there is no real symbol beside the mask, or the times are out of order.
    """

    def __init__(self, vocab_size: int, schedule: AbstractSchedule, t_min: float = 0.0, t_max: float = 1.0) -> None:
        if vocab_size < 2:
            raise ValueError(f"vocab_size = {vocab_size}: needs at least one real symbol and the mask token (so 2)")
        self.vocab_size = vocab_size
        self.gaussian = GaussianProcess(schedule, DataPrediction(), t_min, t_max)

    @property
    def mask(self) -> int:
        """Index of the mask token, V − 1."""
        return self.vocab_size - 1

    def clean_log_probs(self, logits: Tensor) -> Tensor:
        """Turn a network's logits ``(B, L, V)`` into log p(x|x_t), ``(B, L, V)``; −∞ for the mask."""
        forbidden = torch.arange(logits.shape[-1], device=logits.device) == self.mask
        return logits.masked_fill(forbidden, -torch.inf).log_softmax(-1)


def ask(network: nn.Module, t: Tensor, x: Tensor, cond: Any = None, previous: Tensor | None = None) -> Tensor:
    """Call a network; one without self-conditioning is not told of ``previous``.

    Args:
        network: see `EmbeddingProcess`.
        t: times ``()`` or ``(B,)``.
        x: states ``(B, L, D)``.
        cond: condition or None.
        previous: its last guess of the embeddings, ``(B, L, D)``, or None.

    Returns:
        Logits ``(B, L, V)``.
    """
    told = (previous,) if getattr(network, "takes_previous", False) else ()
    return network(t, x, cond, *told)  # type: ignore[no-any-return]


def expected_embedding(probs: Tensor, table: Tensor) -> Tensor:
    """Σ_k p_k e_k: the posterior mean of x_0 that a law of tokens implies (CDCD's score interpolation).

    Args:
        probs: ``(*rows, V)``, without mass on the mask.
        table: ``(V − 1, D)``.

    Returns:
        ``(*rows, D)`` in the table's dtype.
    """
    return probs[..., :-1].to(table.dtype) @ table


def log_evidence(x: Tensor, table: Tensor, values: ScheduleValues) -> Tensor:
    """What each position says of its own token: log q(x_t | e_k) = (α x·e_k − α² |e_k|²/2)/σ² but for a constant.

    Args:
        x: states ``(B, L, D)``.
        table: ``(V − 1, D)``.
        values: the schedule, ``()`` or ``(B,)``.

    Returns:
        ``(B, L, V − 1)``.

    Source: *Likelihood-Based Diffusion Language Models*, Gulrajani & Hashimoto, 2023, §4 (output prior).
    """
    # Clamped, since an endpoint σ = 0 says everything: 0/0 for a state at the origin otherwise.
    precision = values.alpha / values.sigma.square().clamp_min(1e-12)
    scale = expand_like(precision.to(x.dtype), x)
    half = expand_like((0.5 * values.alpha).to(x.dtype), x)
    return scale * (x @ table.T - half * table.square().sum(-1))
