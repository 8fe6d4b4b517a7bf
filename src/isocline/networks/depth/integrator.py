"""A residual stack as an integration in depth: x_{l+1} = Step(F_l, x_l) over layers of length one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from isocline.networks.depth.block import Branch, ResidualBlock
from isocline.networks.residual_layers import ResidualLayer

__all__ = ["AbstractBlockwise", "AbstractDepthIntegrator", "DepthStep", "LayerEnd"]


class AbstractDepthIntegrator(nn.Module, ABC):
    """How a stack of residual blocks takes a state through its depth.

    A module, since methods may learn their coefficients. One without parameters adds nothing to a ``state_dict``.

    Args:
        depth: length of the integration in layers.
        width: of the states D.

    Attributes:
        blocks: blocks with weights of their own that the stack has to have.
    """

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        for name, value in (("depth", depth), ("width", width)):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be a positive integer")
        self.depth = depth
        self.width = width

    @property
    def blocks(self) -> int:
        """As many as the depth, unless weights are shared in depth."""
        return self.depth

    def fields(self, blocks: Iterable[ResidualBlock], c: Tensor | None) -> list[Branch]:
        """The fields F_0, F_1, … that are integrated over layer 0, 1, …, under one condition."""
        return [block.branches(c).field for block in blocks]

    def layers(self, blocks: Iterable[nn.Module]) -> list[ResidualLayer]:
        """The layers one by one, for what reads or changes states of depth; none where depth is not taken in layers."""
        return []

    @abstractmethod
    def trajectory(self, blocks: Iterable[ResidualBlock], x: Tensor, c: Tensor | None) -> Iterator[Tensor]:
        """Yield the states after layer 1, 2, …, ``depth``.

        Args:
            blocks: the stack.
            x: state before it, ``(B, L, D)``.
            c: condition ``(B, D)`` or None.
        """

    @abstractmethod
    def forward(self, blocks: Iterable[ResidualBlock], x: Tensor, c: Tensor | None) -> Tensor:
        """The state after the whole depth; arguments as for `trajectory`."""


class DepthStep(NamedTuple):
    """One layer's result.

    Attributes:
        x: the state after it.
        carry: what the next layer needs.
    """

    x: Tensor
    carry: Any = None


class LayerEnd(nn.Module):
    """Where a layer ends: it is told x_l and x_{l+1} and hands on the latter, whatever step led there.

    A step takes its block apart, so that there is no call of the block to hook into. Here there is one.
    """

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return ``after``, ``(B, L, D)``."""
        return after


class AbstractBlockwise(AbstractDepthIntegrator):
    """One step per block; a multistep or second-order method carries something from layer to layer.

    Attributes:
        skippable: whether a layer can be left out by going on from its x_l, whatever is carried.
        ends: of the layers, which have no parameters.
    """

    skippable: ClassVar[bool] = True

    def __init__(self, depth: int, width: int) -> None:
        super().__init__(depth, width)
        self.ends = nn.ModuleList(LayerEnd() for _ in range(depth))

    def layers(self, blocks: Iterable[nn.Module]) -> list[ResidualLayer]:
        """See the base class."""
        pairs = zip(self.ends, blocks, strict=True)
        return [ResidualLayer(end, block=block, skippable=self.skippable) for end, block in pairs]

    def init(self, x: Tensor) -> Any:
        """What the first layer is carried; nothing by default."""
        return None

    @abstractmethod
    def step(self, layer: int, block: ResidualBlock, x: Tensor, c: Tensor | None, carry: Any) -> DepthStep:
        """Take the state through one block.

        Args:
            layer: number of the block, from 0.
            block: the block.
            x: state before it, ``(B, L, D)``.
            c: condition ``(B, D)`` or None.
            carry: of the layer before.
        """

    def trajectory(self, blocks: Iterable[ResidualBlock], x: Tensor, c: Tensor | None) -> Iterator[Tensor]:
        """See the base class."""
        carry = self.init(x)
        for layer, block in enumerate(blocks):
            after, carry = self.step(layer, block, x, c, carry)
            x = self.ends[layer](x, after)
            yield x

    def forward(self, blocks: Iterable[ResidualBlock], x: Tensor, c: Tensor | None) -> Tensor:
        """See the base class."""
        carry = self.init(x)
        for layer, block in enumerate(blocks):
            after, carry = self.step(layer, block, x, c, carry)
            x = self.ends[layer](x, after)
        return x
