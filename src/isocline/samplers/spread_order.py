"""Deciding positions far from each other at the same time, since neighbours are the ones that depend on each other."""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.samplers.order import AbstractOrder

__all__ = ["SpreadOrder", "van_der_corput"]


def van_der_corput(bits: int) -> Tensor:
    """Return 0, …, 2^bits − 1 with their binary digits reversed: a prefix of 2^k of them is 2^{bits − k} apart."""
    index = torch.arange(1 << bits)
    reversed_index = torch.zeros_like(index)
    for bit in range(bits):
        reversed_index |= ((index >> bit) & 1) << (bits - 1 - bit)
    return reversed_index


class SpreadOrder(AbstractOrder):
    """Positions in the order of a low-discrepancy sequence, shifted at random: those of one step lie far apart.

    Tokens that are decided in one step are drawn as if independent, and what that costs is their mutual information.
    In text it is that of neighbours above all. Of L positions (a power of two) decided in n steps (likewise), those of
    a step are exactly n apart, and in the last step both neighbours of each one are known. A model of any order has
    the same law in this one as in a random one up to its own inconsistency, so that nothing is lost in variety.

    Source: *Halton Scheduler for Masked Generative Image Transformer*, Besnier et al., 2025, for images; here with van
    der Corput's sequence on the line.
    """

    def __call__(self, probs: Tensor, drawn: Tensor, generator: torch.Generator) -> Tensor:
        """The negative rank of each position; the shift is drawn anew for every sequence and step."""
        batch, length = drawn.shape
        ranks = van_der_corput(max(1, (length - 1).bit_length())).to(drawn.device)
        shift = torch.randint(len(ranks), (batch, 1), generator=generator, device=generator.device).to(drawn.device)
        place = (torch.arange(length, device=drawn.device) + shift) % len(ranks)
        return -ranks[place].double()
