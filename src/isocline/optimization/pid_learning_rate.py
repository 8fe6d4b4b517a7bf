"""The learning rate as a controlled step size, around any optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from isocline.optimization.base import Parameters
from isocline.optimization.flat_parameters import Closure, FlatParameters
from isocline.solvers.controller import AbstractAdaptiveController, PIDController

__all__ = ["PIDLearningRate"]

_ERROR_ORDER = 2


class PIDLearningRate(Optimizer):
    """Choose the learning rate of another optimiser so that the local error of its steps keeps to a tolerance.

    With ``u_n = (θ' - θ) / lr`` the direction that the optimiser goes, its step is explicit Euler's on a slope u, whose
    local error is ``η_{n-1} (u_n - u_{n-1}) / 2`` once the next direction is known: no gradient is evaluated for it.
    The core's controller turns it into ``η_n <= lr``, and the parameters move by ``η_n u_n``. A step whose error turns
    out too large has been taken already; what differs between minibatches counts as error, and lowers η like
    curvature does. For optimisers whose step is proportional to ``lr``, as those of SGD, momentum and Adam are.

    Attributes:
        optimizer: the optimiser inside; parameter groups, with ``lr``, and state are shared with it.
        controller: tolerances are of the parameters in a step: ``atol + rtol |θ|``, root mean square.

    The groups' ``step_size`` is η_n; ``lr`` is its upper bound, which a schedule may lower.

    Source: Söderlind, Digital filters in adaptive time-stepping (2003).
    """

    def __init__(
        self,
        params: Parameters,
        optimizer: Callable[[Parameters], Optimizer],
        controller: AbstractAdaptiveController | None = None,
        lr: float | None = None,
        first: float = 1e-3,
    ) -> None:
        """Wrap an optimiser.

        Args:
            params: parameters or groups of them.
            optimizer: makes the optimiser of them.
            controller: the core's PI controller with tolerance 1e-3 by default.
            lr: longest step of all groups; None keeps what the optimiser has.
            first: step size to begin with.

        Raises:
            ValueError: if ``first`` is not positive, or parameters differ in dtype or device.
        """
        if not first > 0:
            raise ValueError(f"first={first} is no step size; give a positive number")
        self.controller = (
            PIDController(rtol=1e-3, atol=1e-3, pcoeff=0.3, icoeff=0.4, joint=True)
            if controller is None
            else controller
        )
        self.optimizer = optimizer(params)
        super().__init__(self.optimizer.param_groups, {})
        self._share()
        FlatParameters(self.param_groups)
        for group in self.param_groups:
            group.update(step_size=first, memory=[0.0, 0.0])
            if lr is not None:
                group["lr"] = lr

    def _share(self) -> None:
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the optimiser inside, and the controller's memory with it."""
        self.optimizer.load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # type: ignore[override]
        """Let the optimiser find a direction, then go as far along it as the error of the step before allows.

        Args:
            closure: as the optimiser inside wants it.

        Returns:
            What the optimiser returns.
        """
        flat = FlatParameters(self.param_groups)
        before = flat.read()[None]
        loss = self.optimizer.step(closure)
        group = self.param_groups[0]
        longest = float(group["lr"])
        if longest == 0:
            return loss
        direction = (flat.read()[None] - before) / longest
        previous = flat.load(self.state, "direction")
        size = min(group["step_size"], longest)
        if previous is not None:
            error = 0.5 * size * (direction - previous)
            verdict = self.controller.decide_jointly(error, before, before, tuple(group["memory"]), _ERROR_ORDER)
            size = min(size * verdict.factor, longest)
            group["memory"] = list(verdict.memory)
        for each in self.param_groups:
            each["step_size"] = size
        flat.write(before + size * direction)
        flat.store(self.state, "direction", direction)
        return loss
