"""A Transformer over tokens that is autoregressive over blocks and bidirectional within one.

Reference: "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models", Arriola et al., 2025.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isocline.networks.attention import KeyValueCache
from isocline.networks.transformer import Block, Transformer

__all__ = ["BlockTransformer"]


class BlockTransformer(nn.Module):
    """Logits of the clean tokens of every block, given its noisy tokens and the clean tokens of the blocks before.

    A clean token sees the clean tokens of its own and of earlier blocks; a noisy one those of earlier blocks, and the
    noisy tokens of its own block. Clean tokens do not see noisy ones, so their keys and values are those of any number
    of noisy versions, and in sampling those of finished blocks are kept. Input and output embeddings are tied.

    Args:
        vocab_size: vocabulary V; the mask token is the last.
        length: longest sequence L.
        width: embedding width D.
        depth: number of Transformer blocks.
        heads: attention heads.
        block_length: tokens per block b; 1 is autoregressive, ``length`` an ordinary bidirectional network.
        relative: whether attention has a learned bias by distance.

    Raises:
        ValueError: if the blocks do not divide the sequence (and what `Transformer` raises).
    """

    def __init__(
        self,
        vocab_size: int,
        length: int,
        width: int,
        depth: int,
        heads: int,
        block_length: int,
        relative: bool = True,
    ) -> None:
        super().__init__()
        if vocab_size < 2:
            raise ValueError(f"vocab_size = {vocab_size}: needs at least one symbol and the mask token")
        if block_length < 1 or length % block_length:
            raise ValueError(f"block_length = {block_length} does not divide length = {length}; choose a divisor")
        self.vocab_size = vocab_size
        self.length = length
        self.block_length = block_length
        self.embed = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.trunk = Transformer(length, width, depth, heads, conditioned=False, relative=relative)
        self.bias = nn.Parameter(torch.zeros(vocab_size))

    def forward(
        self,
        t: Tensor | None,
        z: Tensor,
        cond: Tensor | None = None,
        clean: Tensor | None = None,
        where: Tensor | None = None,
    ) -> Tensor:
        """Map noisy tokens ``z`` ``(B, L)`` to logits ``(B, L, V)``.

        Args:
            t: not used: the time can be read off the number of masks.
            z: noisy tokens, whole blocks.
            cond: not used.
            clean: clean tokens ``(B, L)``, of which every block sees those of earlier blocks; all blocks are then
                predicted at once. None takes those of ``z`` itself for clean: right for its first unfinished block.
            where: bool ``(B, L)``, positions whose logits are wanted; the result is then ``(n, V)``, row by row.
        """
        places = torch.arange(z.shape[1], device=z.device)
        if clean is None:
            features, _ = self._pass(z, places, len(places), self.empty_cache(len(z)))
        else:
            context = z.shape[1] - self.block_length
            features, _ = self._pass(z, places, 0, self._remember(clean[:, :context], places[:context]))
        return self._logits(features if where is None else features[where])

    def empty_cache(self, batch: int) -> KeyValueCache:
        """Return the cache that `decode_block` starts from."""
        first = self.trunk.blocks[0]
        assert isinstance(first, Block)
        heads, weight = first.attention.heads, self.embed.weight
        empty = weight.new_zeros(batch, heads, 0, weight.shape[1] // heads)
        return KeyValueCache([empty] * len(self.trunk.blocks), [empty] * len(self.trunk.blocks))

    def decode_block(self, finished: Tensor, z: Tensor, cache: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        """Predict one noisy block, given the blocks that are finished.

        Args:
            finished: tokens ``(B, F)`` of the finished blocks that the cache does not hold yet, F ≥ 0.
            z: noisy tokens ``(B, n)`` of the block that follows them.
            cache: of the blocks before.

        Returns:
            Logits ``(B, n, V)`` of the clean tokens of ``z``, and the cache with ``finished``.
        """
        begin, count = cache.keys[0].shape[2], finished.shape[1]
        tokens = torch.cat([finished, z], dim=1)
        places = torch.arange(begin, begin + tokens.shape[1], device=z.device)
        features, longer = self._pass(tokens, places, count, cache)
        keys, values = ([part[:, :, : begin + count] for part in parts] for parts in longer)
        return self._logits(features[:, count:]), KeyValueCache(keys, values)

    def _visible(self, queries: Tensor, keys: Tensor, clean: int, past: int) -> Tensor:
        """Which keys (the first ``past + clean`` of them clean) the queries (the first ``clean``) see, ``(Q, K)``."""
        blocks, others = queries[:, None] // self.block_length, keys // self.block_length
        asks = torch.arange(len(queries), device=keys.device)[:, None] < clean
        answers = torch.arange(len(keys), device=keys.device) < past + clean
        return torch.where(asks, answers & (others <= blocks), torch.where(answers, others < blocks, others == blocks))

    def _pass(self, z: Tensor, places: Tensor, clean: int, cache: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        """Features of new tokens ``(B, n)``, the first ``clean`` of which are clean, and the cache with all of them."""
        past = cache.keys[0].shape[2]
        earlier = torch.cat([torch.arange(past, device=z.device), places])
        visible = self._visible(places, earlier, clean, past)
        x, keys, values = self._embedded(z, places), [], []
        for block, key, value in zip(self.trunk.blocks, cache.keys, cache.values, strict=True):
            assert isinstance(block, Block)
            x, key, value = block.decode(x, key, value, block.attention.mask(places, earlier, visible))
            keys.append(key)
            values.append(value)
        return self.trunk.norm(x), KeyValueCache(keys, values)

    def _remember(self, clean: Tensor, places: Tensor) -> KeyValueCache:
        """Keys and values of clean tokens; as `_pass`, without what only their own features would need."""
        visible = self._visible(places, places, len(places), 0)
        x, cache = self._embedded(clean, places), self.empty_cache(len(clean))
        keys, values = [], []
        *others, last = self.trunk.blocks
        for block, key, value in zip(others, cache.keys, cache.values, strict=False):
            assert isinstance(block, Block)
            x, key, value = block.decode(x, key, value, block.attention.mask(places, places, visible))
            keys.append(key)
            values.append(value)
        assert isinstance(last, Block)
        _, key, value = last.attention.split(last.norm1(x))
        return KeyValueCache([*keys, key], [*values, value])

    def _embedded(self, z: Tensor, places: Tensor) -> Tensor:
        return self.embed(z) + self.trunk.positions[:, places]

    def _logits(self, features: Tensor) -> Tensor:
        return F.linear(features, self.embed.weight, self.bias)
