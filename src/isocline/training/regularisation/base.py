"""What a regulariser is: a change of the network before training, a term of the loss, or both."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from isocline.objectives.base import Objective

__all__ = ["AbstractPenalty", "AbstractRegulariser"]


class AbstractRegulariser(nn.Module, ABC):
    """Changes a network before training, watches its evaluations, and has a value that is logged by name.

    A module, so that what it carries moves between devices and enters the checkpoint. It has no trained parameters.

    Attributes:
        weight: λ, the factor of the value in the loss; 0 where the value is only logged.
        reparametrises: whether the network's parameters are others in training than when it is built.
        hooked: whether it reads or changes evaluations through hooks, with which a network is not compiled.
    """

    weight: float = 0.0
    reparametrises: ClassVar[bool] = False
    hooked: ClassVar[bool] = False

    def prepare(self, network: nn.Module) -> None:
        """Change the network; called once, before its average is made and a checkpoint is loaded.

        Raises:
            ValueError: if the network is not of the kind.
        """

    def check(self, network: nn.Module, objective: Objective) -> None:
        """Refuse a network, prepared by all regularisers, or an objective for which this one means nothing.

        Raises:
            ValueError: if so.
        """

    def watch(self, network: nn.Module, generator: torch.Generator) -> contextlib.AbstractContextManager[None]:
        """Return a context for the objective's evaluations of the network in one step.

        Args:
            network: in training.
            generator: source of all draws of this step, apart from the objective's.
        """
        return contextlib.nullcontext()

    @abstractmethod
    def value(self, network: nn.Module) -> Tensor | None:
        """Return a scalar of the step that was watched, differentiable if ``weight`` is not 0; None for nothing.

        Raises:
            ValueError: if the objective evaluated nothing that could be watched.
        """

    def after_step(self, network: nn.Module) -> None:
        """Follow an optimiser step, before the average does."""

    def release(self, network: nn.Module) -> None:
        """Give a trained network, or its average, the parameters with which it is built."""


class AbstractPenalty(AbstractRegulariser):
    """A regulariser that adds ``weight · value`` to the loss.

    Args:
        weight: λ.

    Raises:
        ValueError: if the weight is negative or not finite.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight = {weight}: must be finite and not negative")
        self.weight = weight
