"""Simplified Newton iteration for one implicit stage of every sample.

A sample that has converged is frozen, so that what it becomes does not depend on how long the others take.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.solvers.jacobian import RealRows
from isocline.solvers.linear import AbstractFactors
from isocline.solvers.problem import AbstractProblem

__all__ = ["NewtonSettings", "NewtonState", "StageEquation"]

# A change this small, in units of the error allowed, ends the iteration whatever the contraction.
_TINY = 0.1


@dataclass(frozen=True, eq=False)
class NewtonSettings:
    """When the iteration ends.

    Attributes:
        rtol: relative tolerance of the integration; None takes that of an adaptive solve. On a grid, where no tolerance
            is known, the iteration goes on to ``eps^(5/6)`` of the largest component (9e-14 for float64, 2e-6 for
            float32).
        atol: absolute tolerance, a number or one value for each component of a sample; None takes ``1e-3 rtol``.
        share: what the iteration may leave of the tolerance.
        iterations: the most that are made; a sample that has not converged by then has failed. None takes 8, and 30 on
            a grid, where a step that failed cannot be made smaller.

    Raises:
        ValueError: if a value is not positive.
    """

    rtol: float | None = None
    atol: float | Tensor | None = None
    share: float = 0.05
    iterations: int | None = None

    def __post_init__(self) -> None:
        for key in ("rtol", "share", "iterations"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ValueError(f"{key}={value}; expected a positive number")

    def with_tolerance(self, rtol: float, atol: float | Tensor) -> NewtonSettings:
        """The same settings for an integration with these tolerances."""
        return dataclasses.replace(self, rtol=rtol, atol=atol)

    @property
    def most_iterations(self) -> int:
        """``iterations``, or its default."""
        if self.iterations is not None:
            return self.iterations
        return 30 if self.rtol is None else 8

    @property
    def stall(self) -> float:
        """Size of a change that may end the iteration where changes no longer shrink, in units of the error allowed.

        On a grid the error allowed is so small that rounding errors of a stiff field may be larger.
        """
        return 400.0 if self.rtol is None else 0.0

    def tightness(self, start: Tensor, rows: RealRows) -> Tensor:
        """Reciprocal of the error allowed in each component of ``start``, shape (B, N)."""
        if self.rtol is None:
            size = start.abs().amax(1, keepdim=True).mul_(torch.finfo(start.dtype).eps ** (5 / 6))
            return size.clamp_(min=torch.finfo(start.dtype).tiny).reciprocal_().expand_as(start)
        rtol = self.rtol
        atol: float | Tensor = 1e-3 * rtol if self.atol is None else self.atol
        if isinstance(atol, Tensor):
            atol = rows.components(atol).to(start)
        # Below a few units of rounding nothing converges.
        share = max(self.share, 10 * torch.finfo(start.dtype).eps / max(rtol, 1e-300))
        return start.abs().mul_(rtol * share).add_(atol * share).reciprocal_()


class StageEquation(NamedTuple):
    """``z = hγ f(t, Y)`` and ``Y = base + z`` for a stage Y, states being rows of N real numbers.

    Stage and displacement z are carried both, each change being added to either. One as the sum or difference of the
    other and the base would lose digits: z, which gives the slope, where it is small, in float32 most of them; Y where
    base and z all but cancel, in a stiff transient. That they differ from the base by its rounding does no harm.

    Attributes:
        problem: the equation.
        rows: layout of the states.
        time: t, shape () or (B,).
        base: shape (B, N).
        scaled: hγ, shape () or (B, 1).
    """

    problem: AbstractProblem
    rows: RealRows
    time: Tensor
    base: Tensor
    scaled: Tensor

    def residual(self, point: Tensor, displacement: Tensor) -> Tensor:
        """``hγ f(t, Y) - z``."""
        slope = self.rows.flatten(self.problem.evaluate(self.time, self.rows.restore(point)))
        return torch.mul(self.scaled, slope).sub_(displacement)


class NewtonState(NamedTuple):
    """Progress over the stages of one step.

    Attributes:
        point: the latest stage, shape (B, N).
        displacement: its z, likewise.
        limit: size of the first change that ends the iteration, shape (B,): ``(1 - θ) / θ`` for the contraction θ seen
            in the stage before.
        failed: samples that did not converge, bool, shape (B,); None as long as there are none.
        nfe: evaluations that each sample needed, an int as long as it is the same for all.
        jacobians: those that `solve_again` needed for each sample, one factorization each.
    """

    point: Tensor
    displacement: Tensor
    limit: Tensor
    failed: Tensor | None
    nfe: int | Tensor
    jacobians: int | Tensor = 0

    @classmethod
    def start(cls, point: Tensor) -> NewtonState:
        """Before the first stage."""
        return cls(
            point, torch.zeros_like(point), torch.ones(len(point), dtype=point.dtype, device=point.device), None, 0
        )

    def solve(
        self,
        equation: StageEquation,
        factors: AbstractFactors,
        guess: Tensor,
        tightness: Tensor,
        settings: NewtonSettings,
    ) -> NewtonState:
        """Solve the next stage.

        With the contraction ``θ = ‖Δ_m‖ / ‖Δ_{m-1}‖`` the error left is at most ``θ / (1 - θ) ‖Δ_m‖``: a sample is done
        when that is below one in units of the error allowed, in the largest component. It has failed when it does not
        contract, or too slowly for the iterations that are left.

        Args:
            equation: the stage's.
            factors: of ``I - hγJ``.
            guess: first guess of the displacement, shape (B, N).
            tightness: reciprocal of the error allowed, shape (B, N).
            settings: when the iteration ends.

        Source: Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.8, Eqs. 8.10 and 8.11.
        """
        point, displacement, limit, failed, nfe = equation.base + guess, guess, self.limit, self.failed, self.nfe
        iterations, stall = settings.most_iterations, settings.stall
        done, last = failed, tightness
        for left in reversed(range(iterations)):
            change = factors.solve(equation.residual(point, displacement))
            if done is not None:
                change.masked_fill_(done[:, None], 0.0)
            point, displacement = point + change, displacement + change
            nfe = nfe + 1 if done is None else nfe + ~done
            size = (change * tightness).abs_().amax(1)
            if left < iterations - 1:
                fresh = (last / size).sub_(1).clamp_(_TINY, 1e3)
                limit = fresh if done is None else torch.where(done, limit, fresh)
            over = size <= limit if done is None else (size <= limit) | done
            if bool(over.all()):
                break
            if stall:
                over = over | ((limit <= _TINY) & (size <= stall))
            lost = ~over & _is_lost(size, limit, left, left == iterations - 1)
            if bool(lost.any()):
                failed = lost if failed is None else failed | lost
                over = over | lost
                if bool(over.all()):
                    break
            done, last = over, size
        return NewtonState(point, displacement, limit, failed, nfe, self.jacobians)

    def solve_again(
        self,
        before: NewtonState,
        equation: StageEquation,
        factorize_at: Callable[[Tensor], tuple[AbstractFactors, int]],
        tightness: Tensor,
        settings: NewtonSettings,
    ) -> NewtonState:
        """Solve the latest stage again, where it failed, by Newton's method proper, from the stage before.

        Args:
            before: the stage before.
            equation: the stage's.
            factorize_at: factors of ``I - hγJ`` at a point, and the evaluations that they cost.
            tightness: reciprocal of the error allowed, shape (B, N).
            settings: when the iteration ends.
        """
        assert self.failed is not None
        fresh = self.failed if before.failed is None else self.failed & ~before.failed
        done, nfe, jacobians = ~fresh, self.nfe, self.jacobians
        point = torch.where(fresh[:, None], before.point, self.point)
        displacement = torch.where(fresh[:, None], before.point - equation.base, self.displacement)
        last = torch.full_like(self.limit, torch.inf)
        for _ in range(settings.most_iterations):
            if bool(done.all()):
                break
            factors, cost = factorize_at(point)
            change = factors.solve(equation.residual(point, displacement)).masked_fill_(done[:, None], 0.0)
            point, displacement = point + change, displacement + change
            nfe, jacobians = nfe + (cost + 1) * ~done, jacobians + (~done).long()
            size = (change * tightness).abs_().amax(1)
            # Convergence is quadratic: a change this small leaves nothing.
            done = done | (size <= 1) | ((size >= last) & (size <= settings.stall))
            last = size
        failed = ~done if before.failed is None else ~done | before.failed
        return NewtonState(point, displacement, torch.where(fresh, 1.0, self.limit), failed, nfe, jacobians)


def _is_lost(size: Tensor, limit: Tensor, left: int, first: bool) -> Tensor:
    """Samples that will not converge: not finite, no contraction, or ``θ^left`` too large for the change left."""
    if first:
        return ~size.isfinite()
    return (limit <= _TINY) | ~(size * (1 + limit) ** -left <= limit)
