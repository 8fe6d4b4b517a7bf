"""Where the residual layers of a network are: what regularisers of depth work on."""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from torch import nn

__all__ = ["HasResidualLayers", "ResidualLayer", "residual_stacks"]


class ResidualLayer(NamedTuple):
    """One layer of a stack x_{l+1} = x_l + F_l(x_l), or x_{l+1} = Step(F_l, x_l) of another step than Euler's.

    Attributes:
        module: evaluated by its own call; where it adds, its first argument is x_l.
        adds: whether it returns x_{l+1}, or F_l(x_l) alone for its caller to add.
        block: holds the parameters θ_l; None if the module does.
        skippable: whether the stack may go on from x_l as if the layer were not there.
    """

    module: nn.Module
    adds: bool = True
    block: nn.Module | None = None
    skippable: bool = True

    @property
    def weights(self) -> nn.Module:
        """What holds θ_l."""
        return self.module if self.block is None else self.block


@runtime_checkable
class HasResidualLayers(Protocol):
    """A network that knows its residual layers."""

    def residual_layers(self) -> list[ResidualLayer]:
        """Return them in the order in which a state passes through them."""


def residual_stacks(network: nn.Module) -> list[list[ResidualLayer]]:
    """Return the stacks of residual layers of a network, wherever in it they are; empty where it has none."""
    if isinstance(network, HasResidualLayers):
        return [network.residual_layers()]
    return [stack for child in network.children() for stack in residual_stacks(child)]
