"""Maximum likelihood: of networks that know their density, and of fields read as continuous flows."""

from __future__ import annotations

import torch
from torch import nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.continuous_flow import ContinuousFlow, standard_normal

__all__ = ["ContinuousMaximumLikelihood", "MaximumLikelihood"]


class MaximumLikelihood(Objective):
    """−E ln p(x), for an invertible network: ``network(x)`` has the fields ``z`` (B, d) and ``log_det`` (B,).

    ln p(x) = ln N(z; 0, I) + ln |det ∂z/∂x|; in nats per sample.
    """

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """The mean over ``batch.x0``; nothing is drawn."""
        encoded = network(batch.x0)
        nats = -(standard_normal(encoded.z) + encoded.log_det).mean()
        return Loss(nats, {"nats": nats.detach()})


class ContinuousMaximumLikelihood(Objective):
    """−E[ln p(x) − λ_K ∫ ‖f‖² dt − λ_J ∫ ‖∂f/∂x‖_F² dt], for a field from data (t = 0) to noise (t = 1).

    The two integrals make the flow's paths straight and its field smooth, which lets a solver take few steps
    (RNODE). With an estimated trace the loss is unbiased, and so is its gradient.

    Source: *How to Train Your Neural ODE: the World of Jacobian and Kinetic Regularization*, Finlay, Jacobsen,
    Nurbekyan and Oberman, 2020, Eq. 7 (in nats per sample, where theirs is per dimension).

    Args:
        flow: solver, trace and gradient.
        kinetic: λ_K.
        jacobian: λ_J.

    Raises:
        ValueError: if a weight is negative.
    """

    def __init__(self, flow: ContinuousFlow | None = None, kinetic: float = 0.0, jacobian: float = 0.0) -> None:
        super().__init__()
        for name, value in (("kinetic", kinetic), ("jacobian", jacobian)):
            if not value >= 0:
                raise ValueError(f"{name} = {value}: a weight must be a number, and not negative")
        self.flow = ContinuousFlow() if flow is None else flow
        self.kinetic = kinetic
        self.jacobian = jacobian

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """The mean over ``batch.x0``; one probe per sample is drawn where the trace is an estimate."""
        path = self.kinetic > 0 or self.jacobian > 0
        found = self.flow.log_density(network, batch.x0, generator, path=path)
        nats = -found.nats.mean()
        terms = {"nats": nats.detach(), "nfe": found.nfe.to(torch.float64).mean()}
        if not path:
            return Loss(nats, terms)
        kinetic, jacobian = found.kinetic.mean(), found.jacobian.mean()
        terms |= {"kinetic": kinetic.detach(), "jacobian": jacobian.detach()}
        return Loss(nats + self.kinetic * kinetic + self.jacobian * jacobian, terms)
