"""A Transformer over tokens that is autoregressive over blocks and bidirectional within one.

References: "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models", Arriola et al., 2025;
"Encoder-Decoder Diffusion Language Models for Efficient Training and Inference", Arriola et al., 2025 (noisy tokens
pass through fewer layers than clean ones).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isocline.networks.attention import KeyValueCache
from isocline.networks.embedding import LabelEmbedding
from isocline.networks.transformer import Block, Transformer

__all__ = ["BlockPredictions", "BlockTransformer"]


class BlockPredictions(NamedTuple):
    """What one pass over noisy and clean tokens predicts.

    Attributes:
        denoised: logits of the clean tokens of the noisy ones, ``(B, L, V)``, or ``(m, V)`` where m were wanted.
        following: logits of the token after each clean one, ``(B, L − b, V)``.
    """

    denoised: Tensor
    following: Tensor


class BlockTransformer(nn.Module):
    """Logits of the clean tokens of every block, given its noisy tokens and the clean tokens of the blocks before.

    A noisy token sees the clean tokens of earlier blocks and the noisy tokens of its own. A clean token sees itself and
    the clean tokens before it, never noisy ones: so its keys and values serve any number of noisy versions and any
    later block, in sampling they are kept, and its own features predict the token after it, which training may use
    (`isocline.objectives.block_diffusion`). Input and output embeddings are tied.

    Args:
        vocab_size: vocabulary V; the mask token is the last.
        length: longest sequence L.
        width: embedding width D.
        depth: number of Transformer blocks, which clean tokens pass through.
        heads: attention heads.
        block_length: tokens per block b; 1 is autoregressive, ``length`` an ordinary bidirectional network.
        noisy_depth: the last so many Transformer blocks are those that noisy tokens pass through; all by default.
        relative: whether attention has a learned bias by distance.
        classes: number of class labels, 0 for none; the class's vector is added to the embedding of every token.

    Raises:
        ValueError: if the blocks do not divide the sequence, or ``noisy_depth`` is not between 1 and ``depth`` (and
            what `Transformer` raises).
    """

    def __init__(
        self,
        vocab_size: int,
        length: int,
        width: int,
        depth: int,
        heads: int,
        block_length: int,
        noisy_depth: int | None = None,
        relative: bool = True,
        classes: int = 0,
    ) -> None:
        super().__init__()
        if vocab_size < 2:
            raise ValueError(f"vocab_size = {vocab_size}: needs at least one symbol and the mask token")
        if block_length < 1 or length % block_length:
            raise ValueError(f"block_length = {block_length} does not divide length = {length}; choose a divisor")
        noisy_depth = depth if noisy_depth is None else noisy_depth
        if not 1 <= noisy_depth <= depth:
            raise ValueError(f"noisy_depth = {noisy_depth}: must be between 1 and depth = {depth}")
        self.vocab_size = vocab_size
        self.length = length
        self.block_length = block_length
        self.skipped = depth - noisy_depth
        self.embed = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.trunk = Transformer(length, width, depth, heads, conditioned=False, relative=relative)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.label = LabelEmbedding(classes, width) if classes else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

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
            cond: class labels ``(B,)``, negative for none, or None.
            clean: clean tokens ``(B, L)``, of which every block sees those of earlier blocks; all blocks are then
                predicted at once. None takes those of ``z`` itself for clean: right for its first unfinished block.
            where: bool ``(B, L)``, positions whose logits are wanted; the result is then ``(m, V)``, row by row.
        """
        cache, _ = self._read(self._context(z if clean is None else clean), self.empty_cache(len(z)), cond)
        return self._denoised(z, 0, cache, cond, where)

    def predictions(
        self, z: Tensor, clean: Tensor, where: Tensor | None = None, cond: Tensor | None = None
    ) -> BlockPredictions:
        """Predict clean tokens as `forward` does, and the token after each clean one."""
        cache, context = self._read(self._context(clean), self.empty_cache(len(z)), cond, features=True)
        return BlockPredictions(self._denoised(z, 0, cache, cond, where), self._logits(context))

    def empty_cache(self, batch: int) -> KeyValueCache:
        """Return the cache that `decode_block` starts from."""
        return self.trunk.empty_cache(batch)

    def decode_block(
        self, finished: Tensor, z: Tensor, cache: KeyValueCache, cond: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        """Predict one noisy block, given the blocks that are finished.

        Args:
            finished: tokens ``(B, F)`` of the finished blocks that the cache does not hold yet, F ≥ 0.
            z: noisy tokens ``(B, b)`` of the block that follows them.
            cache: of the blocks before.
            cond: class labels ``(B,)`` or None.

        Returns:
            Logits ``(B, b, V)`` of the clean tokens of ``z``, and the cache with ``finished``.
        """
        if finished.shape[1]:
            cache, _ = self._read(finished, cache, cond)
        return self._denoised(z, cache.keys[0].shape[2], cache, cond, None), cache

    def _context(self, clean: Tensor) -> Tensor:
        """The tokens that any block can see: all but the last block."""
        return clean[:, : clean.shape[1] - self.block_length]

    def _embedded(self, tokens: Tensor, cond: Tensor | None) -> Tensor:
        h: Tensor = self.embed(tokens)
        return h if self.label is None else h + self.label(cond).unsqueeze(1)

    def _read(
        self, tokens: Tensor, cache: KeyValueCache, cond: Tensor | None, features: bool = False
    ) -> tuple[KeyValueCache, Tensor]:
        """Lengthen the cache by clean tokens ``(B, F)``; their features too if wanted, which the last block costs."""
        past = cache.keys[0].shape[2]
        everyone = torch.arange(past + tokens.shape[1], device=tokens.device)
        places = everyone[past:]
        visible = everyone <= places[:, None]
        x, keys, values = self._embedded(tokens, cond) + self.trunk.positions[:, places], [], []
        for number, (block, key, value) in enumerate(zip(self.trunk.blocks, cache.keys, cache.values, strict=True)):
            assert isinstance(block, Block)
            if number + 1 < len(self.trunk.blocks) or features:
                x, key, value = block.decode(x, key, value, block.attention.mask(places, everyone, visible))
            else:
                _, k, v = block.attention.split(block.norm1(x))
                key, value = torch.cat([key, k], dim=2), torch.cat([value, v], dim=2)
            keys.append(key)
            values.append(value)
        return KeyValueCache(keys, values), self.trunk.norm(x)

    def _denoised(
        self, z: Tensor, start: int, cache: KeyValueCache, cond: Tensor | None, where: Tensor | None
    ) -> Tensor:
        """Logits of the clean tokens of noisy blocks from ``start`` on; each sees the part of the cache before it."""
        places = torch.arange(start, start + z.shape[1], device=z.device)
        past = torch.arange(cache.keys[0].shape[2], device=z.device)
        own, before = places[:, None] // self.block_length, past // self.block_length
        visible = torch.cat([before < own, places // self.block_length == own], dim=1)
        keys = torch.cat([past, places])
        x = self._embedded(z, cond) + self.trunk.positions[:, places]
        for block, key, value in list(zip(self.trunk.blocks, cache.keys, cache.values, strict=True))[self.skipped :]:
            assert isinstance(block, Block)
            x, _, _ = block.decode(x, key, value, block.attention.mask(places, keys, visible))
        features = self.trunk.norm(x)
        return self._logits(features if where is None else features[where])

    def _logits(self, features: Tensor) -> Tensor:
        return F.linear(features, self.embed.weight, self.bias)
