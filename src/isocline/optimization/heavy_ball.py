"""The heavy ball: momentum as a splitting method on a second-order equation with friction."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.optimization.base import AbstractFlowOptimizer, Parameters
from isocline.optimization.flat_parameters import FlatParameters, LossGradient
from isocline.optimization.gradient_flow import descent
from isocline.solvers.separable import HamiltonianProblem
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.symplectic import SymplecticEuler

__all__ = ["BallConstants", "HeavyBall", "ball_constants", "ball_problem"]


class BallConstants(NamedTuple):
    """The equation ``θ'' + γ θ' = -∇L(θ)`` behind momentum, and the step that makes them one.

    Attributes:
        step: h, the step in the ball's time.
        friction: γ.
    """

    step: float
    friction: float

    @property
    def critical_curvature(self) -> float:
        """γ²/4: the ball swings where the curvature is larger, and creeps where it is smaller."""
        return self.friction**2 / 4


def ball_constants(lr: float, momentum: float) -> BallConstants:
    """The equation that momentum integrates: ``exp(-γ h) = momentum``, ``h² φ_1(-γ h) = lr``.

    With symplectic Euler, whose kick takes friction exactly, the increments obey ``Δ_{n+1} = momentum Δ_n - lr ∇L``.

    Args:
        lr: η, above zero.
        momentum: β, between 0 and 1.

    Raises:
        ValueError: if a value is out of range.
    """
    if not (lr > 0 and 0 < momentum < 1):
        raise ValueError(f"lr={lr}, momentum={momentum}; give lr > 0 and 0 < momentum < 1")
    loss = -math.log(momentum)
    step = math.sqrt(lr * loss / (1 - momentum))
    return BallConstants(step, loss / step)


class HeavyBall(AbstractFlowOptimizer):
    """``θ'' + γ θ' = -∇L(θ) - w θ`` by symplectic Euler: Polyak's heavy ball, `torch.optim.SGD` with momentum.

    ``p ← β p - (∇L + w θ)``, ``θ ← θ + η p``: friction and force kick the momentum, with friction taken exactly, then
    the ball drifts. η and β fix the step and the friction of the equation (`ball_constants`), ``lr`` and the momenta
    being those of torch, so that a schedule of ``lr`` means the same. Stable for ``η λ_max < 2 (1 + β)``.

    Attributes:
        stepper: a splitting method; `isocline.solvers.Leapfrog` is of order 2 in the ball's time, and needs a closure.

    Source: Polyak, Some methods of speeding up the convergence of iteration methods (1964); Bhatt, Floyd, Moore,
    Second order conformal symplectic schemes for damped Hamiltonian systems (2016).
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        stepper: AbstractStepper | None = None,
    ) -> None:
        """Take the constants in torch's terms.

        Args:
            params: parameters or groups of them.
            lr: η.
            momentum: β, between 0 and 1.
            weight_decay: w, part of the force.
            stepper: symplectic Euler by default.

        Raises:
            ValueError: if a value is out of range.
        """
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.stepper = SymplecticEuler() if stepper is None else stepper

    def advance(self, flat: FlatParameters, gradient: LossGradient, start: Tensor) -> Tensor:
        """One step of unit length; the momentum buffer is torch's, minus ``p``."""
        kept = flat.load(self.state, "momentum_buffer")
        momenta = torch.zeros_like(start) if kept is None else -kept[None]
        friction = friction_of(flat.value("momentum"))
        problem = ball_problem(flat, gradient, start, momenta, friction)
        t0, t1 = torch.tensor([0.0, 1.0], dtype=torch.float64, device=start.device).unbind(0)
        state = problem.start
        result = self.stepper.step(problem, t0, t1, state, self.stepper.init(problem, t0, state))
        flat.store(self.state, "momentum_buffer", -result.y1[0, 1])
        return result.y1[:, 0]


def friction_of(momentum: float | Tensor) -> float | Tensor:
    """Friction over a step of unit length, ``-ln momentum``."""
    return -momentum.log() if isinstance(momentum, Tensor) else -math.log(momentum)


def ball_problem(
    flat: FlatParameters, gradient: LossGradient, start: Tensor, momenta: Tensor, friction: float | Tensor
) -> HamiltonianProblem:
    """``dθ/dt = η p``, ``dp/dt = -(∇L + w θ) / φ_1(-γ) - γ p`` over a unit of time, for a kick of ``-(∇L + w θ)``.

    Args:
        flat: the parameters, for η and w.
        gradient: of the loss.
        start: θ, shape (1, n).
        momenta: p, likewise.
        friction: γ; zero for none.
    """
    rate = flat.value("lr")
    # 1 / φ_1(-γ) = γ / (1 - exp(-γ)): a kick of friction and force together then is β p + force.
    if isinstance(friction, Tensor):
        force: float | Tensor = friction / -torch.expm1(-friction)
    else:
        force = friction / -math.expm1(-friction) if friction else 1.0
    return HamiltonianProblem(
        descent(gradient, force, flat.value("weight_decay")),
        lambda t, p, cond: rate * p,
        start,
        momenta,
        0.0,
        1.0,
        friction=friction,
    )
