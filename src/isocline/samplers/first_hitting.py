"""First-hitting sampling of masked diffusion: the time of the next reveal is drawn, and the network asked there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractCorruption, uniforms
from isocline.processes.kernel import AbsorbingKernel
from isocline.samplers.discrete import AbstractDiscreteSampler, absorbing_kernel, revealing_steps
from isocline.samplers.token_rows import law_at
from isocline.samplers.token_steppers import keep_first
from isocline.solvers.markov import draw_symbols, markov_problem
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["FirstHittingSampler", "FirstHittingStepper"]


@dataclass(frozen=True)
class FirstHittingStepper(AbstractStepper):
    """Reveal the positions of the next reveals, at the time of the first of them.

    With n positions masked at time t the next reveal is at t' with 1 − a(t') = u^(1/n) (1 − a(t)), at any of the n
    positions, whatever the network says. Of M positions masked at the start ⌈M s⌉ are masked after the grid's step to
    s, so that M steps reveal one position each, which is exact, and fewer steps reveal groups as even as can be: a
    group is drawn at its first hitting time, as if independent, and its last one is where the next group starts.

    The times of the grid only count the steps; each sequence has its own clock, which is the carry.

    Attributes:
        kernel: the absorbing kernel.

    Source: Zheng et al., Masked diffusion models are secretly time-agnostic masked models and exploit inaccurate
    categorical sampling (2024), section 4 (Algorithm 1; groups: its parallel decoding).
    """

    kernel: AbsorbingKernel

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> tuple[Tensor, Tensor]:
        """Number of masked positions at the start, and the share of noise 1 − a now, each ``(B,)``."""
        noise = (1.0 - self.kernel.schedule.a(t0)).to(y0.device).expand(len(y0))
        return self.kernel.undecided(y0).sum(-1), noise

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Draw the hitting times of a group, its positions, then its tokens."""
        generator = markov_problem(self, problem).generator
        start, noise = carry
        masked = self.kernel.undecided(y0)
        count = masked.sum(-1)
        group = count - torch.minimum(count, torch.ceil(start * t1 - 1e-9).long())
        largest = max(1, int(group.max()))
        still_masked = (count[:, None] - torch.arange(largest, device=y0.device)).clamp(min=1)
        shares = uniforms((len(y0), largest), generator, y0.device) ** (1.0 / still_masked)
        noises = noise[:, None] * shares.cumprod(-1)
        chosen = keep_first(uniforms(y0.shape, generator, y0.device), masked, group)
        hit = self.kernel.schedule.inverse(1.0 - noises[:, 0])
        z = y0.clone()
        z[chosen] = draw_symbols(law_at(problem, hit, y0, chosen), generator)
        last = noises.gather(1, (group - 1).clamp(min=0)[:, None])[:, 0]
        return StepResult(z, carry=(start, torch.where(group > 0, last, noise)), nfe=(group > 0).long())


class FirstHittingSampler(AbstractDiscreteSampler):
    """Exact sampling of masked diffusion at one evaluation per revealed token, or in groups under a smaller budget.

    No time is discretised: with a budget of as many evaluations as positions are open, and the exact denoiser, the
    law of the tokens is exact.

    Args:
        temperature: of the law of clean tokens; 0 is greedy.
        top_p: nucleus of the law.
        min_p: minimum probability relative to the largest.
        greedy_tail: see `AbstractDiscreteSampler`.
    """

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """The first-hitting step; absorbing kernels only."""
        return FirstHittingStepper(absorbing_kernel(kernel, "first-hitting sampling"))

    def steps(self, nfe: int, undecided: Tensor) -> int:
        """No more steps than masked positions: further ones would reveal nothing."""
        return revealing_steps(nfe, undecided)
