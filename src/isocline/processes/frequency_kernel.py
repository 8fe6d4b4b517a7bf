"""Noise that follows the frequencies of the symbols: corrupted text keeps the unigram law of the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.processes.kernel import AbstractFixedNoiseKernel
from isocline.processes.token_schedule import AbstractSurvival

__all__ = ["FrequencyKernel", "symbol_law"]


def symbol_law(frequencies: Tensor | Sequence[float], vocab_size: int) -> Tensor:
    """A positive law of the real symbols, ``(V − 1,)`` float64, from counts or shares.

    Raises:
        ValueError: if there is not one value per real symbol, or one is not positive and finite.
    """
    law = torch.as_tensor(frequencies, dtype=torch.float64).detach().cpu()
    if law.shape != (vocab_size - 1,):
        raise ValueError(
            f"frequencies of shape {tuple(law.shape)}: expected ({vocab_size - 1},), one per symbol but the mask"
        )
    if not bool((law.isfinite() & (law > 0)).all()):
        raise ValueError("frequencies must be positive and finite: add a pseudo-count of 1 to counts with zeros")
    return law / law.sum()


class FrequencyKernel(AbstractFixedNoiseKernel):
    """Tokens are replaced by draws from a law of the real symbols: q_t = a δ_x + (1 − a) π, π the frequencies.

    "Structured Denoising Diffusion Models in Discrete State-Spaces", Austin et al., 2021, section 3.1, with a chosen
    stationary law: the data's own unigram law keeps the frequencies of the text at every t.

    Args:
        vocab_size: vocabulary V, the mask token counted.
        schedule: survival probability a(t).
        frequencies: counts or shares of the V − 1 real symbols, all positive.

    Raises:
        ValueError: if the frequencies do not fit the vocabulary or are not positive.
    """

    def __init__(self, vocab_size: int, schedule: AbstractSurvival, frequencies: Tensor | Sequence[float]) -> None:
        super().__init__(vocab_size, schedule)
        self.law = torch.cat([symbol_law(frequencies, vocab_size), torch.zeros(1, dtype=torch.float64)])

    def stationary(self, device: torch.device | str = "cpu") -> Tensor:
        """The frequencies on the real symbols, 0 on the mask."""
        return self.law.to(device)
