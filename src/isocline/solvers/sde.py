"""What all steppers of stochastic differential equations share, and the way between Itô and Stratonovich.

A subclass of `AbstractSDEStepper` is a formula for the end of a step, given the Brownian increment; asking the path,
checking the problem and dense output are done here.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

import isocline.solvers.dual_rules  # noqa: F401 - fills in the rules of Dual
from isocline.shapes import expand_like
from isocline.solvers.brownian import BrownianIncrement
from isocline.solvers.dense import AbstractInterpolant
from isocline.solvers.dual import Dual
from isocline.solvers.problem import AbstractProblem, Calculus, SDEProblem, VectorField, fit_diffusion
from isocline.solvers.rows import select_rows
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = [
    "AbstractSDEStepper",
    "CorrectedDrift",
    "Span",
    "StochasticStep",
    "SubstepInterpolant",
    "noise_derivative",
    "to_ito",
    "to_stratonovich",
]


class Span(NamedTuple):
    """The times of a step.

    Attributes:
        t0: start, float64, shape () or (B,).
        t1: end, likewise.
        h: signed length in the state's dtype, broadcastable to the state.
    """

    t0: Tensor
    t1: Tensor
    h: Tensor

    def at(self, share: float) -> Tensor:
        """The time a share of the step after its start."""
        return self.t1 if share == 1 else self.t0 if share == 0 else torch.add(self.t0, self.t1 - self.t0, alpha=share)

    @property
    def size(self) -> Tensor:
        """``|h|``, with 1 in place of 0 (samples that are done take empty steps), so that it may divide."""
        return torch.where(self.h == 0, 1.0, self.h.abs())


class StochasticStep(NamedTuple):
    """End of a step.

    Attributes:
        y1: state, shape (B, *event).
        error: local error estimate, or None.
    """

    y1: Tensor
    error: Tensor | None = None


class AbstractSDEStepper(AbstractStepper):
    """One step of a method for an `SDEProblem`; the direction of integration may be either.

    The carry is what the Brownian motion remembers of the start of the step, so that its path is asked once a step.

    Attributes:
        calculi: senses of the equation that the formula is right for.
        needs_area: whether the formula uses the space-time Lévy area.
    """

    calculi: ClassVar[frozenset[Calculus]]
    needs_area: ClassVar[bool] = False

    @abstractmethod
    def advance(self, problem: SDEProblem, span: Span, y0: Tensor, noise: BrownianIncrement) -> StochasticStep:
        """The formula.

        Args:
            problem: the equation.
            span: the times.
            y0: state at the start, shape (B, *event).
            noise: increment of the Brownian motion over the step.
        """

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Any:
        """Ask the Brownian motion about the start.

        Raises:
            TypeError: if the problem is not an `SDEProblem`.
            ValueError: if the problem's calculus is not the method's.
        """
        return self._checked(problem).brownian.start(t0, y0)

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Advance by one step; see the base class.

        Raises:
            TypeError: if the problem is not an `SDEProblem`.
            ValueError: if the problem's calculus is not the method's.
        """
        sde = self._checked(problem)
        noise, memory = sde.brownian.step(t0, t1, y0, carry, self.needs_area)
        span = Span(t0, t1, expand_like(t1 - t0, y0).to(y0.dtype))
        y1, error = self.advance(sde, span, y0, noise)
        dense = SubstepInterpolant(self, sde, t0, t1, y0, carry) if sde.repeatable else None
        return StepResult(y1, error, memory, self.nfe_per_step, dense)

    def _checked(self, problem: AbstractProblem) -> SDEProblem:
        name = type(self).__name__
        if not isinstance(problem, SDEProblem):
            raise TypeError(f"{name} got a {type(problem).__name__}; expected an SDEProblem")
        if problem.calculus not in self.calculi:
            cure = "to_ito" if Calculus.ITO in self.calculi else "to_stratonovich"
            raise ValueError(f"{name} got calculus={problem.calculus}; convert the problem by isocline.solvers.{cure}")
        return problem


class SubstepInterpolant(AbstractInterpolant):
    """States within a step by a shorter step of the same method along the same path: as accurate as the step itself.

    Interpolation without the path would lose the noise between the ends, an error of order 1/2.
    """

    def __init__(
        self, stepper: AbstractSDEStepper, problem: SDEProblem, t0: Tensor, t1: Tensor, y0: Tensor, memory: Any
    ) -> None:
        """Keep the start of the step.

        Args:
            stepper: the method.
            problem: the equation.
            t0: start of the step.
            t1: end of the step.
            y0: state at the start.
            memory: what the Brownian motion remembers of the start.
        """
        self.nfe = stepper.nfe_per_step
        self._stepper, self._problem, self._memory = stepper, problem, memory
        self._t0, self._dt, self._y0 = t0, t1 - t0, y0

    def evaluate(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """Step to the time asked for; costs a step's evaluations for every state asked for."""
        if rows is None:
            return self._substep(self._problem, self._t0, self._t0 + theta * self._dt, self._y0, self._memory)
        t0, dt = self._t0.expand(len(self._y0)), self._dt.expand(len(self._y0))
        if self._problem.separable:
            start, end = t0[rows], t0[rows] + theta * dt[rows]
            memory = select_rows(self._memory, rows)
            return self._substep(self._problem.at_rows(rows), start, end, self._y0[rows], memory)
        # The drift must see the whole batch: one pass for every state asked for.
        states = []
        for row, share in zip(rows.tolist(), theta.unbind(0), strict=True):
            end = t0 + share * dt
            states.append(self._substep(self._problem, t0, end, self._y0, self._memory)[row])
        return torch.stack(states)

    def _substep(self, problem: SDEProblem, t0: Tensor, t1: Tensor, y0: Tensor, memory: Any) -> Tensor:
        return self._stepper.step(problem, t0, t1, y0, memory).y1


def noise_derivative(diffusion: VectorField, t: Tensor, y: Tensor, cond: Any) -> tuple[Tensor, Tensor]:
    """The diffusion g and ``g ∂g/∂y`` of diagonal noise, each of y's shape and dtype.

    The Jacobian of diagonal noise is diagonal: its diagonal is one directional derivative, that along the vector of
    ones, found with g in one evaluation: on dual numbers or, where an operation has no rule for them, by PyTorch's
    forward mode, which is ten times as slow for cheap diffusions.

    Args:
        diffusion: g; a state-free diffusion has derivative zero.
        t: time, shape () or (B,).
        y: state, shape (B, *event).
        cond: handed to ``diffusion``.
    """
    ones = torch.ones_like(y)
    try:
        found = _call(diffusion, t, Dual(y, ones[None]), cond)
    # Whatever goes wrong on dual numbers is looked at again without: a mistake of the diffusion raises there too.
    except Exception:
        both = torch.func.jvp(lambda state: fit_diffusion(diffusion(t, state, cond), y).expand_as(y), (y,), (ones,))
        return both[0], both[0] * both[1]
    if not isinstance(found, Dual):
        g = fit_diffusion(found, y).expand_as(y)
        return g, torch.zeros_like(y)
    g = fit_diffusion(found.primal, y).expand_as(y)
    return g, g * found.tangent[0].to(y.dtype).expand_as(y)


def _call(diffusion: Any, t: Tensor, y: Any, cond: Any) -> Any:
    return diffusion(t, y, cond)


@dataclass(frozen=True)
class CorrectedDrift:
    """``f + factor · g ∂g/∂y``, the drift of the same equation in the other calculus.

    Attributes:
        drift: f, of the equation as it was.
        diffusion: g.
        factor: ±1/2.
    """

    drift: VectorField
    diffusion: VectorField
    factor: float

    def __call__(self, t: Tensor, y: Tensor, cond: Any) -> Tensor:
        """The corrected drift at ``(t, y)``, of y's shape and dtype."""
        _, derivative = noise_derivative(self.diffusion, t, y, cond)
        return torch.add(self.drift(t, y, cond), derivative, alpha=self.factor)


def to_stratonovich(problem: SDEProblem) -> SDEProblem:
    """The same process as a Stratonovich equation: ``f - 1/2 g ∂g/∂y`` for time running forward, plus for backward.

    The sign follows the direction because dt does: in the time that passes, the correction is always subtracted.

    Args:
        problem: in either calculus; a Stratonovich problem is returned as it is.

    Raises:
        ValueError: if some samples run forward and others backward.

    Source: Kloeden and Platen, Numerical Solution of Stochastic Differential Equations (1992), section 4.9.
    """
    return _convert(problem, Calculus.STRATONOVICH, -0.5)


def to_ito(problem: SDEProblem) -> SDEProblem:
    """The same process as an Itô equation; the inverse of `to_stratonovich`.

    Raises:
        ValueError: if some samples run forward and others backward.
    """
    return _convert(problem, Calculus.ITO, 0.5)


def _convert(problem: SDEProblem, calculus: Calculus, factor: float) -> SDEProblem:
    if problem.calculus is calculus:
        return problem
    ends = (torch.as_tensor(time, dtype=torch.float64).detach().cpu() for time in (problem.t0, problem.t1))
    t0, t1 = ends
    forward, backward = bool((t1 > t0).any()), bool((t1 < t0).any())
    if forward and backward:
        raise ValueError("some samples run forward in time and others backward; convert them apart from one another")
    drift = CorrectedDrift(problem.drift, problem.diffusion, -factor if backward else factor)
    return replace(problem, drift=drift, calculus=calculus)
