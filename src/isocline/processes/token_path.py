"""Continuous relaxations of tokens: paths from a token's corner to noise, each position by itself.

A state holds one number for every real symbol at every position, ``(B, L, S)`` with S = V − 1: the mask of the
vocabulary has no corner. Two facts serve every path.

By Bayes' rule p(x_i = k | z) ∝ p(x_i = k | all positions of z but i) q_t(z_i | k). The last factor, the *evidence*, is
known in closed form: a network learns the first, and reads off all positions what they look like under equal odds
(the *view*, softmax of the evidence), which loses nothing and is a point of the simplex for every path and time.

The velocity of a mixture is the mean of the conditional velocities under p(k|z). They are those of the path's own
*position*, a reparametrised time in which they stay finite.

References: "Flow Matching for Generative Modeling", Lipman et al., 2023 (mixtures of conditional velocities);
"Dirichlet Flow Matching with Applications to DNA Sequence Design", Stark et al., 2024 (cross-entropy denoisers).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["AbstractTokenPath", "share_in_play"]


def share_in_play(t: Tensor, symbols: int) -> Tensor:
    """Return q with 1/(1 + (S − 1) q) = 1 − t (1 − 1/S): the share of the wrong symbols that are still candidates.

    A guess among 1 + (S − 1) q equal candidates is right with the probability on the right, so that along a path whose
    candidates thin out like this the share of decided tokens falls linearly in t, from 1 to 1/S.

    Args:
        t: times in [0, 1], float64.
        symbols: S.
    """
    return t / (symbols * (1.0 - t) + t)


class AbstractTokenPath(ABC):
    """The law of a noisy state given clean tokens, and the flow that it follows.

    Args:
        vocab_size: vocabulary V, the mask token counted (it is the last, index V − 1).

    Attributes:
        symbols: S = V − 1, the real symbols: last axis of every state.
        t_min: smallest time of training; a sampler's last decision is made at or above it.
        t_max: largest time of training, 1.

    Raises:
        ValueError: if there are not two real symbols.
    """

    t_min = 1e-3
    t_max = 1.0

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 3:
            raise ValueError(f"vocab_size = {vocab_size}: needs two real symbols and the mask token (so 3)")
        self.vocab_size = vocab_size
        self.symbols = vocab_size - 1

    @property
    def mask(self) -> int:
        """Index of the mask token, V − 1; no state ever holds it."""
        return self.vocab_size - 1

    def corner(self, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """One-hot vectors ``(B, L, S)`` of tokens ``(B, L)``: where the path ends at t = 0, up to its scale."""
        return F.one_hot(tokens, self.symbols).to(dtype)

    @abstractmethod
    def prior(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw states at t = 1 for ``shape`` = (B, L); ``(B, L, S)``."""

    @abstractmethod
    def sample(
        self, tokens: Tensor, t: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw states at ``t`` ``(B,)`` given clean ``tokens`` ``(B, L)``; ``(B, L, S)``."""

    @abstractmethod
    def evidence(self, t: Tensor, x: Tensor) -> Tensor:
        """Return ln q_t(x_i|k) for every symbol k, up to a constant per position.

        Args:
            t: times ``()`` or ``(B,)``.
            x: states ``(B, L, S)``.

        Returns:
            ``(B, L, S)``, dtype of x; −∞ where k cannot have led to x, finite for one k at least.
        """

    def view(self, t: Tensor, x: Tensor) -> Tensor:
        """What a network is shown: the law of the token under equal odds, ``(B, L, S)``."""
        return self._view(t, x, self.evidence(t, x))

    def evidence_in(self, t: Tensor, view: Tensor) -> Tensor:
        """The evidence that a view carries, up to a constant per position."""
        return view.log()

    def log_probs(
        self,
        network: Callable[..., Tensor],
        t: Tensor,
        x: Tensor,
        cond: Any = None,
        known: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        """Return log p(x_i = k | x) of a network, one evaluation; ``(B, L, S)``.

        Args:
            network: ``network(t, view, cond) -> (B, L, S)``, logits of each token given the other positions.
            t: times ``()`` or ``(B,)``.
            x: states ``(B, L, S)``.
            cond: handed to the network.
            known: tokens ``(B, L)`` that are known for certain, −1 elsewhere: evidence as sure as there is, in place of
                the state's. The exact denoiser then gives the law that is conditional on them.
            more: further arguments of the network by name.
        """
        evidence = self.evidence(t, x)
        view = self._view(t, x, evidence)
        if known is not None:
            certain = F.one_hot(known.clamp(min=0), self.symbols).to(x.dtype)
            is_known = known.unsqueeze(-1) >= 0
            evidence = torch.where(is_known, certain.log(), evidence)
            view = torch.where(is_known, certain, view)
        return (network(t, view, cond, **more) + evidence).log_softmax(-1)

    def _view(self, t: Tensor, x: Tensor, evidence: Tensor) -> Tensor:
        return evidence.softmax(-1)

    @abstractmethod
    def position(self, t: Tensor) -> Tensor:
        """Map times to the variable of the flow, strictly monotone; finite for t > 0."""

    @abstractmethod
    def time(self, position: Tensor) -> Tensor:
        """Inverse of `position`."""

    @abstractmethod
    def velocity(self, position: Tensor, x: Tensor, probs: Tensor) -> Tensor:
        """Return dx/d position, the mean over k ~ ``probs`` of the conditional velocities.

        Args:
            position: ``()`` or ``(B,)``.
            x: states ``(B, L, S)``.
            probs: law of the clean token ``(B, L, S)``; one-hot for a conditional velocity.

        Returns:
            Shape and dtype of x.
        """
