"""How often arg-max of a noisy one-hot vector is wrong: one integral, for every law of noise that a path has."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["UndecidedShare", "shifted_noise", "wrong_decisions"]


class UndecidedShare(NamedTuple):
    """The share of undecided tokens u, from 1 where noise is all to 0 where there is none.

    Attributes:
        share: u.
        slope: its derivative in the amount of the right coordinate.
    """

    share: Tensor
    slope: Tensor


def wrong_decisions(log_below: Tensor, symbols: int) -> Tensor:
    """Probability that one of S − 1 coordinates is above the right one, over its value without a signal, 1 − 1/S.

    Args:
        log_below: ln F of the noise at the right coordinate.
        symbols: S.
    """
    return -torch.expm1((symbols - 1) * log_below) / (1.0 - 1.0 / symbols)


def shifted_noise(weights: Tensor, log_below: Tensor, density: Tensor, symbols: int) -> UndecidedShare:
    """∫ f(y) (1 − F(y + ρ)^{S−1}) dy/(1 − 1/S) and its derivative in ρ, by a quadrature on the last axis.

    Args:
        weights: f(y) dy at the nodes.
        log_below: ln F(y + ρ).
        density: f(y + ρ).
        symbols: S.
    """
    slope = (symbols - 1) * torch.exp((symbols - 2) * log_below) * density / (1.0 - 1.0 / symbols)
    return UndecidedShare((weights * wrong_decisions(log_below, symbols)).sum(-1), -(weights * slope).sum(-1))
