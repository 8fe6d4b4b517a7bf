"""Implicit Euler in depth, by a fixed number of fixed-point iterations per block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from isocline.networks.depth.block import ResidualBlock
from isocline.networks.depth.integrator import AbstractBlockwise, DepthStep
from isocline.solvers.stage_solvers import FixedPoint

__all__ = ["ImplicitEuler"]


class ImplicitEuler(AbstractBlockwise):
    """``x_{l+1} = x_l + F_l(x_{l+1})``, by r iterations ``x⁽ᵏ⁾ = x_l + F_l(x⁽ᵏ⁻¹⁾)`` from ``x⁽⁰⁾ = x_l``.

    One iteration is Euler's step. They converge where F_l contracts; backpropagation goes through them.

    Source: Liu et al., IIET: efficient numerical Transformer via implicit iterative Euler method (2025); Xiao et al.
    (2026), Eqs. 46–47. The iteration is the solver core's `FixedPoint`.

    Args:
        depth: number of blocks.
        width: of the states D.
        iterations: r, one number for all blocks or one per block (see `isocline.networks.depth.iteration_pruning`).

    Raises:
        ValueError: if a number is below one, or there is not one per block.
    """

    def __init__(self, depth: int, width: int, iterations: int | Sequence[int] = 3) -> None:
        super().__init__(depth, width)
        counts = [iterations] * depth if isinstance(iterations, int) else list(iterations)
        if len(counts) != depth:
            raise ValueError(f"iterations = {counts}: one number or one per block is needed, and depth = {depth}")
        if min(counts) < 1:
            raise ValueError(f"iterations = {counts}: every block needs at least one, which is Euler's step")
        self.iterations = counts

    def step(self, layer: int, block: ResidualBlock, x: Tensor, c: Tensor | None, carry: Any) -> DepthStep:
        """See the base class."""
        field = block.branches(c).field

        def iterate(z: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
            return self.iterate(layer, field(x if z is None else x + z[0]), x, z)

        (rise,), _, _ = FixedPoint(self.iterations[layer]).iterate(iterate, None, x)
        return DepthStep(x + rise)

    def iterate(self, layer: int, slope: Tensor, x: Tensor, before: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """The next displacement from ``x``: the slope at the last one; told of every iteration."""
        return (slope,)
