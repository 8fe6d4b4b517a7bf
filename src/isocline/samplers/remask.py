"""Remasking diffusion: ancestral steps of masked diffusion that may mask tokens again and correct them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractCorruption, uniforms
from isocline.processes.kernel import AbsorbingKernel
from isocline.samplers.discrete import AbstractDiscreteSampler, absorbing_kernel
from isocline.samplers.remasking import AbstractRemasking, RescaledRemasking
from isocline.samplers.token_rows import law_at
from isocline.solvers.markov import draw_symbols, markov_problem
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["RemaskSampler", "RemaskStepper"]


@dataclass(frozen=True)
class RemaskStepper(AbstractStepper):
    """Mask visible tokens with probability σ, reveal masks with (a_s − (1 − σ) a_t)/(1 − a_t) (see `remasking`).

    With σ = 0 it is the ancestral step. The carry is the probability of each visible token when it was revealed.
    Prompted tokens are never revealed, count as certain, and are put back where they are masked.

    Attributes:
        kernel: the absorbing kernel.
        remasking: gives σ.
    """

    kernel: AbsorbingKernel
    remasking: AbstractRemasking

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Tensor:
        """What is visible at the start is certain, ``(B, L)``."""
        return torch.full_like(y0, torch.inf, dtype=torch.float64)

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One step; sequences in which nothing is revealed are not evaluated."""
        generator = markov_problem(self, problem).generator
        schedule = self.kernel.schedule
        a_t, a_s = (self.remasking.survival(schedule, t) for t in (t0, t1))
        sigma = self.remasking.probability(t0, a_t, a_s, carry)
        masked = self.kernel.undecided(y0)
        reveal = (a_s - (1.0 - sigma) * a_t) / (1.0 - a_t)
        changes = uniforms(y0.shape, generator, y0.device) < torch.where(masked, reveal, sigma)
        revealed = masked & changes
        law = law_at(problem, schedule.inverse(a_t), y0, revealed)
        drawn = draw_symbols(law, generator)
        z, certainty = y0.masked_fill(changes, self.kernel.mask), carry.masked_fill(changes, torch.inf)
        z[revealed], certainty[revealed] = drawn, law.gather(1, drawn[:, None])[:, 0]
        return StepResult(z, carry=certainty, nfe=revealed.any(-1).long())


class RemaskSampler(AbstractDiscreteSampler):
    """Masked diffusion that corrects itself: more steps than tokens are of use ("ReMDM", Wang et al., 2025).

    Args:
        remasking: how much is masked again; by default a tenth of what is possible.
        temperature: of the law of clean tokens; 0 is greedy. The authors truncate at ``top_p=0.9``.
        top_p: nucleus of the law.
        min_p: minimum probability relative to the largest.
        greedy_tail: see `AbstractDiscreteSampler`.
    """

    def __init__(
        self,
        remasking: AbstractRemasking | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        greedy_tail: float = 0.0,
    ) -> None:
        super().__init__(temperature, top_p, min_p, greedy_tail)
        self.remasking = RescaledRemasking() if remasking is None else remasking

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """The remasking step; absorbing kernels only."""
        return RemaskStepper(absorbing_kernel(kernel, "remasking"), self.remasking)
