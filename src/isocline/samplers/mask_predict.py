"""Mask-predict: predict everything, mask the least certain tokens again, for a fixed number of rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractCorruption
from isocline.processes.kernel import AbsorbingKernel
from isocline.samplers.discrete import AbstractJudgingSampler, absorbing_kernel
from isocline.samplers.token_law import Sharpening
from isocline.samplers.token_rows import law_of_rows
from isocline.samplers.token_steppers import keep_first
from isocline.solvers.markov import draw_symbols, markov_problem
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["MaskPredictSampler", "MaskPredictStepper"]


class _Predicted(NamedTuple):
    """What mask-predict remembers.

    Attributes:
        open: positions that were masked at the start, bool ``(B, L)``.
        certainty: probability of each token when it was last predicted, ``(B, L)`` float64.
    """

    open: Tensor
    certainty: Tensor


@dataclass(frozen=True)
class MaskPredictStepper(AbstractStepper):
    """Predict every masked position, then mask the ⌊N s⌋ least certain of the N that were open at the start.

    A token keeps the probability that it had when it was predicted. With T steps N (T − k)/T positions are masked
    after the k-th, and none after the last.

    Attributes:
        kernel: the absorbing kernel.
        sharpening: of the law that tokens are drawn from; certainty is read from the law as it is.

    Source: Ghazvininejad et al., Mask-predict: parallel decoding of conditional masked language models (2019),
    section 3.
    """

    kernel: AbsorbingKernel
    sharpening: Sharpening

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> _Predicted:
        """Nothing is predicted."""
        return _Predicted(self.kernel.undecided(y0), torch.ones_like(y0, dtype=torch.float64))

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One round."""
        generator = markov_problem(self, problem).generator
        masked, certainty = self.kernel.undecided(y0), carry.certainty.clone()
        count = masked.sum(-1)
        rows = torch.nonzero(count > 0).flatten()
        z = y0.clone()
        if len(rows):
            probs = law_of_rows(problem, self.kernel.schedule.inverse(1.0 - count / y0.shape[1]), y0, rows)
            drawn = draw_symbols(self.sharpening.of(probs), generator)
            sure = probs.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
            z[rows] = torch.where(masked[rows], drawn, y0[rows])
            certainty[rows] = torch.where(masked[rows], sure, certainty[rows])
        # The slack keeps a product that rounds down past an integer from masking one position less.
        again = torch.floor(carry.open.sum(-1) * t1 + 1e-9).long()
        z = z.masked_fill(keep_first(-certainty, carry.open, again), self.kernel.mask)
        return StepResult(z, carry=_Predicted(carry.open, certainty), nfe=(count > 0).long())


class MaskPredictSampler(AbstractJudgingSampler):
    """Predict all tokens, mask the least certain again and predict them anew, ever fewer ("mask-predict").

    The authors take the most probable token (``temperature=0``), with a source sentence that makes texts differ;
    without one that gives the same text every time.

    Args:
        temperature: of the law of clean tokens; 0 is greedy.
        top_p: nucleus of the law.
        min_p: minimum probability relative to the largest.
    """

    def __init__(self, temperature: float = 1.0, top_p: float = 1.0, min_p: float = 0.0) -> None:
        super().__init__(temperature, top_p, min_p)

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """The mask-predict round; absorbing kernels only."""
        return MaskPredictStepper(absorbing_kernel(kernel, "mask-predict"), self.sharpening)
