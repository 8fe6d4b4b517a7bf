"""Euler's method on the rates of the time reversal: the plainest sampler of discrete diffusion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractCorruption
from isocline.samplers.discrete import AbstractDiscreteSampler
from isocline.samplers.token_rows import law_of_rows, time_of_rows
from isocline.shapes import expand_like
from isocline.solvers.markov import MarkovEuler, clean_rates, draw_symbols, markov_problem
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["MarkovEulerSampler", "ReverseEuler"]


@dataclass(frozen=True)
class ReverseEuler(AbstractStepper):
    """Jump to y with probability Δt R(z, y), R the rates of the time reversal (Campbell et al., 2022, section 4).

    Where a step is too long for its rates, the probabilities of leaving are scaled to one, which is no failure: rates
    that are infinite at t = 1 make every first step too long; they are taken at ``latest`` there. Rates that are
    negative or not finite are none, and the step has failed. A step that ends at t = 0 draws from p(x|z) instead: the
    rates are infinite there, and nothing is to stay undecided.

    Attributes:
        kernel: the corruption that is undone.
        latest: largest time at which rates are asked for.
    """

    kernel: AbstractCorruption
    latest: float = 1.0 - 1e-6

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One step of Euler's method."""
        generator = markov_problem(self, problem).generator
        needed = self.kernel.undecided(y0).any(-1)
        rows = torch.nonzero(needed).flatten()
        drawn, failed = y0.clone(), torch.zeros_like(needed)
        if len(rows):
            z, probs = y0[rows], law_of_rows(problem, t0, y0, rows)
            t, s = (time_of_rows(time, rows) for time in (t0, t1))
            if bool((s == 0).all()):
                drawn[rows] = draw_symbols(probs, generator)
            else:
                rates, valid = clean_rates(self.kernel.reverse_rate(t.clamp(max=self.latest), z, probs), z)
                failed[rows] = ~valid
                drawn[rows], _ = MarkovEuler().jump(rates, expand_like(t - s, z), z, generator)
        return StepResult(drawn, nfe=needed.long(), failed=failed)


class MarkovEulerSampler(AbstractDiscreteSampler):
    """Integrate the rates of the time reversal by Euler's method; the last step draws from the law of clean tokens."""

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """Euler's step of any kernel."""
        return ReverseEuler(kernel)
