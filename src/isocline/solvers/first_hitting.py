"""Exact generation under an absorbing kernel: one evaluation of the denoiser for each token that is revealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.markov import draw_symbols
from isocline.solvers.markov_clock import Survival, SurvivalClock
from isocline.solvers.markov_jumps import AbstractJumpStepper, Jump, Walk, exponentials

__all__ = ["FirstHitting"]


@dataclass(frozen=True)
class FirstHitting(AbstractJumpStepper):
    """The first-hitting sampler: the time of the next reveal is drawn first, and the denoiser asked then and there.

    Here the problem's ``rate`` is the *law of clean tokens* ``p(x_i = k | z, t)``, shape (B, L, V), not a rate. The
    rates of generation are ``-a'/(1 - a) p(k | z, t)`` at every masked position: each leaves at the same rate whatever
    the denoiser says, so that with n positions masked the next reveal is at t' with
    ``1 - a(t') = u^(1/n) (1 - a(t))``, the position is any of the n, and its symbol is drawn from p at t'. No time is
    discretised: with the exact denoiser the law of the tokens is exact, also where p depends on time. Weights need not
    be normalised; that of the mask is ignored.

    A sample costs as many evaluations as positions of it are revealed, whatever the grid, none for tokens that were
    visible from the start. Time runs from noise (t = 1) to data; at a = 1 nothing stays masked.

    Source: Zheng et al., Masked diffusion models are secretly time-agnostic masked models and exploit inaccurate
    categorical sampling (2024), section 4.

    Attributes:
        mask: the mask symbol.
        survival: the schedule a(t).
        max_jumps: reveals of one sample that a step may take.
    """

    mask: int
    survival: Survival
    max_jumps: int = 1_000_000

    def jump(self, walk: Walk, rows: Tensor, memory: Any) -> Jump:
        """See the base class."""
        generator, masked = walk.problem.generator, walk.z[rows] == self.mask
        amount = exponentials(len(rows), generator, masked.device) / masked.sum(1)
        time, arrives = SurvivalClock(self.survival).arrivals(walk.t[rows], walk.end[rows], amount)
        place, symbol = torch.zeros_like(rows), torch.zeros_like(rows)
        failed = torch.zeros_like(arrives)
        if bool(arrives.any()):
            place[arrives] = draw_symbols(masked[arrives].double(), generator)
            law = walk.evaluate(rows[arrives], time[arrives])
            chosen = law.gather(1, place[arrives][:, None, None].expand(-1, 1, law.shape[-1])).squeeze(1)
            chosen[:, self.mask] = 0.0
            total = chosen.sum(-1)
            failed[arrives] = ~((chosen.amin(-1) >= 0) & (total > 0) & total.isfinite())
            symbol[arrives] = draw_symbols(chosen, generator)
        return Jump(time, arrives, place, symbol, ~arrives, failed)
