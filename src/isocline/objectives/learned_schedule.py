"""Masked diffusion that trains its schedule too, for little variance of the loss.

Source: "Variational Diffusion Models", Kingma et al., 2021, section 5.1 and appendix I.2, carried over to tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss
from isocline.objectives.masked import MaskedDiffusion
from isocline.objectives.time_sampling import AbstractTimes, TimeRange
from isocline.processes.kernel import AbstractKernel
from isocline.processes.learned_schedule import MonotoneSurvival

__all__ = ["LearnedScheduleDiffusion", "log_second_moment"]


def log_second_moment(schedule: MonotoneSurvival, t: Tensor, nats: Tensor) -> Tensor:
    """A scalar whose gradient in the schedule is that of log E[nats²], estimated from draws at times t.

    The loss is ℓ(a)/p(a), where the time's uniform law gives the survival a the density p(a) = 1/|a'|. Its mean does
    not depend on p; its second moment ∫ E[ℓ²|a]/p(a) da does, with gradient E[nats² ∇ log|a'|] at fixed a. The least
    is at p ∝ √E[ℓ²|a].

    Args:
        schedule: the schedule that the times were turned into survivals by.
        t: times, ``(B,)``, uniform.
        nats: the loss of each sequence, ``(B,)``.

    Returns:
        Scalar; only its gradient has a meaning.
    """
    share = nats.double() ** 2
    share = share / share.sum().clamp_min(torch.finfo(torch.float64).tiny)
    again = schedule.refined(t, schedule.a(t).detach())
    return (share.detach() * torch.log(-schedule.da(again))).sum()


class LearnedScheduleDiffusion(MaskedDiffusion):
    """The masked bound with a schedule that learns to give it little variance.

    The bound itself is the same for every schedule, so nothing is learned from its gradient (`log_second_moment`).

    Args:
        process: an absorbing kernel with a `MonotoneSurvival`.
        times: how t is drawn for a batch; uniform, stratified over the batch by default.

    Raises:
        TypeError: if the kernel is not absorbing or its schedule is not learned.
    """

    def __init__(self, process: AbstractKernel, times: AbstractTimes[TimeRange] | None = None) -> None:
        super().__init__(process, times)
        if not isinstance(process.schedule, MonotoneSurvival):
            raise TypeError(
                f"process.schedule = {type(process.schedule).__name__}: a learned schedule is MonotoneSurvival; "
                "MaskedDiffusion is the objective of a given one"
            )
        self.schedule = process.schedule

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One draw of t and z per sequence of ``batch.x0`` ``(B, L)``; its value is the bound's."""
        t = self.times(batch.x0.shape[0], self.process, generator)
        loss, nats = self.loss(network, batch, t, generator)
        moment = log_second_moment(self.schedule, t, nats)
        # The two parts share no parameter: one adds its gradient, not its value.
        total = loss.total + (moment - moment.detach()).to(loss.total.dtype)
        return Loss(total, {**loss.terms, "variation": nats.std() / nats.mean().clamp_min(1e-12)})
