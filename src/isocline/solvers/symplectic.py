"""Symplectic steppers for separable problems: each is a tableau of kicks and drifts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.dense import AbstractInterpolant
from isocline.solvers.phi import phi_functions
from isocline.solvers.polynomial import PolynomialInterpolant
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.separable import AbstractSeparableProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["AbstractSymplectic", "Leapfrog", "SplittingTableau", "SymplecticEuler", "Yoshida4"]


@dataclass(frozen=True, eq=False)
class SplittingTableau:
    """Shares of a step: kick by ``kicks[0]``, drift by ``drifts[0]``, kick by ``kicks[1]``, …, kick by the last.

    A kick solves ``dv/dt = force(t, x) - γ v`` exactly with t and x held, a drift ``dx/dt = velocity(v)`` and dt/dt = 1
    with v held. A palindrome is time-reversible.

    Attributes:
        order: order of the method.
        kicks: S + 1 shares that sum to one; the last may be zero.
        drifts: S shares that sum to one.
    """

    order: int
    kicks: tuple[float, ...]
    drifts: tuple[float, ...]

    def __post_init__(self) -> None:
        assert len(self.kicks) == len(self.drifts) + 1
        assert abs(sum(self.kicks) - 1) < 1e-14
        assert abs(sum(self.drifts) - 1) < 1e-14

    @property
    def ends_with_kick(self) -> bool:
        """Whether the force at the end of the step is evaluated, so that the next step need not."""
        return self.kicks[-1] != 0


class AbstractSymplectic(AbstractStepper):
    """One step of a splitting method (formula at `SplittingTableau`) on `SecondOrderProblem` or `HamiltonianProblem`.

    Without friction the map is symplectic, and the energy's error stays bounded over very long times where those of
    other methods grow. With friction γ it contracts the symplectic form by exactly ``exp(-γ h)``, as the flow does.
    States are stacked, shape (B, 2, *event). Dense output is the cubic through both ends where both forces are known,
    else a straight line; it costs nothing.

    Source: Hairer, Lubich, Wanner, Geometric numerical integration (2006), sections I.3, II.4 and VI.3; Bhatt, Floyd,
    Moore, Second order conformal symplectic schemes for damped Hamiltonian systems (2016), for friction.
    """

    tableau: ClassVar[SplittingTableau]

    def __init_subclass__(cls) -> None:
        """Derive the counts from the tableau."""
        cls.order = cls.tableau.order
        cls.nfe_per_step = len(cls.tableau.drifts)
        cls.init_nfe = int(cls.tableau.ends_with_kick)

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Tensor | None:
        """The force at the start for methods that end with a kick; otherwise None."""
        return _separable(self, problem).force(t0, y0[:, 0]) if self.tableau.ends_with_kick else None

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Tensor | None) -> StepResult:
        """Advance by one step; see the base class.

        Raises:
            TypeError: if the problem is of another kind.
        """
        parts = _separable(self, problem)
        table, dt = self.tableau, t1 - t0
        x, v = y0.unbind(1)
        h = expand_like(dt, x).to(y0.dtype)
        first = parts.force(t0, x) if carry is None else carry
        force, time, passed = first, t0, 0.0
        for kick, drift, following in zip(table.kicks[:-1], table.drifts, table.kicks[1:], strict=True):
            v = _kick(parts, dt * kick, force, v)
            x = torch.addcmul(x, h * drift, parts.velocity(time, v))
            passed += drift
            time = t1 if abs(passed - 1) < 1e-12 else torch.add(t0, dt, alpha=passed)
            if following:
                force = parts.force(time, x)
        if not table.ends_with_kick:
            y1 = torch.stack([x, v], 1)
            line = PolynomialInterpolant(y0, (y1 - y0,), torch.ones(1, 1, dtype=torch.float64))
            return StepResult(y1, None, None, self.nfe_per_step, line)
        y1 = torch.stack([x, _kick(parts, dt * table.kicks[-1], force, v)], 1)
        dense = _Cubic(_Ends(parts, t0, t1, y0, y1, first, force))
        return StepResult(y1, None, force, self.nfe_per_step, dense)


class SymplecticEuler(AbstractSymplectic):
    """Semi-implicit Euler, order 1: kick, then drift."""

    tableau = SplittingTableau(order=1, kicks=(1.0, 0.0), drifts=(1.0,))


class Leapfrog(AbstractSymplectic):
    """Velocity Verlet (Störmer, 1907; Verlet, 1967), order 2, time-reversible: half a kick, drift, half a kick."""

    tableau = SplittingTableau(order=2, kicks=(1 / 2, 1 / 2), drifts=(1.0,))


# Leapfrog steps of w, 1 - 2w and w cancel each other's error for 2w³ + (1 - 2w)³ = 0.
_W = 1 / (2 - 2 ** (1 / 3))


class Yoshida4(AbstractSymplectic):
    """Yoshida's triple leapfrog (1990; Forest and Ruth, 1990), order 4, time-reversible.

    Its middle step goes back in time, where friction drives: not for ``γ h`` far above one.
    """

    tableau = SplittingTableau(order=4, kicks=(_W / 2, (1 - _W) / 2, (1 - _W) / 2, _W / 2), drifts=(_W, 1 - 2 * _W, _W))


class _Ends(NamedTuple):
    """Both ends of a step, with the forces there."""

    problem: AbstractSeparableProblem
    t0: Tensor
    t1: Tensor
    y0: Tensor
    y1: Tensor
    force0: Tensor
    force1: Tensor


class _Cubic(AbstractInterpolant):
    """The cubic through both ends; made when it is first asked for."""

    def __init__(self, ends: _Ends) -> None:
        self._ends = ends
        self._polynomial: PolynomialInterpolant | None = None

    def evaluate(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        if self._polynomial is None:
            problem, t0, t1, y0, y1, force0, force1 = self._ends
            h = expand_like(t1 - t0, y0).to(y0.dtype)
            slopes = (_slope(problem, t0, y0, force0), _slope(problem, t1, y1, force1))
            increments = (y1 - y0, *(h * slope for slope in slopes))
            coefficients = torch.tensor(_CUBIC, dtype=torch.float64)
            self._polynomial = PolynomialInterpolant(y0, increments, coefficients)
        return self._polynomial.evaluate(theta, rows)


# Of θ, θ², θ³, for the difference of the ends and the scaled slopes.
_CUBIC = ((0.0, 3.0, -2.0), (1.0, -2.0, 1.0), (0.0, -1.0, 1.0))


def _slope(problem: AbstractSeparableProblem, time: Tensor, y: Tensor, force: Tensor) -> Tensor:
    v = y[:, 1]
    return torch.stack([problem.velocity(time, v), force - problem.friction * v], 1)


def _kick(problem: AbstractSeparableProblem, dt: Tensor, force: Tensor, v: Tensor) -> Tensor:
    """``exp(-γτ) v + τ φ_1(-γτ) force``, the solution of ``dv/dt = force - γ v`` at τ."""
    tau, friction = expand_like(dt, v), problem.friction
    if not isinstance(friction, Tensor) and friction == 0:
        return torch.addcmul(v, tau.to(v.dtype), force)
    shrink, mean = phi_functions(-tau * friction, 1)
    return torch.addcmul(shrink.to(v.dtype) * v, (tau * mean).to(v.dtype), force)


def _separable(stepper: AbstractStepper, problem: AbstractProblem) -> AbstractSeparableProblem:
    if not isinstance(problem, AbstractSeparableProblem):
        raise TypeError(
            f"{type(stepper).__name__} got a {type(problem).__name__}; expected a SecondOrderProblem or a "
            "HamiltonianProblem, which have positions and velocities apart"
        )
    return problem
