"""Second-order and separable Hamiltonian problems: position and velocity, or momentum, each drive only the other.

States are stacked: shape (B, 2, *event), positions first.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.problem import AbstractProblem, ODEProblem, Time, VectorField
from isocline.solvers.rows import select_rows

__all__ = ["AbstractSeparableProblem", "HamiltonianProblem", "SecondOrderProblem"]


class AbstractSeparableProblem(AbstractProblem):
    """``dx/dt = velocity(t, v)``, ``dv/dt = force(t, x) - friction v``.

    Attributes:
        friction: γ, one number, or a tensor that broadcasts to the event axes.
    """

    friction: float | Tensor

    @abstractmethod
    def force(self, t: Tensor, x: Tensor) -> Tensor:
        """Rate of change of v without friction, x and the result of shape (B, *event); one evaluation."""

    @abstractmethod
    def velocity(self, t: Tensor, v: Tensor) -> Tensor:
        """Rate of change of x; free."""

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """The whole field, for steppers that do not split it."""
        x, v = y.unbind(1)
        return torch.stack([self.velocity(t, v), self.force(t, x) - self.friction * v], 1)


@dataclasses.dataclass(frozen=True)
class SecondOrderProblem(AbstractSeparableProblem):
    """``d²x/dt² = acceleration(t, x, cond) - friction dx/dt``: with friction, a heavy ball.

    Attributes:
        acceleration: see `isocline.solvers.problem.VectorField`; must not depend on the velocity.
        x0: positions at ``t0``, shape (B, *event).
        v0: velocities there, likewise.
        t0: start; as in `isocline.solvers.ODEProblem`, like the others.
        t1: end.
        cond: handed to the acceleration.
        friction: γ, one number, or a tensor that broadcasts to the event axes.
        is_separable: whether samples may be integrated apart.

    Raises:
        TypeError: if ``x0`` is not a floating or complex tensor.
        ValueError: if ``x0``, ``v0`` and ``cond`` do not go together.
    """

    acceleration: VectorField
    x0: Tensor
    v0: Tensor
    t0: Time
    t1: Time
    cond: Any = None
    friction: float | Tensor = 0.0
    is_separable: bool = True

    def __post_init__(self) -> None:
        _check_pair("x0", self.x0, "v0", self.v0)
        # Made for its checks.
        ODEProblem(self.acceleration, self.x0, self.t0, self.t1, self.cond, self.is_separable)

    @property
    def start(self) -> Tensor:
        """Positions and velocities, shape (B, 2, *event)."""
        return torch.stack([self.x0, self.v0], 1)

    @property
    def separable(self) -> bool:
        """Whether finished samples may leave the batch."""
        return self.is_separable

    def force(self, t: Tensor, x: Tensor) -> Tensor:
        """The acceleration."""
        return self.acceleration(t, x, self.cond)

    def velocity(self, t: Tensor, v: Tensor) -> Tensor:
        """``v`` itself."""
        return v

    def at_rows(self, rows: Tensor) -> SecondOrderProblem:
        """The same equation for the samples ``rows``, an int64 tensor of shape (n,)."""
        x0, v0, t0, t1, cond = select_rows((self.x0, self.v0, self.t0, self.t1, self.cond), rows)
        return dataclasses.replace(self, x0=x0, v0=v0, t0=t0, t1=t1, cond=cond)


@dataclasses.dataclass(frozen=True)
class HamiltonianProblem(AbstractSeparableProblem):
    """``dq/dt = ∂T/∂p``, ``dp/dt = -∂V/∂q`` for the energy ``H = T(p) + V(q)``.

    Attributes:
        minus_potential_gradient: ``-∂V/∂q`` as a `isocline.solvers.problem.VectorField` of q.
        kinetic_gradient: ``∂T/∂p``, likewise of p; not counted as an evaluation.
        q0: positions at ``t0``, shape (B, *event).
        p0: momenta there, likewise.
        t0: start; as in `isocline.solvers.ODEProblem`, like the others.
        t1: end.
        cond: handed to both.
        friction: γ in ``dp/dt = -∂V/∂q - γ p``.
        is_separable: whether samples may be integrated apart.

    Raises:
        TypeError: if ``q0`` is not a floating or complex tensor.
        ValueError: if ``q0``, ``p0`` and ``cond`` do not go together.
    """

    minus_potential_gradient: VectorField
    kinetic_gradient: VectorField
    q0: Tensor
    p0: Tensor
    t0: Time
    t1: Time
    cond: Any = None
    friction: float | Tensor = 0.0
    is_separable: bool = True

    def __post_init__(self) -> None:
        _check_pair("q0", self.q0, "p0", self.p0)
        # Made for its checks.
        ODEProblem(self.kinetic_gradient, self.q0, self.t0, self.t1, self.cond, self.is_separable)

    @property
    def start(self) -> Tensor:
        """Positions and momenta, shape (B, 2, *event)."""
        return torch.stack([self.q0, self.p0], 1)

    @property
    def separable(self) -> bool:
        """Whether finished samples may leave the batch."""
        return self.is_separable

    def force(self, t: Tensor, x: Tensor) -> Tensor:
        """``-∂V/∂q``."""
        return self.minus_potential_gradient(t, x, self.cond)

    def velocity(self, t: Tensor, v: Tensor) -> Tensor:
        """``∂T/∂p``."""
        return self.kinetic_gradient(t, v, self.cond)

    def at_rows(self, rows: Tensor) -> HamiltonianProblem:
        """The same equation for the samples ``rows``, an int64 tensor of shape (n,)."""
        q0, p0, t0, t1, cond = select_rows((self.q0, self.p0, self.t0, self.t1, self.cond), rows)
        return dataclasses.replace(self, q0=q0, p0=p0, t0=t0, t1=t1, cond=cond)


def _check_pair(first: str, x: Tensor, second: str, v: Tensor) -> None:
    if x.shape != v.shape or x.dtype != v.dtype:
        raise ValueError(
            f"{second} has shape {tuple(v.shape)} and dtype {v.dtype}, {first} has {tuple(x.shape)} and {x.dtype}; "
            "make them the same"
        )
