"""Train an AMED predictor: towards the ends of the teacher's accurate flow, or towards the law of the data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.energy_statistic import energy_statistic
from isocline.objectives.base import Distiller, Loss
from isocline.processes.denoiser import AbstractDenoiser, Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.samplers.amed import AMEDPredictor, AMEDSampler

__all__ = ["AMEDDistillation", "AMEDLawMatching", "AbstractAMEDObjective"]


class AbstractAMEDObjective(Distiller):
    """A loss of the ends that a predictor's few steps reach; gradients go through all of them at once.

    Args:
        process: the teacher's.
        teacher: the frozen network.
        wrap: what is put around the teacher's denoiser, as it will be when sampling.

    Attributes:
        paired: whether it learns from noise and the flow's ends, and not from data.
    """

    paired: ClassVar[bool]

    def __init__(
        self,
        process: GaussianProcess,
        teacher: nn.Module,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        super().__init__(teacher)
        self.process = process
        self.wrap = wrap

    @abstractmethod
    def noise(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return the noise that generation starts from, ``(B, *event)``."""

    @abstractmethod
    def loss(self, ends: Tensor, batch: Batch) -> Tensor:
        """Return the loss of ends ``(B, *event)`` as a scalar."""

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Mean of `loss` over the predictor's budgets.

        Raises:
            TypeError: if the network is no predictor.
            ValueError: if the batch lacks what the loss asks for.
        """
        if not isinstance(network, AMEDPredictor):
            raise TypeError(f"{type(self).__name__} trains an AMEDPredictor, not a {type(network).__name__}")
        sampler, own = AMEDSampler(network), Denoiser(self.teacher, self.process)
        denoiser = own if self.wrap is None else self.wrap(own)
        x1, losses = self.noise(batch, generator), {}
        for nfe in network.budgets:
            # Budgets are questions to the denoiser, of which guidance makes several to the network.
            found = sampler.sample(denoiser, x1, nfe * denoiser.evaluations, batch.cond)
            losses[f"loss_{nfe}"] = self.loss(found.final, batch)
        total = torch.stack(list(losses.values())).mean()
        return Loss(total, {name: loss.detach() for name, loss in losses.items()})


class AMEDDistillation(AbstractAMEDObjective):
    """The mean over samples of √(‖x̂_0 − x_0‖²/d), x̂_0 the sampler's end and x_0 the flow's from the same noise.

    The paper matches the teacher's states step by step; here a step may err where later ones make up for it. A norm
    and not its square: a few samples whose flow forks do not decide alone. A batch holds noise ``x1`` and ends ``x0``.

    Source: *Fast ODE-based Sampling for Diffusion Models in Around 5 Steps*, Zhou et al., 2024, §3.3.
    """

    paired = True

    def noise(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Return that of the batch.

        Raises:
            ValueError: if there is none.
        """
        if batch.x1 is None:
            raise ValueError("AMEDDistillation needs pairs of noise and flow's end; the batch has no x1")
        return batch.x1

    def loss(self, ends: Tensor, batch: Batch) -> Tensor:
        """Return the mean distance."""
        return ((ends - batch.x0).square().flatten(1).mean(1) + 1e-12).sqrt().mean()


class AMEDLawMatching(AbstractAMEDObjective):
    """The energy distance 2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖ of ends X from data Y, over √d, without bias.

    What few steps are to reach is the law of the data: where the network's flow misses it, being true to the flow is
    not the same as being good. A batch holds training data ``x0``, at least two; noise is drawn afresh.

    Source: Székely and Rizzo, *Testing for equal distributions in high dimension*, 2004.
    """

    paired = False

    def noise(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Draw as many as the batch has data.

        Raises:
            ValueError: if it has fewer than two.
        """
        if len(batch.x0) < 2:
            raise ValueError("AMEDLawMatching compares sets, the batch holds one sample; raise trainer.batch_size")
        return torch.randn(batch.x0.shape, generator=generator, dtype=batch.x0.dtype, device=batch.x0.device)

    def loss(self, ends: Tensor, batch: Batch) -> Tensor:
        """Return the energy distance."""
        return energy_statistic(ends.flatten(1), batch.x0.flatten(1)) / ends[0].numel() ** 0.5
