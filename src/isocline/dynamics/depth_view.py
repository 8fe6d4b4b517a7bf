"""Depth as time: what a Transformer's residual stack says, and does, layer by layer.

Nothing is asked of the network but that a `Transformer` takes its state through layers: one is passed over by a hook on
its end that hands its input on. An early exit is the network with all later layers passed over, read by its own head
(the logit lens); a layer's contribution is what is lost without it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from isocline.networks.transformer import Transformer

__all__ = [
    "LogitLens",
    "StateGeometry",
    "depth_states",
    "early_exits",
    "effective_rank",
    "logit_lens",
    "loss_rises",
    "skipping",
    "state_geometry",
    "trunk_of",
]

Evaluate = Callable[[], Tensor]
"""One forward of the network on given inputs: its log-probabilities ``(B, L, V)``."""


class LogitLens(NamedTuple):
    """What the network would say after each block, by sequence: layer 0 is the embedding, layer D the network itself.

    Attributes:
        cross_entropy: to the truth, nats per counted position, ``(D + 1, B)``.
        divergence: KL(last layer ‖ this layer), nats per counted position, ``(D + 1, B)``.
        agreement: share of counted positions whose most probable token is the last layer's, ``(D + 1, B)``.
    """

    cross_entropy: Tensor
    divergence: Tensor
    agreement: Tensor


class StateGeometry(NamedTuple):
    """How the residual stream moves.

    Attributes:
        step: ‖h_{l+1} − h_l‖/‖h_l‖, mean over positions, ``(D, B)``.
        angle: between an update and the one before it, radians, mean over positions, ``(D − 1, B)``.
        rank: effective rank of the states of all positions, ``(D + 1,)``.
    """

    step: Tensor
    angle: Tensor
    rank: Tensor


def trunk_of(network: nn.Module) -> Transformer:
    """Return the residual stack of a network.

    Raises:
        ValueError: if it has none.
    """
    found = next((module for module in network.modules() if isinstance(module, Transformer)), None)
    if found is None:
        raise ValueError(f"{type(network).__name__} has no Transformer; depth is read of one alone")
    return found


def _layers(trunk: Transformer) -> list[nn.Module]:
    """The ends of the layers, each of which is given the state before its layer and returns the state after it."""
    return [layer.module for layer in trunk.residual_layers()]


@contextlib.contextmanager
def skipping(trunk: Transformer, blocks: Iterable[int]) -> Iterator[None]:
    """Pass over blocks: inside, each hands on its first argument as it is.

    Args:
        trunk: the stack.
        blocks: indices of the blocks.

    Raises:
        IndexError: if there is no such block.
    """
    layers = _layers(trunk)
    with contextlib.ExitStack() as stack:
        for index in blocks:
            handle = layers[index].register_forward_hook(lambda module, inputs, output: inputs[0])
            stack.callback(handle.remove)
        yield


def early_exits(trunk: Transformer, evaluate: Evaluate) -> Iterator[Tensor]:
    """Yield what the network says after 0, 1, …, D blocks, each ``(B, L, V)``; D + 1 forwards.

    Source: *interpreting GPT: the logit lens*, nostalgebraist, 2020.

    Args:
        trunk: the stack.
        evaluate: one forward; see `Evaluate`.
    """
    depth = len(_layers(trunk))
    for kept in range(depth + 1):
        with skipping(trunk, range(kept, depth)):
            yield evaluate()


def depth_states(trunk: Transformer, evaluate: Evaluate) -> Tensor:
    """Record the residual stream in one forward: before the first block and after each, ``(D + 1, B, P, W)``.

    Args:
        trunk: the stack.
        evaluate: one forward.

    Raises:
        ValueError: if the forward does not call the blocks once each, one after another, as a network that reads
            blocks of text through a cache, or one that takes several stages a layer.
    """
    states: list[Tensor] = []
    layers = _layers(trunk)

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not states:
            states.append(inputs[0].detach())
        states.append(output.detach())

    with contextlib.ExitStack() as stack:
        for block in layers:
            stack.callback(block.register_forward_hook(keep).remove)
        evaluate()
    if len(states) != len(layers) + 1:
        raise ValueError(
            f"{max(len(states) - 1, 0)} calls of {len(layers)} blocks in a forward; the states of depth are read "
            "of networks that call each block once"
        )
    return torch.stack(states)


def logit_lens(exits: Iterable[Tensor], truth: Tensor, counted: Tensor) -> LogitLens:
    """Hold what a network says after each block against the truth and against what it says in the end.

    Args:
        exits: log-probabilities ``(B, L, V)`` after each block, the last one the network's own.
        truth: tokens ``(B, L)``.
        counted: positions that count, bool ``(B, L)``; a sequence without any scores 0.

    Raises:
        ValueError: if there is no layer.
    """
    layers = [layer.double() for layer in exits]
    if not layers:
        raise ValueError("no layer to look at; give the exits of `early_exits`")
    last = layers[-1]
    best, law = last.argmax(-1), last.exp()
    weight = counted.double()
    total = weight.sum(-1).clamp_min(1.0)

    def averaged(values: Tensor) -> Tensor:
        return (values * weight).sum(-1) / total

    def divergence(layer: Tensor) -> Tensor:
        return torch.where(law > 0, law * (last - layer), 0.0).sum(-1)

    return LogitLens(
        torch.stack([averaged(-layer.gather(-1, truth.unsqueeze(-1)).squeeze(-1)) for layer in layers]),
        torch.stack([averaged(divergence(layer)) for layer in layers]),
        torch.stack([averaged((layer.argmax(-1) == best).double()) for layer in layers]),
    )


def loss_rises(trunk: Transformer, evaluate: Evaluate, truth: Tensor, counted: Tensor) -> Tensor:
    """Return how much the loss rises without each block, ``(D, B)``: near 0 for a block that can be pruned.

    Args:
        trunk: the stack.
        evaluate: one forward; see `Evaluate`.
        truth: tokens ``(B, L)``.
        counted: positions that count, bool ``(B, L)``.

    Returns:
        Nats per counted position above the whole network's, float64; negative where the block does harm.
    """
    whole = logit_lens([evaluate()], truth, counted).cross_entropy[0]
    rises = []
    for index in range(len(_layers(trunk))):
        with skipping(trunk, [index]):
            rises.append(logit_lens([evaluate()], truth, counted).cross_entropy[0] - whole)
    return torch.stack(rises)


def state_geometry(states: Tensor) -> StateGeometry:
    """Measure how the residual stream moves from block to block.

    Args:
        states: ``(D + 1, B, P, W)``, see `depth_states`.
    """
    h = states.double()
    updates = h.diff(dim=0)
    lengths = updates.norm(dim=-1)
    steps = lengths / h[:-1].norm(dim=-1).clamp_min(1e-300)
    units = updates / lengths.where(lengths > 0, 1.0).unsqueeze(-1)
    first, second = units[:-1], units[1:]
    # Unlike arccos of the cosine this is exact for small angles.
    angles = 2 * torch.atan2((second - first).norm(dim=-1), (second + first).norm(dim=-1))
    moved = (lengths[:-1] > 0) & (lengths[1:] > 0)
    # An update of no length has no direction: it is at right angles, neither on nor back.
    angles = torch.where(moved, angles, math.pi / 2)
    ranks = torch.stack([effective_rank(layer.flatten(0, -2)) for layer in h])
    return StateGeometry(steps.mean(-1), angles.mean(-1), ranks)


def effective_rank(rows: Tensor) -> Tensor:
    """Return exp(entropy of the normalised singular values) of the centred rows ``(N, W)``; 1 to min(N − 1, W).

    Source: *The effective rank: A measure of effective dimensionality*, Roy & Vetterli, 2007, Def. 1.

    Returns:
        ``()``, float64; 1 where all rows are equal.
    """
    values = torch.linalg.svdvals(rows.double() - rows.double().mean(0))
    shares = values / values.sum().clamp_min(1e-300)
    return torch.special.entr(shares).sum().exp()  # type: ignore[no-any-return]
