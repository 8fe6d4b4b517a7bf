"""Continuous depth: one block for all depths, integrated by a solver."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from isocline.networks.depth.block import Branch, ResidualBlock
from isocline.networks.depth.integrator import AbstractDepthIntegrator
from isocline.shapes import expand_like
from isocline.solvers.controller import AbstractController, PIDController, root_mean_square
from isocline.solvers.gradient import AbstractGradient
from isocline.solvers.loop import solve_strict
from isocline.solvers.problem import ODEProblem
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper

__all__ = ["Continuous", "TiedField", "first_position"]


_END = SaveAt()


class TiedField(nn.Module):
    """``F(t, x) = F(x + s u₁ + s² u₂; θ)``, s = t / depth: one block, told its depth by a shift of what it reads."""

    def __init__(self, block: ResidualBlock, shift: nn.Parameter, depth: int) -> None:
        super().__init__()
        self.block, self.shift, self.depth = block, shift, depth

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """The slope at depth ``t`` ``()`` or ``(B,)`` and ``x`` ``(B, L, D)`` under the condition ``(B, D)``."""
        s = expand_like(t / self.depth, x).to(x.dtype)
        return self.block.branches(cond).field(x + s * (self.shift[0] + s * self.shift[1]))


def _slope(field: TiedField, t: float, c: Tensor | None, x: Tensor) -> Tensor:
    slope: Tensor = field(torch.tensor(t, dtype=torch.float64, device=x.device), x, c)
    return slope


def first_position(scaled: Tensor) -> Tensor:
    """Root mean square of a sequence's first position alone, ``(B, L, D)`` to ``(B,)``."""
    return root_mean_square(scaled[:, 0])


class Continuous(AbstractDepthIntegrator):
    """``dx/dt = F(t, x)`` from t = 0 to t = depth with the weights of one block; `TiedField` says how it knows t.

    With `Euler` of the solver core and `ConstantSteps` of ``depth`` steps it is a Transformer whose layers share their
    weights. Adaptive steps are each sequence's own. In a causal network they follow the first position alone: steps
    that followed all would let later tokens act on earlier ones, by as much as the tolerance. The first position of an
    autoregressive network is fed the same token always, so that all sequences are solved in the same steps, and
    what the tolerance promises, it promises for that position.

    Source: Chen et al., Neural ordinary differential equations (2018); Xiao et al., Ordinary differential equations in
    vision and language (2026), Eqs. 50–64.

    Args:
        depth: length of the integration; one is what an ordinary block spans.
        width: of the states D.
        stepper: the method.
        controller: its steps.
        gradient: how the solve is differentiated; None is backpropagation through its steps.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        stepper: AbstractStepper,
        controller: AbstractController,
        gradient: AbstractGradient | None = None,
    ) -> None:
        super().__init__(depth, width)
        self.shift = nn.Parameter(torch.zeros(2, width))
        self.stepper, self.controller, self.gradient = stepper, controller, gradient

    @property
    def blocks(self) -> int:
        """One."""
        return 1

    def fields(self, blocks: Iterable[ResidualBlock], c: Tensor | None) -> list[Branch]:
        """The field at the beginning of each layer, t = 0, 1, …"""
        (block,) = blocks
        field = TiedField(block, self.shift, self.depth)
        return [functools.partial(_slope, field, float(t), c) for t in range(self.depth)]

    def solution(self, blocks: Iterable[ResidualBlock], x: Tensor, c: Tensor | None, saveat: SaveAt = _END) -> Solution:
        """Integrate; the statistics say how many evaluations each sequence took.

        Args:
            blocks: the one block.
            x: state at t = 0, ``(B, L, D)``.
            c: condition ``(B, D)`` or None.
            saveat: states wanted; the end alone by default.

        Raises:
            SolverError: if a sequence does not reach the end.
        """
        (block,) = blocks
        controller = self.controller
        attention = getattr(block, "attention", None)
        if getattr(attention, "causal", False) and isinstance(controller, PIDController):
            controller = dataclasses.replace(controller, norm=first_position)
        problem = ODEProblem(TiedField(block, self.shift, self.depth), x, 0.0, float(self.depth), c)
        return solve_strict(problem, self.stepper, controller, saveat, gradient=self.gradient)

    def trajectory(self, blocks: Iterable[ResidualBlock], x: Tensor, c: Tensor | None) -> Iterator[Tensor]:
        """See the base class; states at t = 1, 2, …, from the solver's dense output."""
        times = torch.arange(1, self.depth + 1, dtype=torch.float64)
        yield from self.solution(blocks, x, c, SaveAt(ts=times)).ys

    def forward(self, blocks: Iterable[ResidualBlock], x: Tensor, c: Tensor | None) -> Tensor:
        """See the base class."""
        return self.solution(blocks, x, c).final
