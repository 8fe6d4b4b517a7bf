"""Stage equations of implicit methods, and their fixed-point iteration; Newton's is in `isocline.solvers.stage_newton`.

A sample that has converged is frozen: what it becomes does not depend on how long the others take.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.jacobian import Linearizer
from isocline.solvers.problem import AbstractProblem

__all__ = [
    "AbstractStageSolver",
    "FixedPoint",
    "Preparation",
    "StageSolution",
    "StageSystem",
    "Start",
    "check_iteration",
]

Stages = tuple[Tensor, ...]
Coefficients = tuple[tuple[float, ...], ...]


class StageSolution(NamedTuple):
    """Solved stage equations.

    Attributes:
        z: displacements, S tensors of the state's shape.
        nfe: evaluations that each sample needed, an int or an int64 tensor of shape (B,).
        failed: samples that did not converge, bool, shape (B,); None if that was not asked.
        jacobians: Jacobians evaluated, like ``nfe``.
        factorizations: matrices factorized, like ``nfe``.
    """

    z: Stages
    nfe: int | Tensor
    failed: Tensor | None
    jacobians: int | Tensor = 0
    factorizations: int | Tensor = 0


class Preparation(NamedTuple):
    """What is found out once before the first step.

    Attributes:
        linearizer: how the field is differentiated; None where it is not.
        slope: at the start, where it was evaluated.
    """

    linearizer: Linearizer | None = None
    slope: Tensor | None = None


class Start:
    """Where a step starts.

    Attributes:
        problem: the equation.
        t0: start of the step, shape () or (B,).
        y0: state there, shape (B, *event).
        linearizer: how the field is differentiated; None where it is not.
        memory: what a solver keeps from one of the step's stage equations for the next.
    """

    def __init__(self, problem: AbstractProblem, t0: Tensor, y0: Tensor, linearizer: Linearizer | None) -> None:
        """Nothing is evaluated."""
        self.problem, self.t0, self.y0, self.linearizer = problem, t0, y0, linearizer
        self.memory: dict[Any, Any] = {}


@dataclass(frozen=True, slots=True)
class StageSystem:
    """The equations ``z_i = h Σ_j a_ij f(t_j, base + z_j)``.

    Attributes:
        start: the step's start.
        times: S times t_j, each of shape () or (B,).
        base: shape (B, *event).
        h: step, broadcastable to ``base``.
        a: S rows of S coefficients.
    """

    start: Start
    times: Stages
    base: Tensor
    h: Tensor
    a: Coefficients

    def image(self, z: Stages | None) -> Stages:
        """The right-hand side at ``z``; None stands for zero."""
        points = [self.base] * len(self.times) if z is None else [self.base + displacement for displacement in z]
        problem = self.start.problem
        slopes = [problem.evaluate(time, point) for time, point in zip(self.times, points, strict=True)]
        return tuple(self.h * _weighted(row, slopes) for row in self.a)


class AbstractStageSolver(ABC):
    """Solves stage equations.

    Attributes:
        init_nfe: evaluations that `prepare` makes.
    """

    init_nfe: ClassVar[int] = 0

    def prepare(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Preparation:
        """Find out what is needed of the field; nothing by default."""
        return Preparation()

    @abstractmethod
    def solve(self, system: StageSystem) -> StageSolution:
        """Find the displacements; differentiable where the state, ``cond`` or parameters are."""

    @abstractmethod
    def least_nfe(self, stages: int) -> int:
        """Evaluations of one solve with ``stages`` implicit stages if the first try is good enough."""


@dataclass(frozen=True)
class FixedPoint(AbstractStageSolver):
    """``z ← h A f(base + z)`` from z = 0, so that one iteration of implicit Euler's is explicit Euler's step.

    Converges for ``h ‖A‖ L < 1`` (L the Lipschitz constant), needs no Jacobian, and is differentiated through its
    iterations.

    Attributes:
        iterations: the most that are made.
        tol: a sample is done once its change, the largest over stages and components, is at most ``tol`` times the
            largest component; samples that are not done in the end have failed. None makes all the iterations for all
            samples, asks nothing, and never waits for the device.

    Raises:
        ValueError: if ``iterations`` is below one, or ``tol`` is not positive.

    Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, section II.7; a fixed number of
    iterations in the depth of a Transformer is IIET's.
    """

    iterations: int = 20
    tol: float | None = None

    def __post_init__(self) -> None:
        check_iteration(self.iterations, self.tol)

    def solve(self, system: StageSystem) -> StageSolution:
        """Iterate; see the base class."""
        z, count, failed = self.iterate(system.image, None, system.base)
        return StageSolution(z, count * len(system.times), failed)

    def least_nfe(self, stages: int) -> int:
        """All iterations without ``tol``, one with it."""
        return stages * (self.iterations if self.tol is None else 1)

    def iterate(
        self, function: Callable[[Stages | None], Stages], z: Stages | None, base: Tensor
    ) -> tuple[Stages, int | Tensor, Tensor | None]:
        """Repeat ``z ← function(z)``.

        Args:
            function: the map.
            z: the start; None stands for zero.
            base: the size of ``base + z`` is the scale of ``tol``.

        Returns:
            the result, the iterations of each sample, and which samples have not converged (None without ``tol``).
        """
        if self.tol is None:
            for _ in range(self.iterations):
                z = function(z)
            assert z is not None
            return z, self.iterations, None
        done = torch.zeros(len(base), dtype=torch.bool, device=base.device)
        count = torch.zeros(len(base), dtype=torch.int64, device=base.device)
        size = _largest((base,))
        for _ in range(self.iterations):
            new = function(z)
            with torch.no_grad():
                change = _largest(new if z is None else tuple(b - a for a, b in zip(z, new, strict=True)))
                count = count + ~done
                now = change <= self.tol * torch.maximum(size, _largest(new))
            z = new if z is None else tuple(_freeze(done, a, b) for a, b in zip(z, new, strict=True))
            done = done | now
            if bool(done.all()):
                break
        assert z is not None
        return z, count, ~done


def check_iteration(iterations: int, tol: float | None) -> None:
    """Refuse senseless options.

    Raises:
        ValueError: if ``iterations`` is below one, or ``tol`` is not positive.
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations}; expected at least one")
    if tol is not None and not tol > 0:
        raise ValueError(f"tol={tol}; expected a positive number, or None")


def _weighted(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    terms = [slope * weight for weight, slope in zip(weights, slopes, strict=True) if weight]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _freeze(done: Tensor, old: Tensor, new: Tensor) -> Tensor:
    return torch.where(expand_like(done, old), old, new)


def _largest(values: Stages) -> Tensor:
    """Largest absolute value of each sample, shape (B,)."""
    sizes = [value.detach().abs().reshape(len(value), -1).amax(1) for value in values]
    return torch.stack(sizes).amax(0)
