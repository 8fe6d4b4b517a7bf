"""Exact simulation of discrete flow matching, one candidate position at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractCorruption
from isocline.processes.kernel import AbstractKernel
from isocline.samplers.discrete import AbstractDiscreteSampler, required_kernel
from isocline.samplers.noise_clock import AbstractNoiseClock, noise_clock
from isocline.samplers.token_rows import law_at
from isocline.samplers.token_steppers import MixtureLeap
from isocline.solvers.markov import draw_symbols, markov_problem
from isocline.solvers.markov_jumps import exponentials
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["GillespieSampler", "RedrawStepper"]


@dataclass(frozen=True)
class RedrawStepper(AbstractStepper):
    """Uniformisation of the flow-matching rates: the next candidate, its time drawn, is redrawn from the law there.

    A position leaves the symbol z at the rate h_t(z) (1 − p(z|z_t)) with h known without the network (see
    `isocline.samplers.noise_clock`). Candidates come at the rates h; one whose clean token, drawn from p at its time,
    is the symbol that it has stays. No time is discretised. Where no more than ``rest`` positions are expected to be
    noise, and none is a mask, and at the last step of the grid, all are drawn from p at once, which is wrong by the
    chance that two of them were noise: at most rest²/2.

    The rates of the time reversal would need infinitely many jumps as a → 0 under the uniform kernel; these do not.
    Under the absorbing kernel every candidate reveals a token: first-hitting sampling.

    The times of the grid only count the steps; each sequence has its own clock, which is the carry.

    Attributes:
        kernel: the corruption that is undone.
        clock: of the kernel.
        rest: expected number of noisy positions at which the rest is drawn at once.
    """

    kernel: AbstractKernel
    clock: AbstractNoiseClock
    rest: float

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Tensor:
        """The time of each sequence, ``(B,)``."""
        return t0.to(y0.device).expand(len(y0)).clone()

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One candidate of every sequence that goes on."""
        open_rows = (self.kernel.noise(carry).to(y0.device).gather(1, y0) > 0).any(-1)
        few = y0.shape[1] * (1.0 - self.kernel.schedule.a(carry)) <= self.rest
        last = open_rows & (bool((t1 == 0).all()) | (few & ~(y0 == self.kernel.mask).any(-1)))
        z, time, nfe = y0.clone(), carry.clone(), torch.zeros_like(y0[:, 0])
        ends, goes_on = torch.nonzero(last).flatten(), torch.nonzero(open_rows & ~last).flatten()
        if len(ends):
            # The whole batch steps, for the problem's sake; the others' steps have no length.
            end = torch.where(last, 0.0, carry)
            result = MixtureLeap(self.kernel).step(problem, carry, end, y0, None)
            z[ends], time[ends] = result.y1[ends], 0.0
            nfe = nfe + result.nfe
        if len(goes_on):
            z[goes_on], time[goes_on], evaluated = self._candidates(problem, carry, y0, goes_on)
            nfe[goes_on] += evaluated
        return StepResult(z, carry=time, nfe=nfe)

    def _candidates(
        self, problem: AbstractProblem, t: Tensor, y0: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, times and evaluations of the sequences ``rows`` after their next candidate."""
        generator = markov_problem(self, problem).generator
        z = y0[rows]
        when = self.clock.after(t[rows], z, exponentials(len(rows), generator, z.device))
        hazard = self.clock.hazard(when, z)
        place = draw_symbols(hazard, generator)
        # At a time that rounds to the data's, nothing is noise.
        happens = hazard.sum(-1) > 0
        places = torch.zeros_like(y0, dtype=torch.bool)
        places[rows[happens], place[happens]] = True
        clean = draw_symbols(law_at(problem, t.index_copy(0, rows, when), y0, places), generator)
        left = y0[places]
        moved = z.clone()
        moved[happens, place[happens]] = self.clock.destinations(when[happens], left, clean, generator)
        return moved, when, happens.long()


class GillespieSampler(AbstractDiscreteSampler):
    """Exact sampling under any kernel of survival and noise, at one evaluation for every candidate position.

    For sequences of L symbols under the uniform kernel about L ln(L/rest) candidates are needed; with a smaller budget
    the last evaluation draws what is left at once. Under the absorbing kernel it is one evaluation per token.

    Args:
        rest: expected number of noisy positions at which the rest of a sequence is drawn at once; the total variation
            from the exact law is at most rest²/2.
        temperature: of the law of clean tokens; 0 is greedy.
        top_p: nucleus of the law.
        min_p: minimum probability relative to the largest.
        greedy_tail: see `AbstractDiscreteSampler`.

    Raises:
        ValueError: if ``rest`` is negative.
    """

    def __init__(
        self,
        rest: float = 0.01,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        greedy_tail: float = 0.0,
    ) -> None:
        super().__init__(temperature, top_p, min_p, greedy_tail)
        if rest < 0:
            raise ValueError(f"rest = {rest}: the number of positions that are left to one draw must be at least 0")
        self.rest = rest

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """Uniformisation of any kernel with survival and noise."""
        known = required_kernel(kernel, "exact simulation")
        return RedrawStepper(known, noise_clock(known), self.rest)
