"""What all optimisers that are integrators share: a step of the core on the parameters, as `torch.optim` knows it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from isocline.optimization.flat_parameters import Closure, FlatParameters, LossGradient

__all__ = ["AbstractFlowOptimizer", "Parameters", "check_options"]

Parameters = Iterable[Tensor] | Iterable[dict[str, Any]]


class AbstractFlowOptimizer(Optimizer):
    """An optimiser whose step is a step of an integrator on an equation of motion for the parameters.

    A drop-in `torch.optim.Optimizer`: parameter groups with options of their own, ``state_dict``, schedulers that
    change ``lr``. Gradients are those that the closure leaves behind, clipped if it clips. The closure has to evaluate
    the same loss each time it is called within a step. The parameters are one state of shape (1, n): norms, and
    whether an equation is solved, are of all groups together.

    Attributes:
        evaluations: gradients evaluated so far by this object.
    """

    def __init__(self, params: Parameters, defaults: dict[str, Any]) -> None:
        """Take parameters or groups of them, as other optimisers do.

        Args:
            params: the parameters.
            defaults: options of the groups by name.

        Raises:
            ValueError: if an option is out of range, or parameters differ in dtype or device.
        """
        super().__init__(params, defaults)  # type: ignore[arg-type]
        for group in self.param_groups:
            check_options(group)
        FlatParameters(self.param_groups)
        self.evaluations = 0

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """Advance by one step.

        Args:
            closure: clears the gradients, evaluates the loss, calls backward and returns the loss. Methods of one
                gradient a step do without it.

        Returns:
            The loss where the step started; None without a closure.

        Raises:
            ValueError: if the method needs several gradients and there is no closure.
        """
        flat = FlatParameters(self.param_groups)
        start = flat.read()[None]
        gradient = LossGradient(flat, closure, start)
        try:
            end = self.advance(flat, gradient, start)
        except BaseException:
            flat.write(start)
            raise
        flat.write(end)
        self.evaluations += gradient.evaluations
        return gradient.loss

    @abstractmethod
    def advance(self, flat: FlatParameters, gradient: LossGradient, start: Tensor) -> Tensor:
        """The parameters after the step.

        Args:
            flat: the parameters, for the options of their groups and for what the state keeps of them.
            gradient: of the loss, at any point.
            start: where they are, shape (1, n).
        """


def check_options(group: dict[str, Any]) -> None:
    """Refuse options out of range.

    Raises:
        ValueError: if ``lr`` or ``weight_decay`` is negative, or ``momentum`` not between 0 and 1.
    """
    for name in ("lr", "weight_decay"):
        if name in group and not group[name] >= 0:
            raise ValueError(f"{name}={group[name]} is negative; give zero or more")
    momentum = group.get("momentum")
    if momentum is not None and not 0 < momentum < 1:
        raise ValueError(f"momentum={momentum} is not between 0 and 1; GradientFlow is the method without momentum")
