"""Sampling of text in the space of its embeddings, by any continuous sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.embedding import EmbeddingProcess
from isocline.processes.rounding import AbstractRounding, NearestRounding
from isocline.samplers.base import AbstractSampler
from isocline.samplers.embedding_denoiser import EmbeddingDenoiser
from isocline.samplers.prompt import Prompt
from isocline.samplers.text_length import AbstractTextLength, FullLength
from isocline.samplers.token_law import Sharpening
from isocline.solvers.markov import draw_symbols
from isocline.solvers.solution import Solution

__all__ = ["EmbeddingSampler"]


class EmbeddingSampler:
    """Draw embeddings from noise, then round them to tokens.

    The network is asked by the continuous sampler alone, at most ``nfe`` times a sequence; rounding costs nothing.

    Args:
        sampler: draws the embeddings: DDIM, ancestral or any other one of a Gaussian process, guided or not.
        rounding: law of tokens at the end; the nearest embedding by default.
        wrap: what is put around the denoiser first (`ClampedEmbeddings`, say).
        length: how long a text is; all positions by default.
        temperature: of the law of tokens that the expected embedding is the mean of; 0 commits to the likeliest.
        top_p: nucleus of that law.
        min_p: minimum probability relative to the largest.
    """

    def __init__(
        self,
        sampler: AbstractSampler,
        rounding: AbstractRounding | None = None,
        wrap: Callable[[EmbeddingDenoiser], AbstractDenoiser] | None = None,
        length: AbstractTextLength | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
    ) -> None:
        self.sampler = sampler
        self.rounding = NearestRounding() if rounding is None else rounding
        self.wrap = wrap
        self.length = FullLength() if length is None else length
        self.sharpening = Sharpening(temperature, top_p, min_p)

    @torch.no_grad()
    def sample(
        self,
        network: nn.Module,
        process: EmbeddingProcess,
        shape: Sequence[int],
        nfe: int,
        generator: torch.Generator,
        prompt: tuple[Tensor, Tensor] | None = None,
        save_steps: bool = False,
        cond: Any = None,
    ) -> Solution:
        """Generate ``shape`` = (B, L) tokens.

        Args:
            network: see `isocline.processes.embedding.EmbeddingProcess`.
            process: its process.
            shape: (B, L).
            nfe: most network evaluations per sequence.
            generator: source of every random draw.
            prompt: ``(tokens, fixed)``, each ``(B, L)`` or ``(L,)``, or None. The embeddings of given tokens stand in
                every prediction; they stay to the bit in the result.
            save_steps: keep the tokens nearest to the state after every step instead of the end alone.
            cond: condition or None.

        Returns:
            Solution with int64 tokens as states; ``stats.nfe`` counts network evaluations.

        Raises:
            ValueError: if the budget does not pay for one evaluation or the prompt does not fit.
        """
        given = Prompt.parse(prompt, shape, process.mask, generator.device)
        given = self.length.begin(network, given, generator, cond)
        asked = EmbeddingDenoiser(network, process, given, self.sharpening, self.length.banned)
        denoiser: AbstractDenoiser = asked if self.wrap is None else self.wrap(asked)
        table = asked.table
        noise = process.gaussian.noise((*shape, table.shape[-1]), generator, table.dtype)
        solution = self.sampler.sample(denoiser, noise, nfe, cond, generator, save_steps)
        tokens = [self._nearest(process, t, y, asked) for t, y in zip(solution.ts[:-1], solution.ys, strict=False)]
        tokens.append(self._rounded(solution.final, asked, generator))
        tokens[-1] = self.length.finish(given.impose(tokens[-1]))
        return dataclasses.replace(solution, ys=torch.stack([given.impose(state) for state in tokens]))

    def _nearest(self, process: EmbeddingProcess, t: Tensor, state: Tensor, asked: EmbeddingDenoiser) -> Tensor:
        alpha = float(process.gaussian.schedule(t).alpha)
        return self._allowed(NearestRounding.scores(state, asked.table, alpha), asked.banned).argmax(-1)

    def _rounded(self, state: Tensor, asked: EmbeddingDenoiser, generator: torch.Generator) -> Tensor:
        table, banned = asked.table, asked.banned
        if banned is not None:
            kept = torch.arange(len(table), device=table.device) != banned
            law = self.rounding.log_probs(state, table[kept])
            return torch.nonzero(kept).flatten()[draw_symbols(law.double().exp(), generator)]
        return draw_symbols(self.rounding.log_probs(state, table).double().exp(), generator)

    @staticmethod
    def _allowed(scores: Tensor, banned: int | None) -> Tensor:
        if banned is None:
            return scores
        return scores.index_fill(-1, torch.tensor([banned], device=scores.device), -torch.inf)
