"""Pulling cotangents back through one step, for any stepper: the step is taken again with a graph."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from isocline.solvers.gradient import trees
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper

__all__ = ["AbstractPull", "GraphPull", "Inner", "Leaves", "Pulled", "Repeat", "Total"]


class Leaves(NamedTuple):
    """An equation whose tensors of ``cond`` are leaves of their own.

    Attributes:
        problem: the equation.
        cond: those leaves that gradients are wanted for.
    """

    problem: AbstractProblem
    cond: tuple[Tensor, ...]

    @classmethod
    def of(cls, problem: AbstractProblem, places: tuple[int, ...]) -> Leaves:
        """Detach the tensors of ``cond`` at ``places``."""
        if not places:
            return cls(problem, ())
        tensors = trees.flatten(problem.cond)
        for place in places:
            tensors[place] = tensors[place].detach().requires_grad_()
        changed: Any = dataclasses.replace(problem, cond=trees.replace(problem.cond, tensors))  # type: ignore[type-var]
        return cls(changed, tuple(tensors[place] for place in places))


class Inner(NamedTuple):
    """Cotangents of states within a step: shares of the step, their samples (None for all), and values."""

    theta: Tensor
    local: Tensor | None
    cotangent: Tensor


class Repeat(NamedTuple):
    """One step of n samples and the cotangents of what came of it.

    Attributes:
        leaves: the equation for these samples.
        t0: start, shape () or (n,).
        t1: end.
        y0: state at the start, shape (n, *event).
        carry: the stepper's at the start.
        end: cotangent of the state at the end.
        carry_end: cotangents of the floating tensors of the carry at the end, None for those that nothing depends on.
        inner: cotangents of states within the step.
    """

    leaves: Leaves
    t0: Tensor
    t1: Tensor
    y0: Tensor
    carry: Any
    end: Tensor
    carry_end: Sequence[Tensor | None]
    inner: tuple[Inner, ...]


class Total:
    """A running sum of gradients, some of which may be missing."""

    def __init__(self, count: int) -> None:
        self.values: list[Tensor | None] = [None] * count
        self._is_full = False

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Add one more of each."""
        if self._is_full and all(more is not None for more in gradients):
            torch._foreach_add_(cast(list[Tensor], self.values), cast(list[Tensor], list(gradients)))
            return
        for index, (value, more) in enumerate(zip(self.values, gradients, strict=True)):
            if more is not None:
                # A gradient may share memory with a cotangent.
                self.values[index] = more.clone() if value is None else value.add_(more)
        self._is_full = bool(self.values) and all(value is not None for value in self.values)


class Pulled(NamedTuple):
    """Cotangents of what a step starts from.

    Attributes:
        y0: of the state.
        carry: of the floating tensors of the carry.
        cond: of the leaves of ``cond``, for these samples.
    """

    y0: Tensor
    carry: list[Tensor | None]
    cond: Sequence[Tensor | None]


class AbstractPull(ABC):
    """Pulls cotangents back through steps of one stepper."""

    @abstractmethod
    def pull(self, repeat: Repeat, parameters: Sequence[Tensor], total: Total) -> Pulled:
        """Go back through one step.

        Args:
            repeat: the step.
            parameters: tensors of the field to differentiate by.
            total: their gradients so far, to which this step's are added.
        """


class GraphPull(AbstractPull):
    """Takes the step again, recorded, and differentiates the record: right for every stepper."""

    def __init__(self, stepper: AbstractStepper) -> None:
        self._stepper = stepper

    def pull(self, repeat: Repeat, parameters: Sequence[Tensor], total: Total) -> Pulled:
        """See the base class."""
        with torch.enable_grad():
            y0 = repeat.y0.detach().requires_grad_()
            carry = [value.detach().requires_grad_() for value in trees.batched(repeat.carry)]
            result = self._stepper.step(
                repeat.leaves.problem, repeat.t0, repeat.t1, y0, trees.replace_batched(repeat.carry, carry)
            )
            ends = [result.y1]
            grads: list[Tensor | None] = [repeat.end]
            if repeat.carry_end:
                ends += trees.batched(result.carry)
                grads += repeat.carry_end
            for inner in repeat.inner:
                if result.dense is None:
                    raise ValueError(
                        f"{type(self._stepper).__name__} saved a state within a step, but has no interpolant"
                    )
                ends.append(result.dense.evaluate(inner.theta, inner.local))
                grads.append(inner.cotangent)
        found = differentiate(ends, grads, (y0, *carry, *repeat.leaves.cond, *parameters))
        start = 1 + len(carry)
        middle = start + len(repeat.leaves.cond)
        total.add(found[middle:])
        by_y0 = torch.zeros_like(y0) if found[0] is None else found[0]
        return Pulled(by_y0, list(found[1:start]), found[start:middle])


def differentiate(
    outputs: Sequence[Tensor], cotangents: Sequence[Tensor | None], inputs: Sequence[Tensor]
) -> Sequence[Tensor | None]:
    """Vector-Jacobian products; None for inputs that no output depends on."""
    pairs = [
        (output, cotangent)
        for output, cotangent in zip(outputs, cotangents, strict=True)
        if cotangent is not None and output.requires_grad
    ]
    if not pairs:
        return [None] * len(inputs)
    heads, tails = zip(*pairs, strict=True)
    return torch.autograd.grad(heads, inputs, tails, allow_unused=True)
