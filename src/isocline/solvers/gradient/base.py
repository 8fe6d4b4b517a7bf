"""The protocol of a gradient method, and what those share that go backward by themselves."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from isocline.solvers.controller import AbstractController
from isocline.solvers.event import Event
from isocline.solvers.gradient.inputs import Inputs, find_inputs
from isocline.solvers.gradient.times import detach_times
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.tape import AbstractTape

__all__ = ["AbstractAdjoint", "AbstractGradient", "AbstractReverse", "Cotangents", "Forward", "Integrate"]


class Integrate(Protocol):
    """The loop itself: differentiable by backpropagation through the steps where gradients are recorded."""

    def __call__(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractController,
        saveat: SaveAt,
        tape: AbstractTape | None = None,
        *,
        event: Event | None = ...,
    ) -> Solution:
        """Integrate, telling every accepted step to ``tape``.

        A loop may come with an event of its own, which a solve of another equation is freed from by ``event=None``.
        """


class AbstractGradient(ABC):
    """How the saved states of a solve depend on what went in, for the backward pass."""

    @abstractmethod
    def solve(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractController,
        saveat: SaveAt,
        integrate: Integrate,
    ) -> Solution:
        """Solve, so that ``ys`` can be differentiated.

        Args:
            problem: the equation; its start, times and ``cond`` may require grad, and so may parameters of the field.
            stepper: the method.
            controller: the steps, constants to the gradient.
            saveat: the states to keep; its times may require grad.
            integrate: the loop.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Cotangents:
    """Derivatives of a loss with respect to what went into a solve; None where the loss does not depend on it.

    Attributes:
        y0: with respect to the start.
        cond: for each of ``Inputs.cond``.
        parameters: for each of ``Inputs.parameters``.
    """

    y0: Tensor | None
    cond: Sequence[Tensor | None]
    parameters: Sequence[Tensor | None]


class AbstractReverse(ABC):
    """What a forward solve leaves behind for the backward pass."""

    @abstractmethod
    def pull(self, grad_ys: Tensor) -> Cotangents:
        """Pull cotangents of the saved states, shape (K, B, *event), back to the inputs; nothing is recorded."""

    def replay(self, y0: Tensor, cond: Sequence[Tensor]) -> Tensor:
        """The saved states once more, recorded, for derivatives of the derivative.

        Args:
            y0: in place of ``Inputs.y0``.
            cond: in place of ``Inputs.cond``.

        Raises:
            RuntimeError: if the method has no second derivatives.
        """
        raise RuntimeError(
            "a continuous adjoint has no second derivatives (create_graph=True); take Backpropagation(), "
            "CheckpointedAdjoint() or DiscreteAdjoint()"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """A forward solve of which nothing was recorded.

    Attributes:
        solution: its result.
        reverse: what is needed to go back.
    """

    solution: Solution
    reverse: AbstractReverse


class AbstractAdjoint(AbstractGradient):
    """A method that solves forward without a graph and goes backward by itself.

    A subclass implements `forward`.

    Attributes:
        parameters: tensors to differentiate by besides those that are found by themselves (see `find_inputs`).
    """

    parameters: Sequence[Tensor] | None

    @abstractmethod
    def forward(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractController,
        saveat: SaveAt,
        integrate: Integrate,
        inputs: Inputs,
    ) -> Forward:
        """Solve without a graph, keeping what the way back needs; ``problem`` is not detached."""

    def solve(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractController,
        saveat: SaveAt,
        integrate: Integrate,
    ) -> Solution:
        """Solve; see the base class.

        Raises:
            ValueError: if steps of the problem cannot be repeated, or the field uses tensors whose gradient would be
                lost.
        """
        differentiable = problem.start.is_floating_point() or problem.start.is_complex()
        if not torch.is_grad_enabled() or not differentiable:
            return integrate(problem, stepper, controller, saveat)
        if not problem.repeatable:
            raise ValueError(
                f"{type(self).__name__} evaluates steps again, but this {type(problem).__name__} draws afresh in every "
                "step; give it a path as noise=, or take Backpropagation()"
            )
        problem, saveat, times = detach_times(problem, saveat)
        inputs = find_inputs(problem, self.parameters)
        if inputs is None:
            solution = integrate(problem, stepper, controller, saveat)
        else:
            with torch.no_grad():
                forward = self.forward(problem, stepper, controller, saveat, integrate, inputs)
            ys = _attach(forward.reverse, inputs, forward.solution.ys)
            solution = dataclasses.replace(forward.solution, ys=ys)
        return solution if times is None else times.attach(problem, solution)


class _Adjoint(torch.autograd.Function):
    """Saved states whose derivative is what a reverse pass says."""

    @staticmethod
    def forward(ctx: Any, reverse: AbstractReverse, inputs: Inputs, ys: list[Tensor], *_: Tensor) -> Tensor:
        ctx.reverse, ctx.inputs = reverse, inputs
        return ys[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs: Inputs = ctx.inputs
        inputs.check_versions()
        if torch.is_grad_enabled():
            found = _recorded(ctx.reverse, inputs, grads[0])
        else:
            pulled = ctx.reverse.pull(grads[0])
            found = (pulled.y0, *pulled.cond, *pulled.parameters)
        kept = (grad if tensor.requires_grad else None for tensor, grad in zip(inputs.tensors, found, strict=True))
        return None, None, None, *kept


def _attach(reverse: AbstractReverse, inputs: Inputs, ys: Tensor) -> Tensor:
    # In a list the states are no input of the function, which then returns them as they are.
    return _Adjoint.apply(reverse, inputs, [ys], *inputs.tensors)  # type: ignore[no-untyped-call]


def _recorded(reverse: AbstractReverse, inputs: Inputs, grad_ys: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again."""
    gate = _Gate()
    y0, *cond = (_pass(gate, tensor) for tensor in (inputs.y0, *inputs.cond))
    ys = reverse.replay(y0, cond)
    sources = (y0, *cond, *inputs.parameters)
    wanted = [tensor for tensor in sources if tensor.requires_grad]
    gate.closed = True
    try:
        grads = iter(torch.autograd.grad(ys, wanted, grad_ys, create_graph=True, allow_unused=True))
    finally:
        gate.closed = False
    return tuple(next(grads) if tensor.requires_grad else None for tensor in sources)


@dataclass(slots=True)
class _Gate:
    """Whether gradients may pass."""

    closed: bool = False


class _Pass(torch.autograd.Function):
    """A tensor itself, whose history a gradient reaches only while the gate is open.

    The start may depend on parameters that the field holds too. When the steps are differentiated by both, they count
    as independent; when the result is differentiated, the start's history counts.
    """

    @staticmethod
    def forward(ctx: Any, gate: _Gate, tensor: Tensor) -> Tensor:
        ctx.gate = gate
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor | None]:
        return None, None if ctx.gate.closed else grads[0]


def _pass(gate: _Gate, tensor: Tensor) -> Tensor:
    return _Pass.apply(gate, tensor)  # type: ignore[no-untyped-call]
