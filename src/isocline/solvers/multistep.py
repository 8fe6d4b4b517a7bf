"""Adams' multistep methods, explicit and predictor-corrector, on any grid; dense output is their own polynomial."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.explicit import RK4, AbstractRungeKutta, Dopri5, Dopri8, Euler, Heun, Heun3
from isocline.solvers.kept import kept
from isocline.solvers.polynomial import PolynomialInterpolant, integrated_lagrange
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stage_solvers import FixedPoint
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["AdamsBashforth", "AdamsBashforthMoulton", "History"]

_MAX_ORDER = 12

# Relative distance from a whole number of steps below which a grid counts as one of constant steps: the times
# themselves are no better known over 10⁵ steps.
_SNAP = 1e-10


class History(NamedTuple):
    """Slopes at grid points so far, newest first.

    Attributes:
        times: each of shape () or (B,).
        slopes: each of the state's shape.
    """

    times: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]

    def after(self, time: Tensor, slope: Tensor, length: int) -> History:
        """One more slope; of all of them, the newest ``length``."""
        return History((time, *self.times)[:length], (slope, *self.slopes)[:length])


class AdamsBashforth(AbstractStepper):
    """``y1 = y0 + ∫_{t0}^{t1} P(t) dt``, P the polynomial through the last ``order`` slopes; one evaluation per step.

    The first ``order - 1`` steps are Runge–Kutta steps of the same order (of order 8 for orders from 6 on, which limits
    the order of the whole to 9). The weights come from the actual times, so any grid will do; for constant steps they
    are found once, which needs the times on the host: not done where samples have their own, or on another device.

    Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, sections III.1 and III.5.
    """

    init_nfe = 0
    nfe_per_step = 1

    def __init__(self, order: int = 4, starter: AbstractRungeKutta | None = None) -> None:
        """Choose the order.

        Args:
            order: 1 to 12; above 5 the region of stability is tiny.
            starter: method of the first steps; by default the cheapest that does not lower the order.

        Raises:
            ValueError: if ``order`` is out of range.
        """
        self.order = _check_order(order, 1)
        self._steps = order
        self._starter = _starter(order) if starter is None else starter

    def evaluations(self, steps: int) -> int:
        """See the base class."""
        return steps + min(steps, self._steps - 1) * _inner_nfe(self._starter)

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> History:
        """Nothing is known yet."""
        return History((), ())

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: History) -> StepResult:
        """Advance by one step; see the base class."""
        slope = problem.evaluate(t0, y0)
        known = carry.after(t0, slope, self._steps)
        following = History(known.times[: self._steps - 1], known.slopes[: self._steps - 1])
        if len(known.times) < self._steps:
            first = self._starter.step(problem, t0, t1, y0, slope)
            return StepResult(first.y1, None, following, 1 + _inner_nfe(self._starter), first.dense)
        weights = _Weights.of(known.times, t0, t1)
        h = expand_like(t1 - t0, y0).to(y0.dtype)
        y1 = torch.addcmul(y0, h, weights.sum(known.slopes))
        return StepResult(y1, None, following, 1, PolynomialInterpolant(y0, known.slopes, weights.coefficients, h))


class AdamsBashforthMoulton(AbstractStepper):
    """Adams–Bashforth of order p - 1 as predictor, Adams–Moulton of order p as corrector: P(EC)^m E.

    With the one correction of the default (PECE) a step costs two evaluations. The corrector's polynomial goes through
    the slope at the end as well, so the same p - 1 past slopes give one order more. As `AdamsBashforth` otherwise.

    Attributes:
        corrector: the iteration that is stopped after m corrections. With ``tol`` it stops for each sample when it has
            converged, and samples that have not have failed.

    Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, sections III.1 and III.8.
    """

    init_nfe = 1

    def __init__(
        self, order: int = 4, corrector: FixedPoint | None = None, starter: AbstractRungeKutta | None = None
    ) -> None:
        """Choose order and corrections.

        Args:
            order: 2 to 12.
            corrector: one correction by default.
            starter: as for `AdamsBashforth`.

        Raises:
            ValueError: if ``order`` is out of range.
        """
        self.order = _check_order(order, 2)
        self._past = order - 1
        self.corrector = FixedPoint(iterations=1) if corrector is None else corrector
        self._starter = _starter(order) if starter is None else starter
        self.nfe_per_step = self.corrector.least_nfe(1) + 1

    def evaluations(self, steps: int) -> int:
        """See the base class; without the corrections of a corrector with ``tol`` beyond the first."""
        first = min(steps, self._past - 1)
        each = _inner_nfe(self._starter) + int(not self._starter.tableau.first_same_as_last)
        return self.init_nfe + first * each + (steps - first) * self.nfe_per_step

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> History:
        """The slope at the start."""
        return History((t0,), (problem.evaluate(t0, y0),))

    def initial_slope(self, carry: History) -> Tensor:
        """The newest slope."""
        return carry.slopes[0]

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: History) -> StepResult:
        """Advance by one step; see the base class."""
        if len(carry.times) < self._past:
            return self._start(problem, t0, t1, y0, carry)
        h = expand_like(t1 - t0, y0).to(y0.dtype)
        predicted = h * _Weights.of(carry.times, t0, t1).sum(carry.slopes)
        weights = _Weights.of((t1, *carry.times), t0, t1)
        past = h * weights.sum(carry.slopes, first=1)
        gain = h * weights.at(0, y0)

        def correct(rise: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
            assert rise is not None
            return (torch.addcmul(past, gain, problem.evaluate(t1, y0 + rise[0])),)

        (rise,), count, failed = self.corrector.iterate(correct, (predicted,), y0)
        y1 = y0 + rise
        slope = problem.evaluate(t1, y1)
        # The polynomial that was integrated goes through the last slope of the corrections, not through the new one.
        corrected = (rise - past) / torch.where(gain == 0, 1, gain)
        dense = PolynomialInterpolant(y0, (corrected, *carry.slopes), weights.coefficients, h)
        return StepResult(y1, None, carry.after(t1, slope, self._past), count + 1, dense, failed)

    def _start(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: History) -> StepResult:
        first = self._starter.step(problem, t0, t1, y0, carry.slopes[0])
        slope = problem.evaluate(t1, first.y1) if first.carry is None else first.carry
        nfe = _inner_nfe(self._starter) + int(first.carry is None)
        return StepResult(first.y1, None, carry.after(t1, slope, self._past), nfe, first.dense)


class _Weights(NamedTuple):
    """Weights of slopes in the integral over one step.

    Attributes:
        ends: S numbers, or a tensor of shape (S,) or (B, S), float64.
        coefficients: of the integral up to θ: of θ, θ², …, float64, shape (S, S) or (B, S, S).
    """

    ends: tuple[float, ...] | Tensor
    coefficients: Tensor

    @classmethod
    def of(cls, times: tuple[Tensor, ...], t0: Tensor, t1: Tensor) -> _Weights:
        """For slopes at ``times``."""
        if t0.ndim == 0 and t0.device.type == "cpu" and not (t0.requires_grad or torch.compiler.is_compiling()):
            start, length = float(t0), float(t1) - float(t0)
            if length == 0:
                return _cached(tuple(-float(place) for place in range(len(times))))
            return _cached(tuple(_snap((float(time) - start) / length) for time in times))
        lengths = (t1 - t0)[..., None]
        # A step of length zero leads nowhere whatever the weights, if they are finite.
        any_nodes = -torch.arange(len(times), dtype=t0.dtype, device=t0.device)
        nodes = torch.where(lengths == 0, any_nodes, (torch.stack(times, -1) - t0[..., None]) / lengths)
        coefficients = integrated_lagrange(nodes)
        return cls(coefficients.sum(-1), coefficients)

    def at(self, place: int, like: Tensor) -> float | Tensor:
        """One weight, broadcastable to a state."""
        if isinstance(self.ends, Tensor):
            return expand_like(self.ends[..., place], like).to(like.dtype)
        return self.ends[place]

    def sum(self, slopes: tuple[Tensor, ...], first: int = 0) -> Tensor:
        """Weighted sum with the weights from ``first`` on."""
        total = slopes[0] * self.at(first, slopes[0])
        for place, slope in enumerate(slopes[1:], first + 1):
            weight = self.at(place, slope)
            if isinstance(weight, Tensor):
                total = torch.addcmul(total, slope, weight)
            else:
                total = torch.add(total, slope, alpha=weight)
        return total


@kept(maxsize=1024)
def _cached(nodes: tuple[float, ...]) -> _Weights:
    coefficients = integrated_lagrange(torch.tensor(nodes, dtype=torch.float64))
    return _Weights(tuple(coefficients.sum(-1).tolist()), coefficients)


def _snap(node: float) -> float:
    whole = float(round(node))
    return whole if abs(node - whole) <= _SNAP else node


def _check_order(order: int, least: int) -> int:
    if not least <= order <= _MAX_ORDER:
        raise ValueError(f"order={order}; expected {least} to {_MAX_ORDER}")
    return order


def _starter(order: int) -> AbstractRungeKutta:
    by_order = (Euler, Heun, Heun3, RK4, Dopri5)
    return by_order[order - 1]() if order <= len(by_order) else Dopri8()


def _inner_nfe(starter: AbstractRungeKutta) -> int:
    """Evaluations of a step whose first slope is given."""
    return starter.nfe_per_step - 1 + starter.init_nfe
