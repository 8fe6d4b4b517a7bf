"""Leave out fixed-point iterations that change little: measure each on data, and keep what contributes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from isocline.networks.depth.implicit_euler import ImplicitEuler

__all__ = ["iteration_contributions", "kept_iterations", "with_iterations"]


class _Recorder(ImplicitEuler):
    """Notes how far every iteration moves the state."""

    def __init__(self, like: ImplicitEuler) -> None:
        super().__init__(like.depth, like.width, like.iterations)
        self.moves: list[_Move] = []

    def iterate(self, layer: int, slope: Tensor, x: Tensor, before: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """As the base class does, and note it."""
        change = slope if before is None else slope - before[0]
        share = change.norm(dim=-1) / (x + slope).norm(dim=-1)
        self.moves.append(_Move(layer, share.double().mean()))
        return super().iterate(layer, slope, x, before)


class _Move(NamedTuple):
    layer: int
    share: Tensor


@torch.no_grad()
def iteration_contributions(network: nn.Module, batches: Iterable[Tensor]) -> list[list[float]]:
    """How far each iteration of each block moves the states: mean of ``‖x⁽ᵏ⁾ − x⁽ᵏ⁻¹⁾‖ / ‖x⁽ᵏ⁾‖`` over positions.

    Args:
        network: with a ``trunk`` whose integrator is `ImplicitEuler`; called as ``network(None, z)``, not changed.
        batches: tokens ``(B, L)``, all of the same size.

    Returns:
        By block, one number per iteration.

    Raises:
        TypeError: if the integrator is another.
        ValueError: if there is no batch.
    """
    watched = copy.deepcopy(network)
    recorder = _Recorder(_integrator(watched))
    watched.trunk.integrator = recorder  # type: ignore[union-attr]
    for batch in batches:
        watched(None, batch)
    if not recorder.moves:
        raise ValueError("no batches: contributions are measured on data; give at least one batch of tokens")
    found = []
    for layer, count in enumerate(recorder.iterations):
        shares = torch.stack([move.share for move in recorder.moves if move.layer == layer])
        found.append(shares.view(-1, count).mean(0).tolist())
    return found


def kept_iterations(contributions: Sequence[Sequence[float]], threshold: float) -> list[int]:
    """Iterations that each block keeps: up to the last that moves the state by ``threshold`` or more, at least one."""
    return [max([1, *(place for place, share in enumerate(row, 1) if share >= threshold)]) for row in contributions]


def with_iterations(network: nn.Module, iterations: Sequence[int]) -> nn.Module:
    """A copy of a network with other numbers of iterations per block and the same weights.

    Raises:
        TypeError: if its integrator is not `ImplicitEuler`.
        ValueError: if the numbers do not fit its depth.
    """
    other = copy.deepcopy(network)
    old = _integrator(other)
    other.trunk.integrator = ImplicitEuler(old.depth, old.width, list(iterations))  # type: ignore[union-attr]
    return other


def _integrator(network: nn.Module) -> ImplicitEuler:
    integrator = getattr(getattr(network, "trunk", None), "integrator", None)
    if not isinstance(integrator, ImplicitEuler):
        raise TypeError(
            f"{type(network).__name__} has the depth integrator {type(integrator).__name__}; iterations are pruned of "
            "ImplicitEuler alone (network=implicit)"
        )
    return integrator
