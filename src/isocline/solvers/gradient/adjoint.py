"""The continuous adjoint: an equation for the cotangent of the state, solved backward in time.

With ``dy/dt = f(t, y, θ)`` and the cotangent ``a(t) = ∂L/∂y(t)``:

    da/dt = -(∂f/∂y)ᵀ a,    ∂L/∂θ = ∫ (∂f/∂θ)ᵀ a dt from t0 to t1.

Source: Chen, Rubanova, Bettencourt, Duvenaud, Neural ordinary differential equations (2018), section 2 and appendix B.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.explicit import Tsit5
from isocline.solvers.gradient import trees
from isocline.solvers.gradient.inputs import Inputs, with_start
from isocline.solvers.gradient.pull import Total
from isocline.solvers.kept import kept
from isocline.solvers.problem import AbstractProblem, MarkovProblem, ODEProblem, SDEProblem
from isocline.solvers.rows import select_rows
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.tape import AbstractTape, Saved, StepRecord

__all__ = ["AbstractAdjointSystem", "AdjointWarning", "ParameterQuadrature", "Slope", "slope_of", "way_back"]

Slope: TypeAlias = Callable[[Tensor, Tensor, Any], Tensor]
"""``f(t, y, cond)`` for any samples."""


class AdjointWarning(UserWarning):
    """A continuous adjoint is not to be trusted."""


def slope_of(problem: AbstractProblem) -> Slope:
    """The field of an equation as a function of ``cond`` too.

    Raises:
        ValueError: if the problem is not an ordinary differential equation.
    """
    if isinstance(problem, SDEProblem | MarkovProblem):
        raise ValueError(
            f"a continuous adjoint needs an ordinary differential equation, not a {type(problem).__name__}; take "
            "Backpropagation() or DiscreteAdjoint()"
        )
    if isinstance(problem, ODEProblem):
        return problem.field

    def slope(t: Tensor, y: Tensor, cond: Any) -> Tensor:
        return with_start(problem, y, cond, t0=0.0, t1=0.0).evaluate(t, y)

    return slope


def way_back(problem: AbstractProblem, stepper: AbstractStepper, given: AbstractStepper | None) -> AbstractStepper:
    """The stepper of the adjoint equation: the one given, or the forward one if it takes every equation."""
    return given or (stepper if isinstance(problem, ODEProblem) else Tsit5())


class AbstractAdjointSystem(ABC):
    """The equation that is solved backward, for each sample by itself.

    Attributes:
        problem: the forward equation, detached.
        slope: its field.
    """

    def __init__(self, problem: AbstractProblem) -> None:
        """Take the forward equation, detached."""
        self.problem, self.slope = problem, slope_of(problem)

    @abstractmethod
    def begin(self, y: Tensor, a: Tensor) -> Tensor:
        """The state of this equation from the forward state and its cotangent."""

    @abstractmethod
    def split(self, t: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Forward state and cotangent from the state of this equation.

        Args:
            t: shape () or (n,).
            z: states, n of them.
            rows: the samples' places in the full batch.
        """

    @abstractmethod
    def join(self, slope: Tensor, product: Tensor) -> Tensor:
        """The slope of this equation from that of the state and from ``(∂f/∂y)ᵀ a``."""

    def equation(self, y: Tensor, a: Tensor, t1: Tensor, t0: Tensor, rows: Tensor) -> ODEProblem:
        """Backward from ``t1`` to ``t0`` for the samples ``rows``; states and times are theirs."""
        whole = len(rows) == len(self.problem.start)
        cond = self.problem.cond if whole else select_rows(self.problem.cond, rows)
        return ODEProblem(self.field, self.begin(y, a), t1, t0, (rows, cond), self.problem.separable)

    def field(self, t: Tensor, z: Tensor, known: tuple[Tensor, Any]) -> Tensor:
        """The slope of this equation; differentiable where gradients are recorded, for implicit steppers."""
        rows, cond = known
        recorded = torch.is_grad_enabled()
        y, a = self.split(t, z, rows)
        with torch.enable_grad():
            point = y if recorded and y.requires_grad else y.detach().requires_grad_()
            slope = self.slope(t, point, cond)
            if slope.requires_grad:
                product = torch.autograd.grad(slope, point, a, create_graph=recorded, allow_unused=True)[0]
            else:
                product = None
        if product is None:
            product = torch.zeros_like(a)
        return self.join(slope if recorded else slope.detach(), product)


class ParameterQuadrature(AbstractTape):
    """``∂L/∂θ = ∫ (∂f/∂θ)ᵀ a dt`` over every accepted step, by Gauss–Legendre quadrature on the step's dense output.

    The parameters' part is no unknown of the equation: each accepted step adds its share, with each sample's own step
    size in its cotangent. It takes no part in the error norm, so the seminorm of Kidger, Chen, Lyons, "Hey, that's not
    an ODE": faster ODE adjoints via seminorms (2021), is built in; samples keep clocks of their own; and rejected steps
    cost no gradient of parameters.

    Source: Norcliffe, Deisenroth, Faster training of neural ODEs using Gauß–Legendre quadrature (2023).
    """

    def __init__(self, system: AbstractAdjointSystem, inputs: Inputs, order: float) -> None:
        """Begin with zero.

        Args:
            system: the equation whose steps are told.
            inputs: what to differentiate by.
            order: of the stepper; the quadrature's is no lower.
        """
        self._system, self._inputs = system, inputs
        tensors = trees.flatten(system.problem.cond)
        self.cond = [torch.zeros_like(tensors[place]) for place in inputs.places]
        self.total = Total(len(inputs.parameters))
        self._count = min(max(math.ceil(order / 2), 1), 5)
        self.scale: Tensor | None = None

    @property
    def needed(self) -> bool:
        """Whether there is anything to differentiate by."""
        return bool(self.cond or self.total.values)

    def start(self, problem: AbstractProblem, stepper: AbstractStepper, t0: Tensor, saved: tuple[Saved, ...]) -> None:
        """Nothing happens at the start."""

    def step(self, record: StepRecord) -> None:
        """Add a step's share.

        Raises:
            ValueError: if the stepper has no dense output.
        """
        if record.dense is None:
            raise ValueError("a continuous adjoint needs a stepper with dense output; take Tsit5, Dopri5 or RK4")
        nodes, weights = _gauss(self._count, record.y0.device)
        if not record.problem.separable:
            for node, weight in zip(nodes.unbind(0), weights.unbind(0), strict=True):
                self._add(record, node, weight, None)
            return
        size = len(record.y0)
        local = torch.arange(size, device=nodes.device) if record.accept is None else record.accept.nonzero().flatten()
        count = len(local)
        if count:
            self._add(
                record, nodes.repeat_interleave(count), weights.repeat_interleave(count), local.repeat(self._count)
            )

    def _add(self, record: StepRecord, theta: Tensor, weight: Tensor, local: Tensor | None) -> None:
        assert record.dense is not None
        system = self._system
        known = record.problem.cond if local is None else select_rows(record.problem.cond, local)
        rows, cond = known
        t0, t1 = (time[local] if local is not None and time.ndim else time for time in (record.t0, record.t1))
        t = t0 + theta * (t1 - t0)
        with torch.no_grad():
            y, a = system.split(t, record.dense.evaluate(theta, local), rows)
            share = (t0 - t1) * weight
            if self.scale is not None:
                share = share * self.scale[rows]
            if local is None and record.accept is not None:
                share = torch.where(record.accept, share, 0.0)
            cotangent = a * expand_like(share, a).to(a.dtype)
        found = self.products(t, y, cond, cotangent)
        for total, gradient in zip(self.cond, found[: len(self.cond)], strict=True):
            if gradient is not None:
                if total.ndim and local is not None:
                    total.index_add_(0, rows, gradient)
                else:
                    total += gradient
        self.total.add(found[len(self.cond) :])

    def products(self, t: Tensor, y: Tensor, cond: Any, cotangent: Tensor) -> Sequence[Tensor | None]:
        """``(∂f/∂θ)ᵀ`` times a cotangent, for the tensors of ``cond`` and the parameters."""
        tensors = trees.flatten(cond)
        leaves = []
        for place in self._inputs.places:
            tensors[place] = tensors[place].detach().requires_grad_()
            leaves.append(tensors[place])
        wanted = (*leaves, *self._inputs.parameters)
        with torch.enable_grad():
            slope = self._system.slope(t, y.detach(), trees.replace(cond, tensors) if leaves else cond)
        if not slope.requires_grad:
            return [None] * len(wanted)
        return torch.autograd.grad(slope, wanted, cotangent, allow_unused=True)


@kept(maxsize=32)
def _gauss(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Nodes and weights of Gauss–Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (
        torch.tensor(0.5 * (nodes + 1), dtype=torch.float64, device=device),
        torch.tensor(0.5 * weights, dtype=torch.float64, device=device),
    )
