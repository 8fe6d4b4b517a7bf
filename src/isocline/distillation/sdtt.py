"""Self-distillation through time: one step of the student does what several steps of the teacher do.

Reference: "Beyond Autoregression: Fast LLMs via Self-Distillation Through Time", Deschenaux and Gulcehre, 2024
(Algorithm 1 and Section 3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.distillation.divergence import AbstractDivergence, ReverseKL
from isocline.distillation.promotion import PromotingDistiller
from isocline.objectives.base import Loss
from isocline.processes.kernel import AbsorbingKernel, AbstractKernel, uniforms
from isocline.shapes import expand_like
from isocline.solvers.markov import draw_symbols

__all__ = ["SelfDistillationThroughTime"]


class SelfDistillationThroughTime(PromotingDistiller):
    """Match the student at z_t to the teacher's m consecutive predictions, m = ``factor``.

    On the grid of N teacher steps, z_t ~ q(·|x) at a multiple of m. The teacher predicts at t, its ancestral step gives
    z_s with s = t − 1/N, it predicts again at s, and so on m times. The target at a masked position of z_t is the
    prediction that revealed its token where a step did (frozen there) and the last one elsewhere. The loss is the mean
    divergence over the masked positions.

    With the exact denoiser the *forward* KL is least near the denoiser itself: if the teacher's step revealed at most
    one token, the second prediction would be a martingale and the minimiser exact; tokens revealed together are drawn
    as if independent, which leaves an error of the order of the step squared. What a student gains at few steps
    comes from the reverse KL, which prefers tokens that the teacher's possible continuations agree on, and pays in
    entropy. Read generative perplexity beside entropy.

    Every round divides the number of steps: after ``round_length`` optimiser steps the student so far becomes the
    teacher and N is divided by m.

    A student that draws positions of a step as if independent cannot regain what their dependence is worth; which
    positions a step decides can (`isocline.samplers.spread_order`; docs/results/language-students.md).

    Args:
        process: the absorbing kernel that the teacher was trained with.
        teacher: frozen network, ``teacher(t, z, cond) -> (B, L, V)``.
        teacher_steps: N of the first round; the student of the last round is made for N / m^rounds steps.
        rounds: number of rounds.
        round_length: optimiser steps per round; needed if there are several.
        divergence: between the student's law and its target; KL(student ‖ target) by default.
        factor: m.

    Raises:
        TypeError: if the kernel is not absorbing.
        ValueError: if N cannot be divided ``rounds`` times, or ``round_length`` is missing.
    """

    def __init__(
        self,
        process: AbstractKernel,
        teacher: nn.Module,
        teacher_steps: int = 64,
        rounds: int = 1,
        round_length: int | None = None,
        divergence: AbstractDivergence | None = None,
        factor: int = 2,
    ) -> None:
        super().__init__(teacher, teacher_steps, rounds, round_length, factor)
        if not isinstance(process, AbsorbingKernel):
            raise TypeError(f"process = {type(process).__name__}: self-distillation through time needs AbsorbingKernel")
        self.process = process
        self.divergence = ReverseKL() if divergence is None else divergence

    @torch.no_grad()
    def target(
        self, z: Tensor, t: Tensor, step: float, generator: torch.Generator, cond: Tensor | None = None
    ) -> Tensor:
        """Log-probabilities that the student at ``(t, z)`` should give, ``(B, L, V)``.

        Args:
            z: tokens at t, ``(B, L)``.
            t: ``(B,)`` float64, at least m steps above 0.
            step: length of a teacher step.
            generator: source of the teacher's steps.
            cond: condition or None.
        """
        kernel, state = self.process, z
        wanted = law = kernel.clean_log_probs(self.current_teacher(t, z, cond), z)
        for done in range(1, self.factor):
            here, there = t - (done - 1) * step, t - done * step
            state = self._reveal(state, law, here, there, generator)
            law = kernel.clean_log_probs(self.current_teacher(there, state, cond), state)
            wanted = torch.where(kernel.undecided(state).unsqueeze(-1), law, wanted)
        return wanted

    def _reveal(self, z: Tensor, law: Tensor, t: Tensor, s: Tensor, generator: torch.Generator) -> Tensor:
        """The ancestral step from t to s, which draws a symbol only where one is revealed."""
        survival = self.process.schedule.a
        chance = expand_like((survival(s) - survival(t)) / (1.0 - survival(t)), z)
        revealed = self.process.undecided(z) & (uniforms(z.shape, generator, z.device) < chance)
        drawn = z.clone()
        drawn[revealed] = draw_symbols(law[revealed].exp(), generator)
        return drawn

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One grid time and the teacher's steps from it per sequence of ``batch.x0`` ``(B, L)``."""
        x0 = batch.x0
        steps = self.current_steps
        cells = torch.arange(len(x0), device=x0.device)
        u = (cells + 1.0 - uniforms((len(x0),), generator, x0.device)) / len(x0)
        t = (u * (steps // self.factor)).ceil() * (self.factor / steps)
        z = self.process.sample(x0, t, generator)
        target = self.target(z, t, 1.0 / steps, generator, batch.cond)
        student = self.process.clean_log_probs(network(t, z, batch.cond), z)
        masked = self.process.undecided(z)
        real = self.process.mask
        costs = self.divergence(student[masked][:, :real], target[masked][:, :real])
        total = costs.sum() / masked.sum().clamp_min(1)
        return Loss(total, {"divergence": total.detach(), "teacher_steps": torch.tensor(float(steps))})
