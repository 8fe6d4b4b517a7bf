"""The one LightningModule: a network, an objective, an optimiser and an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.randomness import generator

__all__ = ["GenerativeModule", "NonFiniteLossError", "warmup_cosine"]


class NonFiniteLossError(ValueError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


def warmup_cosine(step: int, warmup: int, total: int, floor: float) -> float:
    """Return the learning-rate factor at ``step``: linear warm-up, then a cosine down to ``floor``.

    Args:
        step: optimiser steps taken so far.
        warmup: steps of the linear part.
        total: steps of the whole run.
        floor: factor at the end, in [0, 1].
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


class GenerativeModule(LightningModule):
    """Train any network by any objective; every random draw is a function of (seed, step) alone.

    Args:
        network: the trained network, ``network(t, x, cond)``.
        objective: turns a batch into a loss; students' objectives hold their teacher.
        optimizer: called with the parameters, returns the optimiser.
        ema: called with the network, returns its exponential moving average.
        seed: run seed, already specific to the model.
        steps: optimiser steps of the whole run.
        warmup: steps of linear learning-rate warm-up.
        final_lr: learning-rate factor at the end of the cosine.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        ema: Callable[[nn.Module], nn.Module],
        *,
        seed: int,
        steps: int,
        warmup: int = 0,
        final_lr: float = 0.1,
    ) -> None:
        super().__init__()
        self.network = network
        self.objective = objective
        objective.prepare(network)
        self.average = ema(network)
        self.build_optimizer = optimizer
        self.seed = seed
        self.steps = steps
        self.warmup = warmup
        self.final_lr = final_lr
        self.evaluated_step = -1

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch; raise `NonFiniteLossError` before a bad step can reach the weights."""
        draws = generator(self.seed, "objective", self.global_step, device=self.device)
        loss: Loss = self.objective(self.network, Batch(*batch), draws)
        # An optimiser may ask for gradients at several points a step; where the step starts is what counts.
        if self.evaluated_step == self.global_step:
            return loss.total
        if loss.total.device.type == "cpu" and not math.isfinite(loss.total.item()):
            raise NonFiniteLossError(
                f"the loss is {loss.total.item()} at step {self.global_step}; "
                "lower optimizer.lr or trainer.gradient_clip (the last good checkpoint is kept)"
            )
        self.last_loss, self.evaluated_step = loss, self.global_step
        return loss.total

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then update what the objective keeps and the average: a checkpoint at the batch's end has them all."""
        super().optimizer_step(*args, **kwargs)
        self.objective.after_step(self.network, self.global_step + 1)  # may project the weights that are averaged
        self.average.update(self.network)  # type: ignore[operator]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm. Lightning refuses this for fused optimisers in bf16, for fear of a scaler that bf16 lacks."""
        if gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def check_finite(self) -> None:
        """Raise `NonFiniteLossError` if a weight, its average or the last loss is not finite."""
        weights = (*self.network.parameters(), *self.average.parameters(), self.last_loss.total.detach())
        if not all(bool(weight.isfinite().all()) for weight in weights):
            raise NonFiniteLossError(
                f"loss or weights are not finite at step {self.global_step}; "
                "lower optimizer.lr or trainer.gradient_clip (the last good checkpoint is kept)"
            )

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its warm-up cosine schedule, stepped once per batch."""
        trained = [p for p in (*self.network.parameters(), *self.objective.parameters()) if p.requires_grad]
        optimizer = self.build_optimizer(trained)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, self.warmup, self.steps, self.final_lr))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
