"""Unmasking as many positions at once as their entropies allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractCorruption
from isocline.processes.kernel import AbsorbingKernel
from isocline.samplers.discrete import AbstractJudgingSampler, absorbing_kernel, revealing_steps
from isocline.samplers.order import AbstractOrder, LeastEntropy
from isocline.samplers.token_law import Sharpening
from isocline.samplers.token_rows import law_of_rows
from isocline.samplers.token_steppers import keep_first
from isocline.solvers.markov import draw_symbols, markov_problem
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["EntropyBoundedSampler", "EntropyBoundedStepper", "affordable_prefix"]


def affordable_prefix(entropies: Tensor, score: Tensor, masked: Tensor, budget: float) -> Tensor:
    """Length of the largest prefix U of the order with Σ_U H − max_U H ≤ γ.

    The joint entropy of the positions in U is at least max_U H, so that the left side bounds how far drawing them as
    if independent is from their joint law, in nats. One position costs nothing: the prefix is never empty.

    Args:
        entropies: H of the law at every position, ``(n, L)`` nats.
        score: positions of the highest score go first, ``(n, L)``.
        masked: positions that take part, bool ``(n, L)``.
        budget: γ.

    Returns:
        ``(n,)`` int64.
    """
    order = score.masked_fill(~masked, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    ordered = entropies.gather(-1, order)
    cost = ordered.cumsum(-1) - ordered.cummax(-1).values
    return (masked.gather(-1, order) & (cost <= budget + 1e-12)).sum(-1)


@dataclass(frozen=True)
class EntropyBoundedStepper(AbstractStepper):
    """Reveal the largest prefix of an order that an entropy budget pays for, and at least an even share of the rest.

    Attributes:
        kernel: the absorbing kernel.
        budget: γ in nats; 0 reveals one position, and those whose token is certain.
        ordering: which positions go first.
        sharpening: of the law that tokens are drawn from; entropies are those of the law as it is.

    Source: Ben-Hamu et al., Accelerated sampling from masked diffusion models via entropy bounded unmasking (2025).
    """

    kernel: AbsorbingKernel
    budget: float
    ordering: AbstractOrder
    sharpening: Sharpening

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Draw a candidate for every masked position, keep the prefix."""
        generator = markov_problem(self, problem).generator
        masked = self.kernel.undecided(y0)
        count = masked.sum(-1)
        rows = torch.nonzero(count > 0).flatten()
        z = y0.clone()
        if len(rows):
            probs = law_of_rows(problem, self.kernel.schedule.inverse(1.0 - count / y0.shape[1]), y0, rows)
            drawn = draw_symbols(self.sharpening.of(probs), generator)
            score = self.ordering(probs, drawn, generator)
            entropies = -torch.special.xlogy(probs, probs).sum(-1)
            # Steps of a uniform grid to 0 that are left, this one included: an even share keeps to the evaluations
            # allowed, whatever the entropies are.
            share = torch.ceil(count[rows] * ((t0 - t1) / t0) - 1e-9).long()
            taken = torch.maximum(affordable_prefix(entropies, score, masked[rows], self.budget), share)
            z[rows] = torch.where(keep_first(score, masked[rows], taken), drawn, y0[rows])
        return StepResult(z, nfe=(count > 0).long())


class EntropyBoundedSampler(AbstractJudgingSampler):
    """Reveal per evaluation as many tokens as an entropy budget pays for: few where the model is unsure.

    A sequence that is complete early costs no further evaluations; one that the budget γ is too small for reveals an
    even share of what is left, so that ``nfe`` is never exceeded.

    Args:
        budget: γ in nats per evaluation.
        order: which positions go first; the least entropy by default.
        temperature: of the law that tokens are drawn from; 0 is greedy.
        top_p: nucleus of that law.
        min_p: minimum probability relative to the largest.

    Raises:
        ValueError: if the budget is negative.
    """

    def __init__(
        self,
        budget: float = 1.0,
        order: AbstractOrder | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
    ) -> None:
        super().__init__(temperature, top_p, min_p)
        if budget < 0:
            raise ValueError(f"budget = {budget}: the entropy per evaluation must be at least 0 nats")
        self.budget = budget
        self.order = LeastEntropy() if order is None else order

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """The entropy-bounded step; absorbing kernels only."""
        masked = absorbing_kernel(kernel, "entropy-bounded unmasking")
        return EntropyBoundedStepper(masked, self.budget, self.order, self.sharpening)

    def steps(self, nfe: int, undecided: Tensor) -> int:
        """No more steps than masked positions: every step reveals one at least."""
        return revealing_steps(nfe, undecided)
