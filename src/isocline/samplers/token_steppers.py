"""Steps of discrete samplers, run by the solver loop like any other stepper.

In all of them the problem's ``rate`` is the law of clean tokens p(x|z), ``(B, L, V)`` (see `TokenLaw`): the chain's
jumps follow from it and from the kernel. The network is asked about a sequence only where a step decides something in
it, so that ``nfe`` of a step is 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.processes.corruption import AbstractCorruption, uniforms
from isocline.processes.kernel import AbsorbingKernel, AbstractKernel
from isocline.processes.token_schedule import AbstractSurvival
from isocline.samplers.noise_clock import settle
from isocline.samplers.order import AbstractOrder
from isocline.samplers.token_law import Sharpening
from isocline.samplers.token_rows import law_at, law_of_rows, time_of_rows
from isocline.solvers.markov import draw_symbols, markov_problem
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["AncestralStepper", "MixtureLeap", "UnmaskingStepper", "keep_first"]


@dataclass(frozen=True)
class AncestralStepper(AbstractStepper):
    """Draw z_s from Σ_k p(k|z_t) q(z_s|z_t, k), positions independently (Austin et al., 2021).

    At s = 0 it draws z_0 ~ p(x|z_t): nothing stays undecided.

    Attributes:
        kernel: the corruption that is undone.
    """

    kernel: AbstractCorruption

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One draw from the reverse transition."""
        generator = markov_problem(self, problem).generator
        needed = self.kernel.undecided(y0).any(-1)
        rows = torch.nonzero(needed).flatten()
        drawn = y0.clone()
        if len(rows):
            s, t = time_of_rows(t1, rows), time_of_rows(t0, rows)
            law = self.kernel.posterior(y0[rows], s, t, law_of_rows(problem, t0, y0, rows))
            drawn[rows] = draw_symbols(law, generator)
        return StepResult(drawn, nfe=needed.long())


@dataclass(frozen=True)
class MixtureLeap(AbstractStepper):
    """Tau-leaping along the mixture path of the kernel, the clean token frozen over the step (Gat et al., 2024).

    Given the clean token x, the noise n_t(z) that the path takes from a symbol between t and s leaves it with
    probability 1 − n_s(z)/n_t(z), and goes where the path gains: from q_t(·|x) the step leads to q_s(·|x) exactly.
    Where the law of noise is constant in time (absorbing, uniform, structured) all of it goes to x: a position is
    redrawn from p with probability (a_s − a_t)/(1 − a_t), the flow-matching rates −a'/(1−a) [p − δ_z] integrated over
    the step. Under a hybrid kernel a mask may turn into noise on its way. At s = 0 every position that may be noise is
    drawn from p.

    With an absorbing kernel the posterior itself is this mixture, so the leap is the ancestral step. Who leaves does
    not depend on p: it is drawn first, and only sequences in which a position leaves are evaluated.

    Attributes:
        kernel: the corruption that is undone.
    """

    kernel: AbstractKernel

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One leap."""
        generator = markov_problem(self, problem).generator
        now, later = (self.kernel.noise(t).expand(len(y0), -1).to(y0.device) for t in (t0, t1))
        amount = now.gather(1, y0)
        leave = torch.where(amount > 0, 1.0 - later.gather(1, y0) / amount, 0.0)
        leaps = uniforms(y0.shape, generator, y0.device) < leave
        clean = draw_symbols(law_at(problem, t0, y0, leaps), generator)
        drawn = y0.clone()
        row = torch.nonzero(leaps)[:, 0]
        rise = (self.kernel.schedule.a(t1) - self.kernel.schedule.a(t0)).to(y0.device).expand(len(y0))[row]
        drawn[leaps] = settle(y0[leaps], clean, rise, (later - now)[row], generator)
        return StepResult(drawn, nfe=leaps.any(-1).long())


def keep_first(score: Tensor, eligible: Tensor, count: Tensor) -> Tensor:
    """Mark the ``count`` ``(n,)`` eligible positions of the highest scores ``(n, L)``; bool ``(n, L)``."""
    ranked = score.masked_fill(~eligible, -torch.inf).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    return eligible & (ranked < count.unsqueeze(-1))


@dataclass(frozen=True)
class UnmaskingStepper(AbstractStepper):
    """Decide a set number of masked positions per step, chosen by an order ("MaskGIT", Chang et al., 2022).

    Of M positions masked at the start, ⌈M (1 − pace(s))⌉ are masked at s. The network is shown the time at which
    its number of masks is expected. Choosing by confidence changes the law; a random order is that of first-hitting
    sampling (`isocline.samplers.first_hitting`).

    Attributes:
        kernel: the absorbing kernel.
        ordering: which positions go first.
        pace: share of the positions decided at s.
        sharpening: of the law that candidates are drawn from; positions are ordered by the law as it is.
    """

    kernel: AbsorbingKernel
    ordering: AbstractOrder
    pace: AbstractSurvival
    sharpening: Sharpening

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Tensor:
        """Number of masked positions at the start, ``(B,)``."""
        return self.kernel.undecided(y0).sum(-1)

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Draw a candidate for every masked position, keep the first ones of the order."""
        generator = markov_problem(self, problem).generator
        masked = self.kernel.undecided(y0)
        count = masked.sum(-1)
        # The slack keeps a product that rounds up past an integer from holding one position back.
        left = torch.ceil(carry * (1.0 - self.pace.a(t1)) - 1e-9).long()
        needed = count > left
        rows = torch.nonzero(needed).flatten()
        z = y0.clone()
        if len(rows):
            time = self.kernel.schedule.inverse(1.0 - count / y0.shape[1])
            probs = law_of_rows(problem, time, y0, rows)
            candidates, hidden = y0[rows], masked[rows]
            candidates[hidden] = draw_symbols(self.sharpening.of(probs[hidden]), generator)
            chosen = keep_first(self.ordering(probs, candidates, generator), hidden, (count - left)[rows])
            z[rows] = torch.where(chosen, candidates, y0[rows])
        return StepResult(z, carry=carry, nfe=needed.long())
