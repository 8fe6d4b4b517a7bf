"""A network of block diffusion, seen from one block: what a sampler of that block alone calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

__all__ = ["BlockReader", "CachedReader", "FullReader"]


class BlockReader(nn.Module, ABC):
    """``reader(t, z, (rows, cond)) -> (n, b, V)``: logits of the block at hand, given the blocks before.

    Args:
        network: has ``block_length``.
        tokens: of the whole sequences ``(B, L)``; whoever samples writes finished blocks into it.
        cond: of all sequences, or None.

    Attributes:
        start: first position of the block at hand.
        end: the one after its last.
    """

    def __init__(self, network: nn.Module, tokens: Tensor, cond: Any = None) -> None:
        super().__init__()
        self.network = network
        self.tokens = tokens
        self.cond = cond
        self.start = self.end = 0

    @abstractmethod
    def forward(self, t: Tensor, z: Tensor, cond: tuple[Tensor, Any]) -> Tensor:
        """Evaluate at the block's noisy tokens ``z`` ``(n, b)`` of the sequences ``rows`` ``(n,)``, the first of
        ``cond``.
        """


class FullReader(BlockReader):
    """Evaluates the network on whole sequences, of any network."""

    def forward(self, t: Tensor, z: Tensor, cond: tuple[Tensor, Any]) -> Tensor:
        """See the base class."""
        rows, given = cond
        tokens = self.tokens[rows]
        tokens[:, self.start : self.end] = z
        logits: Tensor = self.network(t, tokens, given)
        return logits[:, self.start : self.end]


class CachedReader(BlockReader):
    """Keeps the keys and values of finished blocks, for a network with ``empty_cache`` and ``decode_block``."""

    def __init__(self, network: nn.Module, tokens: Tensor, cond: Any = None) -> None:
        super().__init__(network, tokens, cond)
        self.cache = network.empty_cache(len(tokens))  # type: ignore[operator]
        self.read = 0

    def forward(self, t: Tensor, z: Tensor, cond: tuple[Tensor, Any]) -> Tensor:
        """See the base class; the first call in a block also reads the finished tokens that are not in the cache."""
        rows, given = cond
        finished = self.tokens[:, self.read : self.start]
        if finished.shape[1]:
            # Every sequence has finished tokens to be read, also those that need no logits now.
            whole = self.tokens[:, self.start : self.end].clone()
            whole[rows] = z
            logits, self.cache = self._ask(finished, whole, self.cache, self.cond)
            self.read = self.start
            return logits[rows]
        cache = self.cache
        if len(rows) < len(self.tokens):
            cache = type(cache)(*([part[rows] for part in parts] for parts in cache))
        return self._ask(finished[rows], z, cache, given)[0]

    def _ask(self, finished: Tensor, z: Tensor, cache: Any, cond: Any) -> tuple[Tensor, Any]:
        given = () if cond is None else (cond,)
        result: tuple[Tensor, Any] = self.network.decode_block(finished, z, cache, *given)  # type: ignore[operator]
        return result
