"""Steps of discrete samplers, run by the solver loop like any other stepper.

In all of them the problem's ``rate`` is the law of clean tokens p(x|z), ``(B, L, V)`` (see `TokenLaw`): the chain's
jumps follow from it and from the kernel. A sequence without undecided positions costs no evaluation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.processes.kernel import AbsorbingKernel, AbstractKernel, uniforms
from isocline.processes.token_schedule import AbstractSurvival
from isocline.samplers.order import AbstractOrder
from isocline.samplers.token_law import Sharpening
from isocline.shapes import expand_like
from isocline.solvers.markov import draw_symbols
from isocline.solvers.problem import AbstractProblem, MarkovProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["AncestralStepper", "MixtureLeap", "UnmaskingStepper"]


def _generator(problem: AbstractProblem) -> torch.Generator:
    if not isinstance(problem, MarkovProblem):
        raise TypeError(f"problem = {type(problem).__name__}: steps on tokens need a MarkovProblem")
    return problem.generator


def _needed(open_positions: Tensor) -> Tensor:
    return open_positions.any(-1).long()


@dataclass(frozen=True)
class AncestralStepper(AbstractStepper):
    """Draw z_s from Σ_k p(k|z_t) q(z_s|z_t, k), positions independently (Austin et al., 2021).

    At s = 0 it draws z_0 ~ p(x|z_t): nothing stays undecided.

    Attributes:
        kernel: the corruption that is undone.
    """

    kernel: AbstractKernel

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One draw from the reverse transition."""
        law = self.kernel.posterior(y0, t1, t0, problem.evaluate(t0, y0))
        return StepResult(draw_symbols(law, _generator(problem)), nfe=_needed(self.kernel.undecided(y0)))


@dataclass(frozen=True)
class MixtureLeap(AbstractStepper):
    """Tau-leaping with the flow-matching rates u = −a'/(1−a) [p − δ_z], p frozen over the step (Gat et al., 2024).

    The hazard is integrated exactly: with probability (a_s − a_t)/(1 − a_t) a position is redrawn from p. That is the
    Euler step for the linear schedule, a probability for any schedule and any step, and 1 at s = 0, where every
    position is drawn from p. With an absorbing kernel the posterior itself is this mixture, so the leap is the
    ancestral step, and draws a symbol only where one is revealed.

    Attributes:
        kernel: the corruption that is undone.
    """

    kernel: AbstractKernel

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One leap."""
        generator = _generator(problem)
        survival = self.kernel.schedule.a
        jump = expand_like((survival(t1) - survival(t0)) / (1.0 - survival(t0)), y0)
        probs = problem.evaluate(t0, y0)
        leaps = uniforms(y0.shape, generator, y0.device) < jump
        drawn = y0.clone()
        drawn[leaps] = draw_symbols(probs[leaps], generator)
        return StepResult(drawn, nfe=_needed(self.kernel.undecided(y0)))


@dataclass(frozen=True)
class UnmaskingStepper(AbstractStepper):
    """Decide a set number of masked positions per step, chosen by an order.

    Of M positions masked at the start, ⌈M (1 − pace(s))⌉ are masked at s. The network is shown the time at which
    its number of masks is expected. One position per step in random order is an exact sampler of the model's
    any-order law (the first-hitting sampler: "Masked Diffusion Models are Secretly Time-Agnostic Masked Models and
    Exploit Inaccurate Categorical Sampling", Zheng et al., 2024); choosing by confidence changes the law
    ("MaskGIT", Chang et al., 2022).

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
        generator = _generator(problem)
        masked = self.kernel.undecided(y0)
        count = masked.sum(-1)
        # The slack keeps a product that rounds up past an integer from holding one position back.
        left = torch.ceil(carry * (1.0 - self.pace.a(t1)) - 1e-9).long()
        probs = problem.evaluate(self.kernel.schedule.inverse(1.0 - count / y0.shape[1]), y0)
        drawn = draw_symbols(self.sharpening(probs.log()), generator)
        score = self.ordering(probs, drawn, generator).masked_fill(~masked, -torch.inf)
        rank = score.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        chosen = masked & (rank < (count - left).unsqueeze(-1))
        return StepResult(torch.where(chosen, drawn, y0), carry=carry, nfe=(count > left).long())
