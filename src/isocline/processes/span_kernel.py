"""In-place span masking: the positions of one span are masked together.

Source of span lengths: "SpanBERT: Improving Pre-training by Representing and Predicting Spans", Joshi et al., 2020.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.processes.corruption import uniforms
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.token_schedule import AbstractSurvival
from isocline.shapes import expand_like

__all__ = ["AbstractSpans", "FixedSpans", "GeometricSpans", "SpanKernel"]


class AbstractSpans(ABC):
    """A law of partitions of a sequence into spans, which does not look at its tokens."""

    @abstractmethod
    def starts(self, shape: Sequence[int], generator: torch.Generator, device: torch.device | str) -> Tensor:
        """Mark the positions at which a span begins, bool of ``shape`` = (B, L); the first position is not asked."""

    def partition(self, shape: Sequence[int], generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
        """Draw the number of the span of every position, int64 ``(B, L)``, from 0 upwards."""
        starts = self.starts(shape, generator, device)
        starts[:, 0] = False
        return starts.long().cumsum(-1)


class GeometricSpans(AbstractSpans):
    """A span ends after each position with probability 1/mean.

    Args:
        mean: length of a span in tokens, at least 1.

    Raises:
        ValueError: if the mean is below 1.
    """

    def __init__(self, mean: float = 3.0) -> None:
        if not mean >= 1.0:
            raise ValueError(f"mean = {mean}: a span has at least 1 token")
        self.mean = mean

    def starts(self, shape: Sequence[int], generator: torch.Generator, device: torch.device | str) -> Tensor:
        """Independent at every position."""
        return uniforms(shape, generator, device) < 1.0 / self.mean


class FixedSpans(AbstractSpans):
    """Spans of one length on a lattice with a random offset, so that a boundary is equally likely everywhere.

    Args:
        length: of a span in tokens, at least 1; those at the ends of the sequence may be shorter.

    Raises:
        ValueError: if the length is below 1.
    """

    def __init__(self, length: int = 3) -> None:
        if length < 1:
            raise ValueError(f"length = {length}: a span has at least 1 token")
        self.length = length

    def starts(self, shape: Sequence[int], generator: torch.Generator, device: torch.device | str) -> Tensor:
        """Every ``length`` positions from an offset per sequence."""
        offset = (uniforms((shape[0], 1), generator, device) * self.length).long()
        return torch.arange(shape[1], device=device) % self.length == offset


class SpanKernel(AbsorbingKernel):
    """Absorbing noise that hides whole spans: a partition is drawn per sequence, then each span survives or not.

    Every position is still masked with probability 1 − a(t), so marginals, posterior and rates of one position are
    those of `AbsorbingKernel`. The masked objective remains a bound. Given the partition S the spans are the symbols
    of an ordinary absorbing chain, whose bound ∫ −a'/(1−a) Σ_masked −log p(span|z) dt ≥ −log p_S(x) is the sum over
    masked tokens when the network's law of a span is a product; the mean over S, drawn independently of x, bounds
    −log Σ_S P(S) p_S(x) by Jensen's inequality. That is the likelihood of generation span by span. It is not tight
    even for the exact denoiser: tokens of a span are drawn independently of each other.

    A network trained so has seen contexts with any number of masks and can as well be sampled position by position;
    `MaskedDiffusion.negative_log_likelihood` masks single positions, and bounds the likelihood of that.

    Args:
        vocab_size: vocabulary V, the mask token counted.
        schedule: survival probability a(t) of a span.
        spans: law of the partition; geometric of mean 3 by default.
    """

    def __init__(self, vocab_size: int, schedule: AbstractSurvival, spans: AbstractSpans | None = None) -> None:
        super().__init__(vocab_size, schedule)
        self.spans = GeometricSpans() if spans is None else spans

    def sample(self, x0: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """Corrupt clean tokens ``x0`` ``(B, L)`` to time ``t`` (``()`` or ``(B,)``), span by span; int64 ``(B, L)``."""
        span = self.spans.partition(x0.shape, generator, x0.device)
        keep = uniforms(x0.shape, generator, x0.device).gather(-1, span)
        return torch.where(keep < expand_like(self.schedule.a(t), x0), x0, self.mask)
