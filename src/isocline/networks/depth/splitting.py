"""Splitting steps in depth: the field is A + M, and each part takes its own sub-steps, or both are taken at once."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from isocline.networks.depth.block import ResidualBlock
from isocline.networks.depth.integrator import AbstractBlockwise, DepthStep
from isocline.networks.depth.runge_kutta import explicit_step
from isocline.solvers import explicit
from isocline.solvers.explicit import AbstractRungeKutta

__all__ = ["Macaron", "MlpFirst", "Parallel", "Strang"]


class MlpFirst(AbstractBlockwise):
    """Lie and Trotter's splitting in the other order: ``y = x + M(x)``, then ``x_{l+1} = y + A(y)``; order 1.

    Attention first is `isocline.networks.depth.euler.Euler`, the ordinary block.

    Source: Lu et al., Understanding and improving Transformer from a multi-particle dynamic system point of view
    (2019), for the reading as a splitting; Xiao et al. (2026), Eqs. 33–34.
    """

    def step(self, layer: int, block: ResidualBlock, x: Tensor, c: Tensor | None, carry: Any) -> DepthStep:
        """See the base class."""
        part = block.branches(c)
        x = x + part.mlp(x)
        return DepthStep(x + part.attention(x))


class Parallel(AbstractBlockwise):
    """No splitting: Euler's step of A + M, both at one input: ``x_{l+1} = x_l + A(x_l) + M(x_l)``; order 1.

    Source: Wang and Komatsuzaki, GPT-J (2021), for its use; Xiao et al. (2026), Eq. 32.
    """

    def step(self, layer: int, block: ResidualBlock, x: Tensor, c: Tensor | None, carry: Any) -> DepthStep:
        """See the base class."""
        part = block.branches(c)
        return DepthStep(x + part.attention(x) + part.mlp(x))


class Strang(AbstractBlockwise):
    """Half a step of M, a whole one of A, half a step of M, with the same weights in both halves.

    Order 2 as a splitting. The whole is of that order only if the sub-steps are: with Euler's sub-steps, which are what
    a Macaron block has, it is where Euler's step is exact for each part (a part that does not change what it reads),
    and of order 1 otherwise. ``stepper`` gives the sub-steps another method.

    Source: Strang, On the construction and comparison of difference schemes (1968); Lu et al. (2019); Xiao et al.
    (2026), Eqs. 35–37.

    Args:
        depth: number of blocks.
        width: of the states D.
        stepper: method of the sub-steps; Euler's by default.
    """

    def __init__(self, depth: int, width: int, stepper: AbstractRungeKutta | None = None) -> None:
        super().__init__(depth, width)
        self.table = (explicit.Euler() if stepper is None else stepper).tableau

    def step(self, layer: int, block: ResidualBlock, x: Tensor, c: Tensor | None, carry: Any) -> DepthStep:
        """See the base class."""
        part, table = block.branches(c), self.table
        x = explicit_step(table, part.mlp, x, 0.5)
        x = explicit_step(table, part.attention, x)
        return DepthStep(explicit_step(table, part.mlp, x, 0.5))


class Macaron(AbstractBlockwise):
    """``½M → A → ½M`` with weights of their own in each half: ``M₁``, A, ``M₂``.

    The halves are the two halves of the block's hidden units, so that parameters and operations are those of the
    ordinary block, as Lu et al. halve the width of each. They share the normalisation and the bias at the end, which
    in Lu et al. they do not.

    Source: Lu et al., Understanding and improving Transformer from a multi-particle dynamic system point of view
    (2019); Xiao et al. (2026), Eqs. 35–37.
    """

    def step(self, layer: int, block: ResidualBlock, x: Tensor, c: Tensor | None, carry: Any) -> DepthStep:
        """See the base class."""
        part = block.branches(c)
        first, second = part.mlp_halves
        x = x + first(x)
        x = x + part.attention(x)
        return DepthStep(x + second(x))
