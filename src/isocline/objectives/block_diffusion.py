"""Block diffusion: autoregressive over blocks of tokens, masked diffusion within a block.

Reference: "Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models", Arriola et al., 2025.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.masked import mask_exactly
from isocline.objectives.sequence_likelihood import LikelihoodEstimate, stratified_uniforms, token_log_probs
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes, TimeRange
from isocline.processes.kernel import AbsorbingKernel, AbstractKernel

__all__ = ["BlockDiffusion", "block_length_of"]


def block_length_of(network: nn.Module) -> int:
    """Return the number of tokens per block of a network.

    Raises:
        ValueError: if the network has none.
    """
    length = getattr(network, "block_length", None)
    if length is None:
        raise ValueError(f"{type(network).__name__} has no block_length; block diffusion needs a BlockTransformer")
    return int(length)


class BlockDiffusion(Objective):
    """−log p(x) ≤ Σ_k E_{l ~ U{1..b}} (b/l) Σ_masked −log p(x_i | z^k, x^{<k}), l masks in block k; nats per token.

    The fixed-count form of the masked bound, block by block: the same value as the integral over t for every schedule,
    without its noise of zero masks or of weights 1/t (for b = 1, where the mask is always there, the loss is the
    autoregressive one and its gradient has no noise of t at all, which the integral form lacks: Arriola et al., §4).

    Args:
        process: the absorbing kernel.
        times: law of the share of masks, drawn per block; stratified over all blocks of the batch by default, the
            strata dealt out at random. With a law that is not uniform, such as
            `isocline.objectives.time_sampling.ClippedTimes`, the loss weighs counts otherwise than the bound, which
            `negative_log_likelihood` always evaluates in full.
        context_weight: weight of a further loss in training, the cross-entropy of the token after each clean one, by
            the network's `predictions`. What is learned by predicting from every clean token at once is what the noisy
            tokens attend to; no likelihood uses these predictions themselves.

    Raises:
        TypeError: if the kernel is not absorbing.
        ValueError: if ``context_weight`` is negative.
    """

    def __init__(
        self, process: AbstractKernel, times: AbstractTimes[TimeRange] | None = None, context_weight: float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(process, AbsorbingKernel):
            raise TypeError(f"process = {type(process).__name__}: block diffusion needs AbsorbingKernel")
        if context_weight < 0:
            raise ValueError(f"context_weight = {context_weight}: must not be negative; 0 leaves that loss out")
        self.process = process
        self.times = StratifiedTimes() if times is None else times
        self.context_weight = context_weight

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One draw of a number of masks and of their places per block of ``batch.x0`` ``(B, L)``."""
        x0 = batch.x0
        length = _block_length(network, x0)
        rows = x0.reshape(-1, length)
        share = self.times(len(rows), self.process, generator)
        # Lattices are in order: undealt, a block's place would tell its number of masks.
        order = torch.rand(len(rows), generator=generator, device=generator.device, dtype=torch.float64).argsort()
        count = _count(share[order].to(x0.device), length)
        z = mask_exactly(rows, count, self.process.mask, generator).reshape(x0.shape)
        masked = self.process.undecided(z)
        if self.context_weight > 0:
            logits, following = network.predictions(z, x0, masked, batch.cond)  # type: ignore[operator]
        else:
            logits = network(torch.ones((), device=z.device), z, batch.cond, clean=x0, where=masked)
        surprise = self._surprise(logits, x0[masked])
        weight = (length / count).to(surprise.dtype).repeat_interleave(length).reshape(x0.shape)
        total = (weight[masked] * surprise).sum() / x0.numel()
        terms = {"nats_per_token": total.detach(), "nats_per_mask": surprise.mean().detach()}
        if self.context_weight > 0 and following.shape[1]:
            context = self._surprise(following.flatten(0, 1), x0[:, 1 : following.shape[1] + 1].flatten()).mean()
            total = total + self.context_weight * context
            terms["nats_per_following_token"] = context.detach()
        return Loss(total, terms)

    @torch.no_grad()
    def negative_log_likelihood(
        self,
        network: nn.Module,
        tokens: Tensor,
        generator: torch.Generator,
        strata: int = 32,
        cond: Tensor | None = None,
    ) -> LikelihoodEstimate:
        """The bound, stratified over the number of masks of a block, all blocks at once.

        With one block it is `MaskedDiffusion.negative_log_likelihood`; with blocks of one token it is exact and one
        evaluation is enough.

        Args:
            network: ``network(t, z, cond, clean, where) -> (m, V)``; see `isocline.networks.block_transformer`.
            tokens: ``(B, L)``, whole blocks.
            generator: source of subsets.
            strata: network evaluations per sequence.
            cond: condition or None.

        Returns:
            Nats per sequence; a bound, exact for blocks of one token.
        """
        length = _block_length(network, tokens)
        rows = tokens.reshape(-1, length)
        nats = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        strata = 1 if length == 1 else strata
        for u in stratified_uniforms(strata, len(rows), generator):
            count = _count(u, length)
            z = mask_exactly(rows, count, self.process.mask, generator).reshape(tokens.shape)
            weight = (length / count).repeat_interleave(length).reshape(tokens.shape)
            nats += (weight * self._spread(network, tokens, z, self.process.undecided(z), cond)).sum(-1)
        return LikelihoodEstimate(nats / strata, "exact" if length == 1 else "bound")

    @torch.no_grad()
    def left_to_right_likelihood(
        self, network: nn.Module, tokens: Tensor, cond: Tensor | None = None
    ) -> LikelihoodEstimate:
        """−Σ_i log p(x_i | x_<i, the rest of its block masked): exact for generation from left to right, one by one.

        Args:
            network: as for `negative_log_likelihood`.
            tokens: ``(B, L)``, whole blocks; b evaluations per sequence.
            cond: condition or None.
        """
        length = _block_length(network, tokens)
        within = torch.arange(tokens.shape[1], device=tokens.device) % length
        nats = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        for place in range(length):
            z = tokens.masked_fill(within >= place, self.process.mask)
            nats += self._spread(network, tokens, z, (within == place).expand(tokens.shape), cond).sum(-1)
        return LikelihoodEstimate(nats, "exact")

    def _surprise(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """−log p of ``tokens`` ``(m,)``, none of which the network saw, by its logits ``(m, V)``."""
        open_row = torch.full((1, len(logits)), self.process.mask, device=logits.device)
        log_probs = self.process.clean_log_probs(logits.unsqueeze(0), open_row).squeeze(0)
        return -token_log_probs(log_probs, tokens)

    def _spread(self, network: nn.Module, x0: Tensor, z: Tensor, where: Tensor, cond: Any) -> Tensor:
        """−log p(x_i | z^k, x^{<k}) at masked positions ``where`` ``(B, L)``, 0 elsewhere; ``(B, L)`` float64."""
        values = torch.zeros(x0.shape, dtype=torch.float64, device=x0.device)
        logits = network(torch.ones((), device=z.device), z, cond, clean=x0, where=where)
        values[where] = self._surprise(logits, x0[where]).double()
        return values


def _block_length(network: nn.Module, tokens: Tensor) -> int:
    """The network's block length, which divides the rows."""
    length = block_length_of(network)
    if tokens.shape[1] % length:
        raise ValueError(f"{tokens.shape[1]} tokens a row are no multiple of block_length = {length}")
    return length


def _count(share: Tensor, length: int) -> Tensor:
    """Number of masks of a block for a share in (0, 1]."""
    return (share * length).ceil().clamp(1, length).long()
