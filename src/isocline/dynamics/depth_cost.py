"""What a Transformer's depth costs: operations per token, evaluations, and the depth that costs as much as another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from isocline.networks.transformer import TokenTransformer

__all__ = ["evaluations", "flops_per_token", "matched_depth"]


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    count: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    return count


# The counter knows the kernels of attention of accelerators, not that of processors. A causal one is counted in full,
# as the others are.
_KERNELS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


@torch.no_grad()
def flops_per_token(network: TokenTransformer, tokens: Tensor) -> float:
    """Floating-point operations of a forward pass per token; a multiplication and an addition are two.

    Args:
        network: not conditioned on time.
        tokens: ``(B, L)``; they matter where steps are adaptive.
    """
    with FlopCounterMode(display=False, custom_mapping=_KERNELS) as counter:
        network(None, tokens)
    return counter.get_total_flops() / tokens.numel()


@torch.no_grad()
def evaluations(network: TokenTransformer, tokens: Tensor) -> float:
    """Evaluations of attention in a forward pass, of all layers and stages together, mean per sequence."""
    rows = 0

    def count(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal rows
        rows += len(inputs[0])

    handles = [block.attention.register_forward_pre_hook(count) for block in network.trunk.stack]
    try:
        network(None, tokens)
    finally:
        for handle in handles:
            handle.remove()
    return rows / len(tokens)


def matched_depth(make: Callable[[int], TokenTransformer], target: float, most: int, tokens: Tensor) -> int:
    """The depth, of 1 to ``most``, whose operations per token are nearest to a target, by their ratio.

    Args:
        make: a network of a given depth.
        target: operations per token.
        most: largest depth looked at.
        tokens: ``(B, L)``; see `flops_per_token`.
    """
    costs = {depth: flops_per_token(make(depth), tokens) for depth in range(1, most + 1)}
    return min(costs, key=lambda depth: max(costs[depth] / target, target / costs[depth]))
