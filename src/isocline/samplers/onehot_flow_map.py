"""Sampling of tokens by flow maps of one-hot vectors: few evaluations, each for all positions together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.denoiser import Denoiser
from isocline.processes.grid import AbstractTimeGrid
from isocline.processes.onehot_network import VectorNetwork, vector_process
from isocline.processes.onehot_path import OneHotGaussianPath
from isocline.samplers.flow_map import FlowMapSampler
from isocline.samplers.prompt import Prompt
from isocline.samplers.token_law import Sharpening
from isocline.solvers.markov import draw_symbols
from isocline.solvers.solution import Solution

__all__ = ["OneHotFlowMapSampler"]


class _Certain(nn.Module):
    """A network that is sure of the given tokens."""

    def __init__(self, network: nn.Module, given: Prompt, symbols: int) -> None:
        super().__init__()
        self.network, self.fixed = network, given.fixed.unsqueeze(-1)
        self.takes_end = bool(getattr(network, "takes_end", False))
        wrong = torch.arange(symbols, device=given.tokens.device) != given.tokens.unsqueeze(-1)
        self.certain = torch.zeros(wrong.shape, device=wrong.device).masked_fill(wrong, -torch.inf)

    def forward(self, t: Tensor, x: Tensor, cond: Any = None, **end: Tensor) -> Tensor:
        logits = self.network(t, x, cond, **end)
        return torch.where(self.fixed, self.certain.to(logits.dtype), logits)


class OneHotFlowMapSampler:
    """Flow-map sampling (`isocline.samplers.flow_map`) from noise to a law at every position, then tokens drawn.

    Tokens depend on each other through the noise that they share; what the last law leaves open is drawn position by
    position. A prompted position is certain in every prediction.

    Args:
        grid: the times of evaluation, from t_max; equidistant in t by default.
        gamma: γ = 1, multistep consistency sampling, by default.
        greedy_last: take the most probable tokens at the end instead of drawing.
        t_max: where to start, as in `isocline.distillation.onehot_distillation`.
    """

    def __init__(
        self,
        grid: AbstractTimeGrid | None = None,
        gamma: float = 1.0,
        greedy_last: bool = False,
        t_max: float = 0.99,
    ) -> None:
        self.maps = FlowMapSampler(grid, gamma)
        self.t_max = t_max
        self.last = Sharpening(temperature=0.0) if greedy_last else Sharpening()

    @torch.no_grad()
    def sample(
        self,
        network: nn.Module,
        process: OneHotGaussianPath,
        shape: Sequence[int],
        nfe: int,
        generator: torch.Generator,
        prompt: tuple[Tensor, Tensor] | None = None,
        save_steps: bool = False,
        cond: Any = None,
    ) -> Solution:
        """Generate ``shape`` = (B, L) tokens.

        Args:
            network: ``network(t, view, cond) -> (B, L, S)`` logits, on the generator's device.
            process: the path that the network was trained with.
            shape: (B, L).
            nfe: evaluations per sequence.
            generator: source of all noise and of the last draw.
            prompt: ``(tokens, fixed)``, each ``(B, L)`` or ``(L,)``: positions where ``fixed`` keep their token.
            save_steps: keep every state, the start included, as its largest entries.
            cond: handed to the network.

        Returns:
            Solution with int64 ``ys`` ``(K, B, L)``; ``final`` holds real tokens only.

        Raises:
            ValueError: if the budget is below 1 or the prompt does not fit.
            TypeError: if the process is no path of one-hot vectors.
        """
        if not isinstance(process, OneHotGaussianPath):
            raise TypeError(f"process = {type(process).__name__}: flow maps of tokens need OneHotGaussianPath")
        given = Prompt.parse(prompt, shape, process.mask, generator.device)
        noise = process.prior(tuple(shape), generator, generator.device)
        certain = _Certain(network, given, process.symbols)
        denoiser = Denoiser(VectorNetwork(certain, process), vector_process(process, self.t_max))
        solution = self.maps.sample(denoiser, noise, nfe, cond, generator, save_steps)
        law = (solution.final.double() / process.scale).clamp_min(0.0)
        tokens = given.impose(draw_symbols(self.last(law.log()), generator))
        states = [given.impose(state.argmax(-1)) for state in solution.ys[:-1]]
        return replace(solution, ys=torch.stack([*states, tokens]))
