"""Train an AMED predictor: its sampler's ends are to be those of the teacher's accurate flow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Distiller, Loss
from isocline.processes.denoiser import AbstractDenoiser, Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.samplers.amed import AMEDPredictor, AMEDSampler

__all__ = ["AMEDDistillation"]


class AMEDDistillation(Distiller):
    """The mean over samples of √(‖x̂_0 − x_0‖²/d), x̂_0 the sampler's end and x_0 the flow's from the same noise.

    The paper matches the teacher's states step by step; here the gradient goes through all (few) steps at once, so
    that a step may err where later ones make up for it. A norm and not its square: a few samples whose flow forks do
    not decide alone.

    Source: *Fast ODE-based Sampling for Diffusion Models in Around 5 Steps*, Zhou et al., 2024, §3.3.

    Args:
        process: the teacher's.
        teacher: the frozen network.
        wrap: what is put around the teacher's denoiser, as it will be when sampling.
    """

    def __init__(
        self,
        process: GaussianProcess,
        teacher: nn.Module,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        super().__init__(teacher)
        self.process = process
        self.wrap = wrap

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate on noise ``batch.x1`` and the flow's ends ``batch.x0``, both ``(B, *event)``.

        Raises:
            TypeError: if the network is no predictor.
            ValueError: if the batch has no ``x1``.
        """
        if not isinstance(network, AMEDPredictor):
            raise TypeError(f"AMEDDistillation trains an AMEDPredictor, not a {type(network).__name__}")
        if batch.x1 is None:
            raise ValueError("AMEDDistillation needs pairs of noise and flow's end; the batch has no x1")
        sampler, own = AMEDSampler(network), Denoiser(self.teacher, self.process)
        denoiser = own if self.wrap is None else self.wrap(own)
        losses: dict[str, Tensor] = {}
        for nfe in network.budgets:
            ends = sampler.sample(denoiser, batch.x1, nfe, batch.cond).final
            losses[f"rms_{nfe}"] = ((ends - batch.x0).square().flatten(1).mean(1) + 1e-12).sqrt().mean()
        total = torch.stack(list(losses.values())).mean()
        return Loss(total, {name: loss.detach() for name, loss in losses.items()})
