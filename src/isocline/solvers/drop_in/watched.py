"""Steps under observation: callbacks before and after each, and a least step size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.controller import JointDecision, PIDController
from isocline.solvers.inside import StepperWrapper
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["Watch", "WatchedController", "WatchedSteps", "find_callbacks"]

_NAMES = ("callback_step", "callback_accept_step", "callback_reject_step")


def find_callbacks(func: Any, suffix: str, supported: int, method: str) -> dict[str, Callable[..., Any]]:
    """The callbacks that a function has as attributes, by their names without the suffix.

    Args:
        func: the caller's function.
        suffix: "" or "_adjoint".
        supported: how many of the three the method knows; others are named in a warning.
        method: its name.
    """
    found = {name: getattr(func, name + suffix, None) for name in _NAMES}
    given = {name: callback for name, callback in found.items() if callback is not None}
    unknown = [name for name in given if name not in _NAMES[:supported]]
    if unknown:
        warnings.warn(f"Solver {method!r} does not support callbacks {unknown}; they are ignored", stacklevel=5)
    return {name: callback for name, callback in given.items() if name not in unknown}


class Watch:
    """What is known of the present step, and who wants to hear of it.

    Attributes:
        min_step: steps of this size are taken whatever their error.
    """

    def __init__(
        self, callbacks: Mapping[str, Callable[..., Any]], view: Callable[[Tensor], Any], min_step: float = 0.0
    ) -> None:
        """Begin.

        Args:
            callbacks: ``callback(t0, y0, dt)`` by name.
            view: the caller's state of a batch.
            min_step: see above.
        """
        self._callbacks, self._view, self.min_step = callbacks, view, min_step
        self._arguments: tuple[Any, ...] = ()
        self._length = math.inf
        self.failed = False

    @property
    def is_short(self) -> bool:
        """Whether the step is as short as steps get."""
        return self._length <= self.min_step * (1 + 1e-12)

    def begin(self, t0: Tensor, t1: Tensor, y0: Tensor) -> None:
        """A step is about to be tried."""
        with torch.no_grad():
            dt = (t1 - t0).abs()
            if self.min_step:
                self._length = float(dt)
            if self._callbacks:
                self._arguments = (t0.detach(), self._view(y0.detach()), dt.detach())
        self._tell("callback_step")

    def end(self, accept: bool) -> None:
        """The step has been judged."""
        self._tell("callback_accept_step" if accept else "callback_reject_step")

    def _tell(self, name: str) -> None:
        callback = self._callbacks.get(name)
        if callback is not None:
            callback(*self._arguments)


class WatchedSteps(StepperWrapper):
    """A stepper whose steps are told to a watch."""

    def __init__(self, inner: AbstractStepper, watch: Watch) -> None:
        """Wrap a stepper."""
        super().__init__(inner)
        self._watch = watch

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Advance by one step; see the base class."""
        self._watch.begin(t0, t1, y0)
        result = self.inner.step(problem, t0, t1, y0, carry)
        self._watch.failed = result.failed is not None and bool(result.failed.any())
        return result


@dataclass(frozen=True, eq=False)
class WatchedController(PIDController):
    """Joint control that tells its verdicts to a watch, and accepts steps that are as short as steps get.

    Attributes:
        watch: who is told.
    """

    watch: Watch | None = None

    def decide_jointly(
        self, error: Tensor, y0: Tensor, y1: Tensor, memory: tuple[float, float], error_order: int
    ) -> JointDecision:
        """Judge a trial step; see the base class."""
        assert self.watch is not None
        verdict = super().decide_jointly(error, y0, y1, memory, error_order)
        if verdict.finite and self.watch.is_short:
            verdict = JointDecision(True, verdict.factor, verdict.memory, verdict.finite)
        self.watch.end(verdict.accept and not self.watch.failed)
        return verdict
