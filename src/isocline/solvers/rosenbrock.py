"""Rosenbrock steppers for stiff problems: linearly implicit, no iteration; each is a tableau."""

from __future__ import annotations

import functools
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.dense import AbstractInterpolant
from isocline.solvers.jacobian import Derivative, Linearizer, RealRows
from isocline.solvers.kept import kept
from isocline.solvers.linear import AbstractFactors, factorize, shifted
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.refinement import RefinedFactors
from isocline.solvers.rosenbrock_tableaus import RODAS3P, RODAS4, RODAS5P, RosenbrockTableau
from isocline.solvers.stepper import StepResult
from isocline.solvers.stiff import AbstractStiffStepper

__all__ = ["AbstractRosenbrock", "Rodas3P", "Rodas4", "Rodas5P"]


class RosenbrockCarry(NamedTuple):
    """What a Rosenbrock step hands to the next.

    Attributes:
        linearizer: how the field is differentiated.
        slope: at the start of the solve, shape (B, *event).
        radius: bound of the Jacobian's spectral radius, shape (B,); None unless the stepper measures it.
    """

    linearizer: Linearizer
    slope: Tensor
    radius: Tensor | None


class AbstractRosenbrock(AbstractStiffStepper):
    """One step of a Rosenbrock method (formula at `isocline.solvers.rosenbrock_tableaus.RosenbrockTableau`).

    A step costs one Jacobian, one factorization and as many evaluations and solves as there are stages. The methods
    are exact in the Jacobian only: with approximate ones (differences in float32, fields that mix samples) the order
    drops, and an ESDIRK method is the better choice. Differentiated through the Jacobian, so that gradients are those
    of the computed step.

    Attributes:
        tableau: the coefficients.
    """

    tableau: ClassVar[RosenbrockTableau]
    init_nfe = 2

    def __init_subclass__(cls) -> None:
        """Derive the counts from the tableau."""
        table = cls.tableau
        cls.order = table.order
        cls.error_order = table.error_order
        cls.nfe_per_step = sum(not table.repeats_first_slope(stage) for stage in range(1, len(table.b))) + 1

    def __init__(self, derivative: Derivative | None = None, refinements: int = 0) -> None:
        """Choose how the field is differentiated, and how exactly stages are solved.

        Args:
            derivative: None takes the problem's ``jac``, or else the best way that the field supports.
            refinements: corrections of each stage by the field's own product with the Jacobian, one evaluation each
                (see `isocline.solvers.refinement`). Two keep the digits of species many orders smaller than those
                they depend on; of no use elsewhere. Not for compiled steps.

        Raises:
            ValueError: if ``refinements`` is negative.
        """
        super().__init__(derivative)
        if refinements < 0:
            raise ValueError(f"refinements={refinements}; expected 0 or more, usually 0 or 2")
        self._refinements, self.compiles = refinements, not refinements

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> RosenbrockCarry:
        """Find out how the field can be differentiated.

        Raises:
            ValueError: if stages are to be refined and the field has no derivatives by dual numbers.
        """
        linearizer, slope = Linearizer.probe(problem, t0, y0, self._derivative)
        if self._refinements and linearizer.derivative is not Derivative.DUAL:
            raise ValueError(
                f"refinements={self._refinements} needs dual numbers, and the field's derivatives are found by "
                f"{linearizer.derivative}; leave refinements out, or take an ESDIRK method such as Kvaerno5"
            )
        return RosenbrockCarry(linearizer, slope, self._unmeasured(y0))

    def initial_slope(self, carry: RosenbrockCarry) -> Tensor:
        """Evaluated by `init`."""
        return carry.slope

    def radius(self, carry: RosenbrockCarry) -> Tensor:
        """See the base class."""
        assert carry.radius is not None
        return carry.radius

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: RosenbrockCarry) -> StepResult:
        """Advance by one step; see the base class."""
        table, rows, dt = self.tableau, RealRows(y0), t1 - t0
        start = rows.flatten(y0)
        local = carry.linearizer.evaluate(problem, t0, y0, rows, dt)
        weights = _weights(table, start.dtype, start.device)
        h = expand_like(dt, start).to(start.dtype)
        scaled = h * table.gamma
        factors = self._factorize(problem, t0, y0, carry.linearizer, local.jacobian, scaled)
        # Stage points, sums Σ γ c_ij u_j, end and error are accumulated all at once, as each u_j becomes known.
        sums, right = weights.starts * start, scaled * local.value
        if local.rate is not None:
            drift = (scaled * h) * local.rate
            sums, right = torch.addcmul(sums, weights.rates, drift), torch.add(right, drift, alpha=table.rates[0])
        times = weights.times(t0, t1)
        views = sums.unbind(0)
        recorded, closed, stages = torch.is_grad_enabled(), 0, []
        for index, column in enumerate(weights.columns):
            if index:
                slope = local.value
                if not table.repeats_first_slope(index):
                    slope = rows.flatten(problem.evaluate(times[index], rows.restore(views[closed])))
                right = torch.addcmul(views[closed + 1], scaled, slope)
                closed += 2
            stages.append(factors.solve(right))
            if recorded:
                sums = torch.addcmul(sums[closed and 2 :], column, stages[-1])
                views = (*views[:closed], *sums.unbind(0))
            else:
                sums[closed:].addcmul_(column, stages[-1])
        y1, error = views[closed:]
        dense = RosenbrockInterpolant(table, rows, start, y1, tuple(stages))
        return StepResult(
            rows.restore(y1),
            rows.restore(error.detach()),
            RosenbrockCarry(carry.linearizer, carry.slope, self._measured(local.jacobian)),
            self.nfe_per_step - 1 + local.nfe + self._refinements * len(stages),
            dense,
            jacobians=1,
            factorizations=1,
        )

    def _factorize(
        self, problem: AbstractProblem, t0: Tensor, y0: Tensor, linearizer: Linearizer, jacobian: Tensor, scaled: Tensor
    ) -> AbstractFactors:
        factors = factorize(shifted(jacobian, scaled))
        if not self._refinements:
            return factors
        push = functools.partial(linearizer.push, problem, t0, y0, RealRows(y0))
        return RefinedFactors(factors, scaled, push, self._refinements)


class Rodas3P(AbstractRosenbrock):
    """Steinebach's 3(2) method (2024), L-stable, four evaluations: for loose tolerances; dense output of order 3."""

    tableau = RODAS3P


class Rodas4(AbstractRosenbrock):
    """Hairer and Wanner's 4(3) method (1996), L-stable, six evaluations; dense output of order 3."""

    tableau = RODAS4


class Rodas5P(AbstractRosenbrock):
    """Steinebach's 5(4) method (2023), L-stable, eight evaluations: the usual choice; dense output of order 4."""

    tableau = RODAS5P


class RosenbrockInterpolant(AbstractInterpolant):
    """Continuous extension of a Rosenbrock step (see `isocline.solvers.rosenbrock_tableaus.RosenbrockTableau`)."""

    def __init__(
        self, table: RosenbrockTableau, rows: RealRows, y0: Tensor, y1: Tensor, stages: tuple[Tensor, ...]
    ) -> None:
        """Keep what the extension needs.

        Args:
            table: the method.
            rows: layout of the states.
            y0: state at the start, shape (B, N).
            y1: state at the end.
            stages: the u_i.
        """
        self._table, self._rows, self._y0, self._y1, self._stages = table, rows, y0, y1, stages
        self._bends: list[Tensor] | None = None

    def evaluate(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """Evaluate the polynomial."""
        if self._bends is None:
            self._bends = [_combine(row, self._stages) for row in self._table.dense]
        y0, y1, *bends = (
            value if rows is None else value.index_select(0, rows) for value in (self._y0, self._y1, *self._bends)
        )
        share = expand_like(theta, y0).to(y0.dtype)
        bend = bends[-1]
        for lower in reversed(bends[:-1]):
            bend = lower + share * bend
        return self._rows.restore((1 - share) * y0 + share * (y1 + (1 - share) * bend))


class _Weights(NamedTuple):
    """A tableau as tensors.

    Attributes:
        starts: 1 for accumulators that start at y0, 0 for those that start at zero, shape (R, 1, 1).
        rates: their coefficients of ``γ h² f_t``.
        columns: for each stage its coefficients in the accumulators that are still open.
        nodes: float64.
        ends: for each stage whether it lies at the end of the step.
    """

    starts: Tensor
    rates: Tensor
    columns: tuple[Tensor, ...]
    nodes: Tensor
    ends: tuple[bool, ...]

    def times(self, t0: Tensor, t1: Tensor) -> list[Tensor]:
        """Of each stage."""
        dt = t1 - t0
        nodes = self.nodes if dt.ndim == 0 else self.nodes[:, None]
        times = torch.addcmul(t0, nodes, dt).unbind(0)
        return [t1 if at_end else time for at_end, time in zip(self.ends, times, strict=True)]


@kept(maxsize=64)
def _weights(table: RosenbrockTableau, dtype: torch.dtype, device: torch.device) -> _Weights:
    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]

    count = len(table.b)
    # Accumulators in the order in which they are closed: point and sum of each stage from the second on, end, error.
    order: list[tuple[tuple[float, ...], float]] = []
    for stage in range(1, count):
        order.append((table.a[stage], 1.0))
        order.append((tuple(table.gamma * value for value in table.c[stage]), 0.0))
    order += [(table.b, 1.0), (table.error, 0.0)]
    rates = [0.0] * len(order)
    rates[1 : 2 * (count - 1) : 2] = table.rates[1:]
    return _Weights(
        column([start for _, start in order]),
        column(rates),
        tuple(column([row[stage] for row, _ in order[2 * stage :]]) for stage in range(count)),
        torch.tensor(table.nodes, dtype=torch.float64, device=device),
        tuple(node == 1 for node in table.nodes),
    )


def _combine(weights: tuple[float, ...], stages: tuple[Tensor, ...]) -> Tensor:
    total = weights[0] * stages[0]
    for weight, stage in zip(weights[1:], stages[1:], strict=True):
        total = torch.add(total, stage, alpha=weight)
    return total
