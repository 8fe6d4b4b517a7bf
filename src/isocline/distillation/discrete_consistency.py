"""Discrete consistency distillation: a student at t agrees with its teacher at s < t along a trajectory of one noise.

Reference: *The Diffusion Duality*, Sahoo et al., 2025, §4.2 and Algorithm 2.
"""

from __future__ import annotations

import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.distillation.divergence import AbstractDivergence, ReverseKL
from isocline.distillation.promotion import PromotingDistiller
from isocline.distillation.target_network import AveragedTarget
from isocline.objectives.base import Loss
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes, TimeRange
from isocline.processes.kernel import AbstractKernel, UniformKernel
from isocline.processes.token_trajectory import draw_trajectory

__all__ = ["DiscreteConsistencyDistillation"]

_EARLIEST = 1e-3
"""Least time of a teacher's answer: at 0 it is certain, and no law of a student's is within a finite KL of it."""


class DiscreteConsistencyDistillation(PromotingDistiller):
    """Divergence between the student at (t, z_t) and its teacher at (s, z_s), s = t − δ, over all positions.

    z_t and z_s lie on one trajectory of `isocline.processes.token_trajectory`: same clean tokens, same noise. The
    discrete diffusion has no probability flow, but the Gaussian one whose arg-max it is has, and for a law of one point
    that flow is such a trajectory.

    Every round doubles δ = 1/N: after ``round_length`` optimiser steps the *average* of the student becomes the
    teacher and N is halved. The last round's student is made for N / 2^rounds steps.

    The trajectory of data is one of many that lead through z_t, and z_t does not tell which: the least loss is not 0
    but the spread of the teacher's answers about one law. With KL(teacher ‖ student) that law is their arithmetic mean,
    with KL(student ‖ teacher), the default, their normalised geometric one, which is sharper: what a student gains in
    generative perplexity at few steps it pays, at least in part, in entropy. Read one beside the other.

    Args:
        process: the uniform kernel that the teacher was trained with.
        teacher: frozen network, ``teacher(t, z, cond) -> (B, L, V)``.
        teacher_steps: N of the first round; a multiple of 2^rounds.
        rounds: number of rounds.
        round_length: optimiser steps per round; needed if there are several.
        divergence: between the student's law and the teacher's.
        average: the average that is promoted; a decay of 0.95 by default.
        times: law of t; stratified over the batch by default.

    Raises:
        TypeError: if the kernel is not uniform.
        ValueError: if N cannot be divided ``rounds`` times, or ``round_length`` is missing.
    """

    def __init__(
        self,
        process: AbstractKernel,
        teacher: nn.Module,
        teacher_steps: int = 32,
        rounds: int = 1,
        round_length: int | None = None,
        divergence: AbstractDivergence | None = None,
        average: AveragedTarget | None = None,
        times: AbstractTimes[TimeRange] | None = None,
    ) -> None:
        super().__init__(teacher, teacher_steps, rounds, round_length)
        if not isinstance(process, UniformKernel):
            raise TypeError(
                f"process = {type(process).__name__}: discrete consistency distillation needs UniformKernel; "
                "for AbsorbingKernel use SelfDistillationThroughTime"
            )
        self.process = process
        self.divergence = ReverseKL() if divergence is None else divergence
        self.average = AveragedTarget() if average is None else average
        self.times = StratifiedTimes() if times is None else times

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One pair of times and one noise per sequence of ``batch.x0`` ``(B, L)``."""
        x0, gap = batch.x0, 1.0 / self.current_steps
        t = self.times(len(x0), self.process, generator)
        s = torch.maximum(t - gap, t.clamp_max(_EARLIEST))
        trajectory = draw_trajectory(self.process, x0, generator)
        later, earlier = trajectory.at(t), trajectory.at(s)
        real = self.process.mask
        found = self.process.clean_log_probs(network(t, later, batch.cond), later)[..., :real]
        with torch.no_grad():
            wanted = self.process.clean_log_probs(self.current_teacher(s, earlier, batch.cond), earlier)[..., :real]
        total = self.divergence(found, wanted).mean()
        return Loss(total, {"divergence": total.detach(), "teacher_steps": torch.tensor(float(self.current_steps))})

    def prepare(self, network: nn.Module) -> None:
        """Begin the average with the student's weights; see the base class."""
        super().prepare(network)
        if self.rounds > 1:
            self.average.prepare(network)

    def candidate(self, network: nn.Module) -> nn.Module:
        """Return the average of the student."""
        return self.average.network(network)

    @torch.no_grad()
    def after_step(self, network: nn.Module, step: int) -> None:
        """Move the average; see the base class."""
        if self.rounds > 1:
            self.average.follow(network, float(self.current_steps))
        super().after_step(network, step)
