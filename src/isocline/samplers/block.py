"""Semi-autoregressive sampling of block diffusion: block after block, each denoised by a sampler of masked models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from isocline.objectives.block_diffusion import block_length_of
from isocline.processes.kernel import AbsorbingKernel
from isocline.samplers.block_reader import BlockReader, CachedReader, FullReader
from isocline.samplers.discrete import AbstractDiscreteSampler, absorbing_kernel
from isocline.samplers.first_hitting import FirstHittingSampler
from isocline.samplers.prompt import Prompt
from isocline.solvers.solution import Solution, Statistics, Status

__all__ = ["BlockSampler", "split_budget"]


class BlockSampler:
    """Generate from left to right by blocks; within a block by any sampler of masked diffusion.

    A network with ``empty_cache`` and ``decode_block`` (see `isocline.networks.block_transformer`) keeps the keys and
    values of finished blocks: a step costs as much as its block is long. A block that has just been finished is read
    together with the first step of the next one, so it costs no evaluation of its own.

    Args:
        inner: how a block is denoised; first-hitting by default, which is exact at one evaluation per token.
            Temperature and truncation are the inner sampler's.

    Source: Arriola et al., Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models (2025),
    Algorithm 2.
    """

    def __init__(self, inner: AbstractDiscreteSampler | None = None) -> None:
        self.inner = FirstHittingSampler() if inner is None else inner

    @torch.no_grad()
    def sample(
        self,
        network: nn.Module,
        process: AbsorbingKernel,
        shape: Sequence[int],
        nfe: int,
        generator: torch.Generator,
        prompt: tuple[Tensor, Tensor] | None = None,
        save_steps: bool = False,
        cond: Any = None,
    ) -> Solution:
        """Generate ``shape`` = (B, L) tokens.

        Args:
            network: ``network(t, z, cond) -> (B, L, V)`` logits, given finished blocks in ``z``; has ``block_length``.
            process: the absorbing kernel that the network was trained with.
            shape: (B, L); of a last block that is not whole the rest is generated too, and cut off.
            nfe: evaluations per sequence, split over the blocks with open positions in proportion to their number;
                each gets one at least, so that fewer than there are such blocks are exceeded: ``stats.nfe`` says it.
            generator: source of every draw.
            prompt: ``(tokens, fixed)``, each ``(B, L)`` or ``(L,)``. A block is drawn given all tokens of the blocks
                before and the fixed ones within it. Fixed tokens of later blocks are kept, but what stands before
                their block is drawn without knowing them.
            save_steps: keep every state, the start included; what is still to come is masked.
            cond: handed to the network; tensors in it lead with B.

        Returns:
            Solution with int64 ``ys`` ``(K, B, L)``; its times run from 1 to 0, each block taking an equal part.

        Raises:
            ValueError: if the budget is below 1, the prompt does not fit, or the network has no blocks.
            TypeError: if the kernel is not absorbing.
        """
        if nfe < 1:
            raise ValueError(f"nfe = {nfe}: a sampler needs at least one evaluation")
        absorbing_kernel(process, "sampling by blocks")
        given = Prompt.parse(prompt, shape, process.mask, generator.device)
        size = block_length_of(network)
        blocks = -(-shape[1] // size)
        whole = (shape[0], blocks * size)
        tokens = process.prior(whole, generator, generator.device)
        tokens[:, : shape[1]] = given.impose(tokens[:, : shape[1]])
        open_positions = process.undecided(tokens).reshape(shape[0], blocks, size).sum(-1).amax(0).tolist()
        reader = (CachedReader if hasattr(network, "decode_block") else FullReader)(network, tokens, cond)
        everyone = torch.arange(shape[0], device=tokens.device)
        record = _Record(tokens, shape[1], save_steps)
        for index, steps in enumerate(split_budget(nfe, open_positions)):
            if steps == 0:
                continue
            reader.start, reader.end = index * size, (index + 1) * size
            block = tokens[:, reader.start : reader.end].clone()
            solution = self.inner.sample(
                reader, process, (shape[0], size), steps, generator,
                (block, ~process.undecided(block)) if bool((~process.undecided(block)).any()) else None,
                save_steps, (everyone, cond),
            )  # fmt: skip
            record.add(solution, reader, index, blocks)
        return record.solution()


def split_budget(nfe: int, open_positions: Sequence[int]) -> Iterator[int]:
    """Yield each block's share of evaluations: none without open positions, else one and a share of what is left.

    What is left is shared in proportion to the open positions after the first.

    Args:
        nfe: for all blocks; exceeded if there are more blocks to do.
        open_positions: of every block, at most over the batch.
    """
    left = max(0, nfe - sum(count > 0 for count in open_positions))
    total = sum(max(0, count - 1) for count in open_positions)
    seen = given = 0
    for count in open_positions:
        seen += max(0, count - 1)
        due = round(left * seen / total) if total else 0
        yield (1 + due - given) if count else 0
        given = due


class _Record:
    """Puts the solutions of the blocks together.

    Attributes:
        tokens: of the whole sequences, ``(B, K·b)``, changed in place as blocks are finished.
        length: tokens wanted.
        every: whether all states are kept.
    """

    def __init__(self, tokens: Tensor, length: int, every: bool) -> None:
        self.tokens, self.length, self.every = tokens, length, every
        zeros = torch.zeros(len(tokens), dtype=torch.int64, device=tokens.device)
        self.stats = Statistics(*(zeros for _ in fields(Statistics)))
        self.status = zeros + int(Status.SUCCESS)
        self.stopped_at = zeros.double()
        self.times: list[Tensor] = []
        self.states: list[Tensor] = []
        if every:
            self._keep(torch.ones((), dtype=torch.float64))

    def _keep(self, time: Tensor) -> None:
        self.times.append(time.cpu())
        self.states.append(self.tokens[:, : self.length].clone())

    def add(self, solution: Solution, reader: BlockReader, index: int, blocks: int) -> None:
        """Write a block's tokens and count its work; within it time runs from 1 to 0."""
        left = blocks - index - 1
        first = 1 if self.every else len(solution.ts) - 1  # the block's start is the end of the one before
        for time, state in zip(solution.ts[first:], solution.ys[first:], strict=True):
            self.tokens[:, reader.start : reader.end] = state
            if self.every:
                self._keep((left + time) / blocks)
        self.stats = Statistics(
            *(getattr(self.stats, f.name) + getattr(solution.stats, f.name) for f in fields(Statistics))
        )
        fresh = (self.status == int(Status.SUCCESS)) & (solution.status != int(Status.SUCCESS))
        self.status = torch.where(fresh, solution.status, self.status)
        self.stopped_at = torch.where(fresh, (left + solution.stopped_at) / blocks, self.stopped_at)

    def solution(self) -> Solution:
        """All blocks together."""
        if not self.every:
            self._keep(torch.zeros((), dtype=torch.float64))
        return Solution(torch.stack(self.times), torch.stack(self.states), self.stats, self.status, self.stopped_at)
