"""Second order in depth: the blocks are forces, and the state has a velocity."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.networks.depth.block import ResidualBlock
from isocline.networks.depth.integrator import AbstractBlockwise, DepthStep
from isocline.solvers.symplectic import SplittingTableau

__all__ = ["POSITION_VERLET", "Leapfrog", "Phase"]

# Drift, kick, drift: the force is evaluated once a step, at its middle, whatever the next block's is.
POSITION_VERLET = SplittingTableau(order=2, kicks=(0.0, 1.0, 0.0), drifts=(1 / 2, 1 / 2))


class Phase(NamedTuple):
    """State of a second-order equation.

    Attributes:
        x: position, ``(B, L, D)``.
        v: velocity, likewise.
    """

    x: Tensor
    v: Tensor


class Leapfrog(AbstractBlockwise):
    """``x'' = F_l(x) − γ x'`` from rest, by leapfrog: ``x ← x + v/2``, ``v ← e^{−γ} v + φ F_l(x)``, ``x ← x + v/2``.

    φ = (1 − e^{−γ})/γ, or 1 without friction, where the map from layer to layer can be reversed and preserves volume
    in phase space. With friction it is the residual network with momentum e^{−γ}. One evaluation per block.

    Source: Sander et al., Momentum residual neural networks (2021); Haber and Ruthotto, Stable architectures for deep
    neural networks (2017); tableau of `isocline.solvers.symplectic`.

    Args:
        depth: number of blocks.
        width: of the states D.
        friction: γ per layer.

    Raises:
        ValueError: if ``friction`` is negative.
    """

    # Left out, a layer would still have moved the velocity.
    skippable = False

    def __init__(self, depth: int, width: int, friction: float = 0.0) -> None:
        super().__init__(depth, width)
        if friction < 0:
            raise ValueError(f"friction = {friction}: would drive the state; give zero or more")
        self.table = POSITION_VERLET
        self.friction = friction

    def init(self, x: Tensor) -> Any:
        """At rest."""
        return torch.zeros_like(x)

    def step(self, layer: int, block: ResidualBlock, x: Tensor, c: Tensor | None, carry: Any) -> DepthStep:
        """See the base class."""
        field = block.branches(c).field
        for kick, drift in zip(self.table.kicks, (*self.table.drifts, 0.0), strict=True):
            if kick:
                damping = self.friction * kick
                gain = -math.expm1(-damping) / self.friction if damping else kick
                carry = torch.add(math.exp(-damping) * carry, field(x), alpha=gain)
            x = torch.add(x, carry, alpha=drift)
        return DepthStep(x, carry)

    def phase(self, blocks: Iterable[ResidualBlock], start: Phase, c: Tensor | None = None) -> Phase:
        """Take position and velocity through the blocks.

        Without friction, the blocks in reverse order take ``(x, −v)`` at the end back to ``(x, −v)`` at the start.
        """
        x, v = start
        for layer, block in enumerate(blocks):
            x, v = self.step(layer, block, x, c, v)
        return Phase(x, v)
