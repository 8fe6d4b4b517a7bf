"""One Transformer for images (patches) and text (tokens): the DiT block with adaLN-zero conditioning.

References: "Scalable Diffusion Models with Transformers", Peebles and Xie, 2023 (block and zero initialisation);
"Attention Is All You Need", Vaswani et al., 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from isocline.networks.attention import Attention, KeyValueCache, RelativeBias
from isocline.networks.depth.block import Branches
from isocline.networks.depth.euler import Euler
from isocline.networks.depth.integrator import AbstractDepthIntegrator
from isocline.networks.embedding import ConditionEmbedding, LabelEmbedding
from isocline.networks.residual_layers import ResidualLayer
from isocline.networks.shared_modulation import SharedModulation, modulation

__all__ = ["Block", "PatchTransformer", "TokenTransformer", "Transformer"]


class Block(nn.Module):
    """Attention and MLP with residuals; scale, shift and gate come from the condition (adaLN-zero).

    Without a condition (``conditioned=False``) it is a plain pre-norm block with affine layer norms.
    """

    modulation: nn.Module | None

    def __init__(
        self,
        width: int,
        heads: int,
        causal: bool,
        conditioned: bool,
        bias: RelativeBias | None = None,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.attention = Attention(width, heads, causal, bias)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=not conditioned)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=not conditioned)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.modulation = (
            (SharedModulation(6 * width) if shared else modulation(width, 6 * width)) if conditioned else None
        )

    def forward(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Apply the block to ``x`` of shape ``(B, L, D)`` under the condition ``c`` of shape ``(B, D)`` or None.

        A block of a network with one projection for all blocks is handed that one's result, ``(B, 6 D)``.
        """
        if self.modulation is None or c is None:
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).unsqueeze(1).chunk(6, dim=-1)
        x = torch.addcmul(x, gate1, self.attention(torch.addcmul(shift1, self.norm1(x), 1 + scale1)))
        return torch.addcmul(x, gate2, self.mlp(torch.addcmul(shift2, self.norm2(x), 1 + scale2)))

    def branches(self, c: Tensor | None) -> Branches:
        """The block's branches without the skips, under the condition ``c`` of shape ``(B, D)`` or None."""
        if self.modulation is None or c is None:
            return Branches(
                lambda x: self.attention(self.norm1(x)),
                lambda x: self.mlp(self.norm2(x)),
                (lambda x: self._half(self.norm2(x), 0), lambda x: self._half(self.norm2(x), 1)),
            )
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).unsqueeze(1).chunk(6, dim=-1)

        def read(x: Tensor) -> Tensor:
            return torch.addcmul(shift2, self.norm2(x), 1 + scale2)

        return Branches(
            lambda x: gate1 * self.attention(torch.addcmul(shift1, self.norm1(x), 1 + scale1)),
            lambda x: gate2 * self.mlp(read(x)),
            (lambda x: gate2 * self._half(read(x), 0), lambda x: gate2 * self._half(read(x), 1)),
        )

    def _half(self, y: Tensor, half: int) -> Tensor:
        """The MLP by one half of its hidden units, with half of the last bias: both halves sum to the MLP."""
        first, activation, last = self.mlp
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        middle = first.out_features // 2
        units = slice(half * middle, (half + 1) * middle)
        hidden = activation(F.linear(y, first.weight[units], first.bias[units]))
        return F.linear(hidden, last.weight[:, units], last.bias / 2)

    def decode(
        self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Apply an unconditional block to new tokens ``(B, Q, D)`` given the cached keys and values.

        Args:
            x: embeddings of the new tokens.
            key: of the tokens before, ``(B, heads, P, D/heads)``.
            value: likewise.
            mask: added to the attention logits, ``(Q, P + Q)`` or ``(heads, Q, P + Q)``; None lets every new token see
                all tokens.

        Returns:
            The new tokens, and the keys and values of all ``P + Q`` tokens.
        """
        q, k, v = self.attention.split(self.norm1(x))
        key, value = torch.cat([key, k], dim=2), torch.cat([value, v], dim=2)
        y = F.scaled_dot_product_attention(q, key, value, mask)
        x = x + self.attention.out(y.transpose(1, 2).reshape(x.shape))
        return x + self.mlp(self.norm2(x)), key, value


class Transformer(nn.Module):
    """A stack of blocks with learned positions and a final modulated layer norm.

    Args:
        length: number of positions L.
        width: embedding width D.
        depth: number of blocks.
        heads: attention heads; must divide ``width``.
        causal: whether position i sees only positions up to i.
        conditioned: whether a condition vector modulates the blocks.
        relative: whether every block has a `RelativeBias`; bidirectional only.
        condition_width: width of the condition, of which one projection then serves all blocks (`SharedModulation`);
            None has conditions of width D, and a projection in every block, which are a third of all parameters.
        integrator: makes, of ``depth`` and ``width``, how the state is taken through the blocks (see
            `isocline.networks.depth`); None is `Euler`, the ordinary residual stack.

    Raises:
        ValueError: if a size is not positive, ``heads`` does not divide ``width``, or ``relative`` meets ``causal``.
    """

    def __init__(
        self,
        length: int,
        width: int,
        depth: int,
        heads: int,
        causal: bool = False,
        conditioned: bool = True,
        relative: bool = False,
        integrator: Callable[..., AbstractDepthIntegrator] | None = None,
        condition_width: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("length", length), ("width", width), ("depth", depth), ("heads", heads)):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be a positive integer")
        if width % heads:
            raise ValueError(f"heads = {heads} does not divide width = {width}; choose a divisor of the width")
        if relative and causal:
            raise ValueError("relative = true is for bidirectional networks; set relative = false with causal = true")
        self.positions = nn.Parameter(0.02 * torch.randn(1, length, width))
        self.integrator = (Euler if integrator is None else integrator)(depth=depth, width=width)
        biases = [RelativeBias(heads, length) if relative else None for _ in range(self.integrator.blocks)]
        shared = conditioned and condition_width is not None
        self.blocks = nn.ModuleList([Block(width, heads, causal, conditioned, bias, shared) for bias in biases])
        self.norm = nn.LayerNorm(width, elementwise_affine=not conditioned)
        self.modulation = modulation(condition_width or width, 2 * width) if conditioned else None
        self.shared = modulation(condition_width, 6 * width) if shared and condition_width else None

    def forward(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """Map embeddings ``(B, L, D)`` and an optional condition ``(B, D)`` to features ``(B, L, D)``."""
        return self.features(self.integrator(self.stack, x + self.positions[:, : x.shape[1]], self._of_blocks(c)), c)

    def trajectory(self, x: Tensor, c: Tensor | None = None) -> list[Tensor]:
        """The states before the stack and after every layer, ``depth`` + 1 of ``(B, L, D)``; `features` reads them."""
        x = x + self.positions[:, : x.shape[1]]
        return [x, *self.integrator.trajectory(self.stack, x, self._of_blocks(c))]

    def _of_blocks(self, c: Tensor | None) -> Tensor | None:
        """What the blocks are handed of a condition."""
        return c if c is None or self.shared is None else self.shared(c)

    def features(self, x: Tensor, c: Tensor | None = None) -> Tensor:
        """The final norm of a state ``(B, L, D)`` under the condition ``(B, D)`` or None."""
        x = self.norm(x)
        if self.modulation is None or c is None:
            return x
        shift, scale = self.modulation(c).unsqueeze(1).chunk(2, dim=-1)
        return torch.addcmul(shift, x, 1 + scale)

    @property
    def stack(self) -> list[Block]:
        """The blocks, as what they are."""
        return cast("list[Block]", list(self.blocks))

    def residual_layers(self) -> list[ResidualLayer]:
        """Return the integrator's layers."""
        return self.integrator.layers(self.blocks)

    def empty_cache(self, batch: int) -> KeyValueCache:
        """Return a cache that holds no token of ``batch`` sequences."""
        first = self.blocks[0]
        assert isinstance(first, Block)
        heads = first.attention.heads
        empty = self.positions.new_zeros(batch, heads, 0, self.positions.shape[-1] // heads)
        return KeyValueCache([empty] * len(self.blocks), [empty] * len(self.blocks))


class PatchTransformer(nn.Module):
    """A Transformer over image patches: a vector field on images.

    Args:
        channels: image channels C.
        size: image height and width in pixels.
        patch: patch edge in pixels; must divide ``size``.
        width: embedding width D.
        depth: number of blocks.
        heads: attention heads.
        classes: number of class labels, 0 for an unconditional network. With labels, one more embedding stands
            for "no label" (negative ones, or ``cond=None``), which classifier-free guidance uses.
        end_time: take a second time s ≤ t, the end of a flow map; see `isocline.processes.flow_map`.
        time_blur: smooth in time, for objectives that differentiate in it; see `isocline.networks.embedding`.
        integrator: of the depth; see `Transformer`.

    Raises:
        ValueError: if ``patch`` does not divide ``size`` (and what `Transformer` raises).
    """

    def __init__(
        self,
        channels: int,
        size: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        classes: int = 0,
        end_time: bool = False,
        time_blur: float = 0.0,
        integrator: Callable[..., AbstractDepthIntegrator] | None = None,
    ) -> None:
        super().__init__()
        if patch < 1 or size % patch:
            raise ValueError(f"patch = {patch} does not divide size = {size}; choose a divisor of the image size")
        self.patch = patch
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.takes_end = end_time
        self.condition = ConditionEmbedding(width, classes, end_time, time_blur)
        self.trunk = Transformer((size // patch) ** 2, width, depth, heads, integrator=integrator)
        self.head = nn.Linear(width, channels * patch * patch)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """Evaluate at ``t`` ``()`` or ``(B,)`` and ``x`` ``(B, C, H, W)``, towards ``s`` (t if None); same shape."""
        batch, channels, height, width = x.shape
        p = self.patch
        h = self.embed(x).flatten(2).transpose(1, 2)
        y = self.head(self.trunk(h, self.condition(t, cond, s)))
        y = y.view(batch, height // p, width // p, channels, p, p)
        return y.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


class TokenTransformer(nn.Module):
    """A Transformer over tokens: logits of the clean token at every position.

    Input and output embeddings are tied. A causal network is autoregressive by shift: position i is fed token
    i-1 (the mask token at i = 0) and predicts token i; the objective does the shifting.

    Args:
        vocab_size: vocabulary V; the mask token is the last.
        length: longest sequence L.
        width: embedding width D.
        depth: number of blocks.
        heads: attention heads.
        causal: autoregressive or bidirectional.
        time_conditioned: whether the time t modulates the network (masked diffusion does not need it: the time
            can be read off the number of masks).
        classes: number of class labels, 0 for none; they join the time, and the embedding of every token where the
            network is not told the time.
        relative: whether attention has a learned bias by distance (bidirectional networks only).
        integrator: of the depth; see `Transformer`.
        condition_width: of a lean conditioning on time and class; see `Transformer`.
    """

    def __init__(
        self,
        vocab_size: int,
        length: int,
        width: int,
        depth: int,
        heads: int,
        causal: bool = False,
        time_conditioned: bool = True,
        classes: int = 0,
        relative: bool = False,
        integrator: Callable[..., AbstractDepthIntegrator] | None = None,
        condition_width: int | None = None,
    ) -> None:
        super().__init__()
        if vocab_size < 2:
            raise ValueError(f"vocab_size = {vocab_size}: needs at least one symbol and the mask token")
        self.vocab_size = vocab_size
        self.length = length
        self.embed = nn.Embedding(vocab_size, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.condition = ConditionEmbedding(condition_width or width, classes) if time_conditioned else None
        self.trunk = Transformer(
            length, width, depth, heads, causal, time_conditioned, relative, integrator, condition_width
        )
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.label = LabelEmbedding(classes, width) if classes and not time_conditioned else None
        if self.label is not None:
            nn.init.normal_(self.label.weight, std=0.02)

    def forward(self, t: Tensor | None, z: Tensor, cond: Tensor | None = None) -> Tensor:
        """Map tokens ``z`` ``(B, L)`` at time ``t`` to logits ``(B, L, V)``; ``t`` may be None when not used."""
        c = None if self.condition is None or t is None else self.condition(t, cond)
        return self.logits(self.trunk(self._read(z, cond), c))

    def _read(self, z: Tensor, cond: Tensor | None) -> Tensor:
        """Embeddings ``(B, L, D)`` of tokens ``(B, L)``, the class's in each."""
        h: Tensor = self.embed(z)
        return h if self.label is None else h + self.label(cond).unsqueeze(1)

    def logits(self, features: Tensor) -> Tensor:
        """Logits ``(…, V)`` of the trunk's features ``(…, D)``."""
        return F.linear(features, self.embed.weight, self.bias)

    def empty_cache(self, batch: int) -> KeyValueCache:
        """Return the cache that `decode_step` starts from.

        Raises:
            ValueError: if the network is bidirectional or conditioned on time, or its depth is not integrated by Euler:
                a cache cannot serve it.
        """
        first = self.trunk.blocks[0]
        assert isinstance(first, Block)
        if not first.attention.causal or self.condition is not None:
            raise ValueError("a key-value cache needs causal = true and time_conditioned = false")
        method = self.trunk.integrator
        if not isinstance(method, Euler):
            raise ValueError(
                f"a key-value cache serves networks whose integrator is Euler; this one's is {type(method).__name__}, "
                "whose stages attend to keys of their own: run the whole prefix through the network at every position"
            )
        return self.trunk.empty_cache(batch)

    def decode_step(
        self, token: Tensor, cache: KeyValueCache, cond: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        """Feed one token ``(B,)``; return the logits ``(B, V)`` of the next position and the longer cache."""
        position = cache.keys[0].shape[2]
        x = self._read(token.unsqueeze(1), cond) + self.trunk.positions[:, position : position + 1]
        keys, values = [], []
        for block, key, value in zip(self.trunk.blocks, cache.keys, cache.values, strict=True):
            assert isinstance(block, Block)
            x, key, value = block.decode(x, key, value)
            keys.append(key)
            values.append(value)
        return self.logits(self.trunk.norm(x[:, 0])), KeyValueCache(keys, values)
