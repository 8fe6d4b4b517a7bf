"""ESDIRK steppers for stiff problems: implicit stages one after another by simplified Newton; each is a tableau."""

from __future__ import annotations

import copy
import functools
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.dense import AbstractInterpolant
from isocline.solvers.esdirk_tableaus import KENCARP4, KVAERNO3, KVAERNO5, TR_BDF2, ESDIRKTableau
from isocline.solvers.jacobian import Derivative, Linearization, Linearizer, RealRows
from isocline.solvers.kept import kept
from isocline.solvers.linear import AbstractFactors, factorize, shifted
from isocline.solvers.newton import NewtonSettings, NewtonState, StageEquation
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import StepResult
from isocline.solvers.stiff import AbstractStiffStepper

__all__ = ["AbstractESDIRK", "KenCarp4", "Kvaerno3", "Kvaerno5", "TRBDF2"]


class ESDIRKCarry(NamedTuple):
    """What an ESDIRK step hands to the next.

    Attributes:
        linearizer: how the field is differentiated.
        slope: at the end of the step, which is the next step's first, shape (B, *event).
        radius: bound of the Jacobian's spectral radius, shape (B,); None unless the stepper measures it.
    """

    linearizer: Linearizer
    slope: Tensor
    radius: Tensor | None


class AbstractESDIRK(AbstractStiffStepper):
    """One step of an ESDIRK method (formula at `isocline.solvers.esdirk_tableaus.ESDIRKTableau`).

    A step costs one Jacobian at its start, one factorization, which serves all stages, and the evaluations that the
    iterations need. A sample whose iteration does not converge has failed in this step, and takes a smaller one.

    Gradients come from the implicit function theorem: each stage is followed by one Newton correction with the exact
    Jacobian at its solution, which hardly moves it but carries the derivative. The matrix is a constant to it, so that
    first derivatives only are right.

    Source of the gradient: Bai, Kolter, Koltun, Deep equilibrium models (2019), theorem 1.

    Attributes:
        tableau: the coefficients.
    """

    tableau: ClassVar[ESDIRKTableau]
    init_nfe = 1
    compiles = False

    def __init_subclass__(cls) -> None:
        """Derive the counts from the tableau."""
        table = cls.tableau
        cls.order = table.order
        cls.error_order = table.error_order
        cls.nfe_per_step = len(table.c)

    def __init__(self, newton: NewtonSettings | None = None, derivative: Derivative | None = None) -> None:
        """Choose how stages are solved.

        Args:
            newton: when the iteration ends; by default as exact as the tolerances of an adaptive solve ask for, and
                on a grid to the last few digits.
            derivative: how the field is differentiated; None takes the problem's ``jac``, or else the best way that
                the field supports.
        """
        super().__init__(derivative)
        self._newton = NewtonSettings() if newton is None else newton

    def for_tolerance(self, rtol: float, atol: float | Tensor) -> Self:
        """The same method with an iteration as exact as these tolerances ask for, unless it was given its own."""
        if self._newton.rtol is not None:
            return self
        adapted = copy.copy(self)
        adapted._newton = self._newton.with_tolerance(rtol, atol)
        return adapted

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> ESDIRKCarry:
        """The slope at the start, and how the field can be differentiated."""
        linearizer, slope = Linearizer.probe(problem, t0, y0, self._derivative, rate=False)
        return ESDIRKCarry(linearizer, slope, self._unmeasured(y0))

    def initial_slope(self, carry: ESDIRKCarry) -> Tensor:
        """The slope at the start."""
        return carry.slope

    def radius(self, carry: ESDIRKCarry) -> Tensor:
        """See the base class."""
        assert carry.radius is not None
        return carry.radius

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: ESDIRKCarry) -> StepResult:
        """Advance by one step; see the base class."""
        rows, dt = RealRows(y0), t1 - t0
        start = rows.flatten(y0)
        h = expand_like(dt, start).to(start.dtype)
        first = h * rows.flatten(carry.slope)
        scaled = h * self.tableau.gamma
        setting = _Setting(problem, rows, carry.linearizer, self._times(t0, t1), scaled)
        with torch.no_grad():
            local = carry.linearizer.evaluate(problem, t0, y0.detach(), rows)
            factors = setting.factorize(local)
            state, rises, error = self._solve(setting, factors, start.detach(), first.detach())
            if self.tableau.filtered:
                error = factors.solve(error)
        y1, nfe, jacobians = state.point, local.nfe + state.nfe, 1 + state.jacobians
        if torch.is_grad_enabled() and (start.requires_grad or first.requires_grad):
            y1, rises, work = self._attach(setting, start, first, rises)
            nfe, jacobians = nfe + work, jacobians + len(rises) - 1
        # A step of no length, of a sample that is done, has no slope.
        slope = rises[-1] / torch.where(h == 0, 1.0, h)
        return StepResult(
            rows.restore(y1),
            rows.restore(error),
            ESDIRKCarry(carry.linearizer, rows.restore(slope), self._measured(local.jacobian)),
            nfe,
            CubicInterpolant(rows, start, y1, rises[0], rises[-1]),
            state.failed,
            jacobians=jacobians,
            factorizations=jacobians,
        )

    def _times(self, t0: Tensor, t1: Tensor) -> list[Tensor]:
        """Of each stage."""
        dt = t1 - t0
        return [t1 if node == 1 else torch.add(t0, dt, alpha=node) for node in self.tableau.c]

    def _solve(
        self, setting: _Setting, factors: AbstractFactors, start: Tensor, first: Tensor
    ) -> tuple[NewtonState, list[Tensor], Tensor]:
        """Iterate for each stage: the last stage, the rises ``h k_i``, and the error estimate."""
        weights, gamma, rises = _weights(self.tableau, start.dtype, start.device), self.tableau.gamma, [first]
        tightness = self._newton.tightness(start, setting.rows)
        state = NewtonState.start(start)
        # First guesses, sums Σ a_ij h k_j and the error are accumulated all at once, as each rise becomes known.
        sums = torch.addcmul(weights.starts * start, weights.columns[0], first)
        for stage, time in enumerate(setting.times[1:], 1):
            equation = setting.equation(time, sums[1])
            before, state = state, state.solve(equation, factors, sums[0], tightness, self._newton)
            if self._newton.rtol is None and state.failed is not None and bool(state.failed.any()):
                # On a grid the step cannot be made smaller.
                state = state.solve_again(
                    before, equation, functools.partial(setting.factorize_at, time), tightness, self._newton
                )
            rises.append(state.displacement / gamma)
            sums = sums[2:].addcmul_(weights.columns[stage], rises[-1])
        return state, rises, sums[0]

    def _attach(
        self, setting: _Setting, start: Tensor, first: Tensor, found: list[Tensor]
    ) -> tuple[Tensor, list[Tensor], int]:
        """The last stage and the rises with their derivatives, and the evaluations that this took."""
        table, rises, point, nfe = self.tableau, [first], start, 0
        for stage, time in enumerate(setting.times[1:], 1):
            base = _combine(table.a[stage], rises, start)
            equation = setting.equation(time, base)
            with torch.no_grad():
                displacement = table.gamma * found[stage]
                factors, cost = setting.factorize_at(time, base + displacement)
            point = base + displacement
            change = factors.solve(equation.residual(point, displacement))
            point = point + change
            rises.append((displacement + change) / table.gamma)
            nfe += cost + 1
        return point, rises, nfe


class Kvaerno3(AbstractESDIRK):
    """Kværnø's 3(2) method (2004), L-stable, three implicit stages: for loose tolerances."""

    tableau = KVAERNO3


class TRBDF2(AbstractESDIRK):
    """Trapezoidal rule and BDF2 in one step, 2(3), L-stable, two implicit stages (Bank et al., 1985)."""

    tableau = TR_BDF2


class KenCarp4(AbstractESDIRK):
    """The implicit half of Kennedy and Carpenter's 4(3) pair (2003), L-stable, five implicit stages."""

    tableau = KENCARP4


class Kvaerno5(AbstractESDIRK):
    """Kværnø's 5(4) method (2004), L-stable, six implicit stages: for stiff problems with expensive Jacobians."""

    tableau = KVAERNO5


class CubicInterpolant(AbstractInterpolant):
    """Cubic Hermite interpolant through both ends of a step, whose slopes are both stages; order 3.

    Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, section II.6, Eq. 6.7.
    """

    def __init__(self, rows: RealRows, y0: Tensor, y1: Tensor, rise0: Tensor, rise1: Tensor) -> None:
        """Keep what the cubic needs.

        Args:
            rows: layout of the states.
            y0: state at the start, shape (B, N).
            y1: state at the end.
            rise0: slope at the start times the step.
            rise1: slope at the end times the step.
        """
        self._rows, self._values = rows, (y0, y1, rise0, rise1)

    def evaluate(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """Evaluate the cubic."""
        y0, y1, rise0, rise1 = (value if rows is None else value.index_select(0, rows) for value in self._values)
        share = expand_like(theta, y0).to(y0.dtype)
        other = 1 - share
        bend = other * (rise0 - (y1 - y0)) - share * (rise1 - (y1 - y0))
        return self._rows.restore(other * y0 + share * y1 + share * other * bend)


class _Setting(NamedTuple):
    """What the stages of one step have in common; ``scaled`` is hγ, shape () or (B, 1)."""

    problem: AbstractProblem
    rows: RealRows
    linearizer: Linearizer
    times: list[Tensor]
    scaled: Tensor

    def factorize(self, local: Linearization) -> AbstractFactors:
        """``I - hγJ``."""
        return factorize(shifted(local.jacobian, self.scaled))

    def factorize_at(self, time: Tensor, point: Tensor) -> tuple[AbstractFactors, int]:
        """``I - hγJ`` with the Jacobian at another point, and the evaluations that it cost."""
        local = self.linearizer.evaluate(self.problem, time, self.rows.restore(point), self.rows)
        return self.factorize(local), local.nfe

    def equation(self, time: Tensor, base: Tensor) -> StageEquation:
        """Of one stage."""
        return StageEquation(self.problem, self.rows, time, base, self.scaled)


class _Weights(NamedTuple):
    """A tableau as tensors: accumulators that start at y0, and for each stage its coefficients in those still open."""

    starts: Tensor
    columns: tuple[Tensor, ...]


@kept(maxsize=64)
def _weights(table: ESDIRKTableau, dtype: torch.dtype, device: torch.device) -> _Weights:
    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]

    count = len(table.c)
    order: list[tuple[float, ...]] = []
    for stage, guess in enumerate(table.guesses, 1):
        row = table.a[stage]
        order.append(tuple(table.gamma * share for share in guess))
        order.append(row)
    order.append(table.error)
    columns = [column([row[stage] for row in order[2 * stage :]]) for stage in range(count)]
    return _Weights(column([0.0, 1.0] * len(table.guesses) + [0.0]), tuple(columns))


def _combine(weights: tuple[float, ...], rises: list[Tensor], start: Tensor) -> Tensor:
    total = start
    for weight, rise in zip(weights, rises, strict=True):
        if weight:
            total = torch.add(total, rise, alpha=weight)
    return total
