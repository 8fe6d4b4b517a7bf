"""The gradient of ``odeint_adjoint``: a continuous adjoint whose result is checked before it is believed."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from isocline.solvers.controller import AbstractController, PIDController
from isocline.solvers.event import Event
from isocline.solvers.gradient.adjoint import AdjointWarning
from isocline.solvers.gradient.base import AbstractAdjoint, AbstractGradient, AbstractReverse, Cotangents, Integrate
from isocline.solvers.gradient.checkpointed import CheckpointedAdjoint
from isocline.solvers.gradient.inputs import Inputs, with_start
from isocline.solvers.gradient.times import detach_times
from isocline.solvers.loop import integrate as core
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.tape import AbstractTape

__all__ = ["GuardedAdjoint"]

# A way back that needs so many times the steps of the way there is lost.
_MOST = 50
_LEAST = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class GuardedAdjoint(AbstractGradient):
    """A given adjoint for given parameters; where it says of itself that it went wrong, the checkpointed one instead.

    Attributes:
        adjoint: the method.
        parameters: what to differentiate by, besides the start and times; no others are looked for.
        norm: of a scaled error of the equation that is solved backward, in place of the controller's; None for that.
        plain: the forward stepper without callbacks, for steps that are taken again.
        again: the loop in which they are; None for the one of the forward solve.
        is_guarded: False believes everything.
    """

    adjoint: AbstractAdjoint
    parameters: tuple[Tensor, ...]
    plain: AbstractStepper
    norm: Callable[[Tensor], Tensor] | None = None
    again: Integrate | None = None
    is_guarded: bool = True

    def solve(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractController,
        saveat: SaveAt,
        integrate: Integrate,
    ) -> Solution:
        """Solve; see the base class."""
        if not torch.is_grad_enabled():
            return integrate(problem, stepper, controller, saveat)
        problem, saveat, times = detach_times(problem, saveat)
        start = problem.start
        if start.requires_grad or self.parameters:
            inputs = _inputs(start, self.parameters)
            # The steps may be taken again, from what the start was and not from what the caller has made of it.
            problem = with_start(problem, start.detach().clone())
            with torch.no_grad():
                ways = _Ways(integrate, self.norm, self.is_guarded)
                forward = self.adjoint.forward(problem, stepper, controller, saveat, ways, inputs)

                def exact() -> AbstractReverse:
                    loop = integrate if self.again is None else self.again
                    method = CheckpointedAdjoint(parameters=self.parameters)
                    return method.forward(problem, self.plain, controller, saveat, loop, inputs).reverse

            reverse = _Guarded(forward.reverse, exact if self.is_guarded else None)
            solution = dataclasses.replace(forward.solution, ys=_attach(reverse, inputs, forward.solution.ys))
        else:
            solution = integrate(problem, stepper, controller, saveat)
        return solution if times is None else times.attach(problem, solution)

    def unmoved(self, start: Tensor, t: Tensor) -> Tensor:
        """The start as the only saved state, a copy; zero is the derivative in all but the start.

        Args:
            start: shape (B, *event).
            t: its time.

        Returns:
            shape (1, B, *event).
        """
        others = (*self.parameters, t) if t.requires_grad else self.parameters
        return _attach(_Unmoved(len(others)), _inputs(start, others), start.detach()[None].clone())


class _Ways:
    """The loop of the way there, and afterwards that of the way back, which may not take much longer."""

    def __init__(self, integrate: Integrate, norm: Callable[[Tensor], Tensor] | None, is_bounded: bool) -> None:
        self._integrate, self._norm, self._is_bounded = integrate, norm, is_bounded
        self._limit: int | None = None

    def __call__(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractController,
        saveat: SaveAt,
        tape: AbstractTape | None = None,
        *,
        event: Event | None = None,
    ) -> Solution:
        if self._limit is None:
            solution = self._integrate(problem, stepper, controller, saveat, tape)
            tried = solution.stats.accepted + solution.stats.rejected
            self._limit = _LEAST + _MOST * int(tried.max())
            return solution
        if isinstance(controller, PIDController):
            limit = min(controller.max_steps, self._limit) if self._is_bounded else controller.max_steps
            norm = controller.norm if self._norm is None else self._norm
            controller = dataclasses.replace(controller, max_steps=limit, norm=norm)
        return core(problem, stepper, controller, saveat, tape)


class _Guarded(AbstractReverse):
    """A way back, and another one for when it is lost."""

    def __init__(self, reverse: AbstractReverse, exact: Callable[[], AbstractReverse] | None) -> None:
        self._reverse, self._exact = reverse, exact

    def pull(self, grad_ys: Tensor) -> Cotangents:
        if self._exact is None:
            return self._reverse.pull(grad_ys)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", AdjointWarning)
                return self._reverse.pull(grad_ys)
        except AdjointWarning as doubt:
            reason = str(doubt).partition(";")[0]
            warnings.warn(
                f"{reason}. The gradient was found by the discrete adjoint with checkpoints instead; "
                "adjoint_options={'gradient': 'checkpointed'} takes it at once, {'check': False} never",
                AdjointWarning,
                stacklevel=2,
            )
        return self._exact().pull(grad_ys)


class _Unmoved(AbstractReverse):
    """The way back of no step at all."""

    def __init__(self, parameters: int) -> None:
        self._parameters = parameters

    def pull(self, grad_ys: Tensor) -> Cotangents:
        return Cotangents(grad_ys[0], (), [None] * self._parameters)


def _inputs(start: Tensor, parameters: tuple[Tensor, ...]) -> Inputs:
    return Inputs(start, (), (), parameters, tuple((tensor, tensor._version) for tensor in parameters))


def _attach(reverse: AbstractReverse, inputs: Inputs, ys: Tensor) -> Tensor:
    return _Attached.apply(reverse, inputs, [ys], *inputs.tensors)  # type: ignore[no-untyped-call]


class _Attached(torch.autograd.Function):
    """Saved states whose derivative is what a reverse pass says; zero for parameters that play no part."""

    @staticmethod
    def forward(ctx: Any, reverse: AbstractReverse, inputs: Inputs, ys: Sequence[Tensor], *_: Tensor) -> Tensor:
        ctx.reverse, ctx.inputs = reverse, inputs
        return ys[0]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs: Inputs = ctx.inputs
        inputs.check_versions()
        pulled = ctx.reverse.pull(grads[0])
        parameters = (
            torch.zeros_like(tensor) if value is None else value
            for tensor, value in zip(inputs.parameters, pulled.parameters, strict=True)
        )
        return None, None, None, pulled.y0 if inputs.y0.requires_grad else None, *parameters
