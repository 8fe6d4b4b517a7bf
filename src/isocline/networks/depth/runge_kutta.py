"""Runge–Kutta steps in depth: every stage evaluates the same block, so that order costs evaluations, not weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isocline.networks.depth.block import Branch, ResidualBlock
from isocline.networks.depth.integrator import AbstractBlockwise, DepthStep
from isocline.solvers.explicit import AbstractRungeKutta
from isocline.solvers.tableau import Tableau

__all__ = [
    "AbstractStaged",
    "LearnedRungeKutta",
    "RungeKutta",
    "combine",
    "explicit_step",
    "stage_slopes",
    "stage_weights",
]


def combine(x: Tensor, weights: Sequence[float] | Tensor, slopes: Sequence[Tensor]) -> Tensor:
    """``x + Σ w_i k_i``; numbers that are zero cost nothing, a tensor ``(S,)`` is differentiated."""
    if isinstance(weights, Tensor):
        for weight, slope in zip(weights, slopes, strict=True):
            x = x + weight * slope
        return x
    for number, slope in zip(weights, slopes, strict=True):
        if number:
            x = torch.add(x, slope, alpha=number)
    return x


def stage_weights(table: Tableau) -> tuple[float, ...]:
    """The weights b of the stages that a lone step needs: the slope at its end, of weight zero, is left out."""
    return table.b[:-1] if table.first_same_as_last else table.b


def stage_slopes(table: Tableau, field: Branch, x: Tensor, length: float = 1.0) -> list[Tensor]:
    """The slopes ``k_i = F(x + h Σ_j a_ij k_j)`` of the stages that `stage_weights` names."""
    slopes: list[Tensor] = []
    for row in table.a[: len(stage_weights(table))]:
        slopes.append(field(combine(x, [length * number for number in row], slopes)))
    return slopes


def explicit_step(table: Tableau, field: Branch, x: Tensor, length: float = 1.0) -> Tensor:
    """One step of an explicit method on a field that does not depend on time.

    Args:
        table: the method.
        field: F.
        x: state, ``(B, L, D)``.
        length: of the step, h.
    """
    weights = [length * number for number in stage_weights(table)]
    return combine(x, weights, stage_slopes(table, field, x, length))


class AbstractStaged(AbstractBlockwise):
    """A step made of the stages of a Runge–Kutta method, all of them of one block.

    Args:
        depth: number of blocks.
        width: of the states D.
        stepper: the method of the solver core whose tableau is used.
    """

    def __init__(self, depth: int, width: int, stepper: AbstractRungeKutta) -> None:
        super().__init__(depth, width)
        self.table = stepper.tableau


class RungeKutta(AbstractStaged):
    """``x_{l+1} = x_l + Σ_i γ_i F_i``, ``F_i = F(x_l + Σ_j a_ij F_j; θ_l)``: θ_l is shared by the stages of block l.

    Source: Li et al., ODE Transformer: an ordinary differential equation-inspired model for sequence generation (2022);
    Xiao et al., Ordinary differential equations in vision and language (2026), Eqs. 38–41.
    """

    def step(self, layer: int, block: ResidualBlock, x: Tensor, c: Tensor | None, carry: Any) -> DepthStep:
        """See the base class."""
        return DepthStep(explicit_step(self.table, block.branches(c).field, x))


class LearnedRungeKutta(AbstractStaged):
    """As `RungeKutta`, with weights γ_i of the stages that each block learns, from the tableau's as a start.

    What a stage looks at (the a_ij) stays the tableau's. Nothing keeps Σ γ_i at one: a block may learn its own length
    of step.

    Source: Li et al., ODE Transformer (2022); Xiao et al. (2026), Eqs. 42–43.

    Args:
        depth: number of blocks.
        width: of the states D.
        stepper: the method of the solver core that is learned from.
    """

    def __init__(self, depth: int, width: int, stepper: AbstractRungeKutta) -> None:
        super().__init__(depth, width, stepper)
        self.weights = nn.Parameter(torch.tensor(stage_weights(self.table)).repeat(depth, 1))

    def step(self, layer: int, block: ResidualBlock, x: Tensor, c: Tensor | None, carry: Any) -> DepthStep:
        """See the base class."""
        return DepthStep(combine(x, self.weights[layer], stage_slopes(self.table, block.branches(c).field, x)))
