"""The depth of a residual network as time: x_{l+1} = x_l + F_l(x_l) is one Euler step of length 1.

Source: Haber and Ruthotto, *Stable architectures for deep neural networks* (2018); Lu et al., *Understanding and
improving Transformer from a multi-particle dynamic system point of view* (2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isocline.networks.block_transformer import BlockTransformer
from isocline.networks.classifier import ResidualClassifier
from isocline.networks.transformer import Block, Transformer
from isocline.solvers.problem import VectorField

__all__ = ["Depth", "depth_of", "layer_field", "residual_layers"]

Layer = Callable[[Tensor], Tensor]
Ask = Callable[[nn.Module, Tensor], Tensor]


def layer_field(layers: Sequence[Layer]) -> VectorField:
    """Return ``f(t, x) = F_l(x)`` with l = ⌊t⌋, constant in t within a layer; the last one holds at t = L too.

    A method whose stages lie on a step's far end asks the next layer there, as an Euler step never does.

    Args:
        layers: F_0 … F_{L−1}, on states ``(B, *event)``.
    """
    last = len(layers) - 1

    def field(t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        numbers = [min(max(int(time), 0), last) for time in t.reshape(-1).tolist()]
        if len(set(numbers)) == 1:
            return layers[numbers[0]](x)
        each = torch.tensor(numbers, device=x.device)
        groups = [torch.nonzero(each == number).flatten() for number in sorted(set(numbers))]
        parts = [layers[numbers[int(rows[0])]](x[rows]) for rows in groups]
        return torch.cat(parts)[torch.cat(groups).argsort()]

    return field


@dataclass(frozen=True)
class Depth:
    """How the depth of a network is read, whatever its weights are.

    Attributes:
        length: number of layers L.
        ask: ``ask(network, inputs)``, an ordinary call of the network; inputs are whatever it is fed.
    """

    length: int
    ask: Ask

    def start(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Return what the first layer is given for ``inputs``, ``(B, L, D)``."""
        return self._integration(network, inputs)[1]

    def field(self, network: nn.Module, example: Tensor) -> VectorField:
        """Return the field; a condition of the layers (time) is that of the call on ``example`` ``(1, *event)``."""
        stack, _, condition = self._integration(network, example)
        return layer_field(_trunk(network).integrator.fields(stack, condition))

    def output(self, network: nn.Module, inputs: Tensor, state: Tensor) -> Tensor:
        """Return what the network makes of ``inputs`` if its last layer's result is ``state``."""
        handle = _trunk(network).norm.register_forward_pre_hook(lambda module, args: (state,))
        try:
            return self.ask(network, inputs)
        finally:
            handle.remove()

    def _integration(self, network: nn.Module, inputs: Tensor) -> tuple[Any, ...]:
        """What the integrator is called with: the blocks, the state before them, and the condition."""
        seen: list[tuple[Any, ...]] = []
        handle = _trunk(network).integrator.register_forward_pre_hook(lambda module, args: seen.append(args))
        try:
            with torch.no_grad():
                self.ask(network, inputs)
        finally:
            handle.remove()
        return seen[0]


class _CleanDepth(Depth):
    """The stream of clean tokens of a `BlockTransformer`: each sees itself and those before it."""

    def start(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """The embeddings with their positions."""
        embedded: Tensor = network.embed(inputs) + _trunk(network).positions[:, : inputs.shape[1]]  # type: ignore[operator]
        return embedded

    def field(self, network: nn.Module, example: Tensor) -> VectorField:
        """The layers of that stream."""
        return layer_field([_CausalResidual(block) for block in _trunk(network).blocks if isinstance(block, Block)])

    def output(self, network: nn.Module, inputs: Tensor, state: Tensor) -> Tensor:
        """Logits of the token after each."""
        features = _trunk(network).norm(state)
        logits: Tensor = nn.functional.linear(features, network.embed.weight, network.bias)  # type: ignore[union-attr, arg-type]
        return logits


class _CausalResidual:
    """F(x) of a block under a causal mask, without a cache."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def __call__(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        places, heads = torch.arange(length, device=x.device), self.block.attention.heads
        mask = self.block.attention.mask(places, places, places <= places[:, None])
        nothing = x.new_empty(batch, heads, 0, width // heads)
        return self.block.decode(x, nothing, nothing, mask.to(x.dtype))[0] - x


def depth_of(network: nn.Module, ask: Ask) -> Depth:
    """Return how to read a network's depth.

    Args:
        network: holds a `Transformer`.
        ask: an ordinary call of such a network.

    Raises:
        ValueError: if it holds none: a U-Net's layers change the shape of the state, so that they are no flow.
    """
    length = _trunk(network).integrator.depth
    return (_CleanDepth if isinstance(network, BlockTransformer) else Depth)(length, ask)


def residual_layers(network: ResidualClassifier) -> list[Layer]:
    """Return the residual functions of a classifier's blocks."""
    count = len(network.blocks)

    def layer(index: int) -> Layer:
        return lambda h: network.blocks[index](h.new_full((), index / count), h)

    return [layer(index) for index in range(count)]


def _trunk(network: nn.Module) -> Transformer:
    found = next((module for module in network.modules() if isinstance(module, Transformer)), None)
    if found is None:
        raise ValueError(
            f"{type(network).__name__} has no stack of Transformer blocks to read in depth; name a model whose network "
            "is a Transformer (ar, masked, …), or read its flow in t"
        )
    return found
