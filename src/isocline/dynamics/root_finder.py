"""What finds the zeros of a residual from many starts at once, each with its own fate."""

from __future__ import annotations

import dataclasses
import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.dynamics.system import AbstractSystem, check_states, row_rms

__all__ = ["AbstractRootFinder", "AbstractRootSearch", "Polished", "RootStatus", "Roots", "residual_tolerance"]


_RUNNING = -1


class RootStatus(enum.IntEnum):
    """How the search from one start ended."""

    CONVERGED = 0
    MAX_ITERATIONS = 1
    STALLED = 2
    NON_FINITE = 3

    @property
    def explanation(self) -> str:
        """What happened, and the cure."""
        return {
            RootStatus.CONVERGED: "residual within the tolerance",
            RootStatus.MAX_ITERATIONS: "used up its iterations; raise them or loosen the tolerance",
            RootStatus.STALLED: "no step along Newton's direction lowers the residual: a minimum of its norm that is "
            "no zero, or rounding; take another start, or float64",
            RootStatus.NON_FINITE: "met values that are not finite; take starts closer to the data, or damp the steps",
        }[self]


@dataclass(frozen=True)
class Roots:
    """Where the search from each start ended.

    Attributes:
        points: shape (B, *event); of a start that failed, its best point.
        residuals: root mean square of the residual there, float64, shape (B,).
        status: `RootStatus`, int64, shape (B,).
        iterations: int64, shape (B,).
        evaluations: evaluations of the law, int64, shape (B,).
        products: products of its Jacobian with a vector, int64, shape (B,).
    """

    points: Tensor
    residuals: Tensor
    status: Tensor
    iterations: Tensor
    evaluations: Tensor
    products: Tensor

    @property
    def converged(self) -> Tensor:
        """Bool, shape (B,)."""
        return self.status == int(RootStatus.CONVERGED)

    def count(self, status: RootStatus) -> int:
        """How many starts ended so."""
        return int((self.status == int(status)).sum())


class AbstractRootFinder(ABC):
    """A method for ``residual(x) = 0``."""

    @abstractmethod
    def find(self, system: AbstractSystem, starts: Tensor) -> Roots:
        """Search from every start.

        Args:
            system: whose residual is to vanish; its ``cond`` belongs to the starts.
            starts: shape (B, *event).

        Raises:
            TypeError, ValueError: as `isocline.dynamics.system.check_states`.
        """


class AbstractRootSearch(ABC):
    """The state of one search: which starts still run, and what each has cost.

    Args:
        system: see `AbstractRootFinder.find`.
        starts: likewise.

    Attributes:
        iterations: int64, shape (B,).
        evaluations: likewise; the first one, at the start, is counted.
        products: likewise.
        status: `RootStatus`, or that the start still runs.
    """

    def __init__(self, system: AbstractSystem, starts: Tensor) -> None:
        check_states(starts, "starts")
        self.system, self.event = system, starts.shape[1:]
        zero = torch.zeros(len(starts), dtype=torch.int64, device=starts.device)
        self.iterations, self.evaluations, self.products = zero.clone(), zero + 1, zero.clone()
        self.status = torch.full_like(zero, _RUNNING)

    @abstractmethod
    def advance(self, rows: Tensor) -> None:
        """One iteration of the starts ``rows``, those that are done marked in ``status``."""

    def running(self, rows: Tensor | None = None) -> Tensor:
        """Those of the starts ``rows`` (all by default) that still run."""
        if rows is None:
            return torch.nonzero(self.status == _RUNNING).flatten()
        return rows[self.status[rows] == _RUNNING]

    def run(self, iterations: int) -> None:
        """Advance what still runs, at most so many times."""
        for _ in range(iterations):
            rows = self.running()
            if not len(rows):
                break
            self.advance(rows)

    def roots(self, points: Tensor, residuals: Tensor) -> Roots:
        """The result; what still runs has used up its iterations.

        Args:
            points: states with the batch first, of any further shape.
            residuals: root mean square there, shape (B,).
        """
        status = torch.where(self.status == _RUNNING, int(RootStatus.MAX_ITERATIONS), self.status)
        points = points.reshape(-1, *self.event)
        return Roots(points, residuals, status, self.iterations, self.evaluations, self.products)


@dataclass(frozen=True)
class Polished(AbstractRootFinder):
    """One method, then another from where the first one ended: cheap far away, quadratic near by.

    Attributes:
        first: for instance `isocline.dynamics.anderson.Anderson` with a loose tolerance.
        second: for instance `isocline.dynamics.newton_krylov.NewtonKrylov`.
    """

    first: AbstractRootFinder
    second: AbstractRootFinder

    def find(self, system: AbstractSystem, starts: Tensor) -> Roots:
        """Run both; status and residual are the second's, the work is the sum."""
        begun = self.first.find(system, starts)
        ended = self.second.find(system, begun.points)
        return dataclasses.replace(
            ended,
            iterations=begun.iterations + ended.iterations,
            evaluations=begun.evaluations + ended.evaluations,
            products=begun.products + ended.products,
        )


def residual_tolerance(tolerance: float | None, x: Tensor) -> Tensor:
    """Root mean square at which a residual counts as zero, float64, shape (B,).

    None stands for ``eps^(2/3) max(1, rms(x))``: 4e-11 in float64, 2e-5 in float32, for states of size one.
    """
    if tolerance is not None:
        return torch.full((len(x),), tolerance, dtype=torch.float64, device=x.device)
    return torch.finfo(x.dtype).eps ** (2 / 3) * row_rms(x).clamp(min=1.0)
