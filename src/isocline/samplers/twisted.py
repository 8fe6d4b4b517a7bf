"""Exact prompting under noise of real symbols: particles that carry a prompt's own corruption and are weighted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.corruption import AbstractCorruption
from isocline.samplers.discrete import AbstractDiscreteSampler, AncestralSampler, require_clean_end
from isocline.samplers.prompt import Prompt
from isocline.samplers.watched_law import sample_chain
from isocline.solvers.markov import draw_symbols, markov_problem
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.rows import map_tensors
from isocline.solvers.solution import Solution, Statistics
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["TwistedSampler", "TwistedStepper"]


@dataclass(frozen=True)
class TwistedStepper(AbstractStepper):
    """One step of K particles for each sequence: weigh, draw ancestors, take an ancestral step towards the prompt.

    The target at t is the law of the chain times h_t(z) = Π_i p(c_i|z_t) over the prompted positions, the network's
    own opinion of the prompt c; at t = 0 that is the law of the chain given the prompt. Free positions are drawn from
    the posterior under p(x|z), prompted ones from the posterior given x = c, and a particle's weight is multiplied by
    Π_i p(z_s|z_t)/p(z_s|z_t, c) · h_s/h_t. Whatever h is, the law is exact as K grows.

    The carry is the logarithm of each particle's weight without the h of its present time, ``(B·K,)``.

    Attributes:
        kernel: the corruption that is undone.
        prompt: of every particle.
        particles: K; rows of a sequence are next to each other.
    """

    kernel: AbstractCorruption
    prompt: Prompt
    particles: int

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Tensor:
        """Equal weights."""
        return torch.zeros(len(y0), dtype=torch.float64, device=y0.device)

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Weigh, draw ancestors, move."""
        generator = markov_problem(self, problem).generator
        probs = problem.evaluate(t0, y0)
        opinion = self._opinion(probs)
        ancestors = self._ancestors(carry + opinion, generator)
        z, probs, opinion = y0[ancestors], probs[ancestors], opinion[ancestors]
        fixed, given = self.prompt.fixed, torch.nn.functional.one_hot(self.prompt.tokens, probs.shape[-1]).double()
        free_law = self.kernel.posterior(z, t1, t0, probs)
        given_law = self.kernel.posterior(z, t1, t0, given)
        drawn = draw_symbols(torch.where(fixed.unsqueeze(-1), given_law, free_law), generator)
        likely, proposed = (law.gather(-1, drawn.unsqueeze(-1)).squeeze(-1) for law in (free_law, given_law))
        ratio = torch.where(fixed, likely.log() - proposed.log(), 0.0).sum(-1)
        weights = ratio - opinion
        if bool((t1 == 0).all()):
            drawn = drawn[self._ancestors(weights, generator)]
        return StepResult(drawn, carry=weights)

    def _opinion(self, probs: Tensor) -> Tensor:
        """Ln h, ``(B·K,)``."""
        given = probs.gather(-1, self.prompt.tokens.unsqueeze(-1)).squeeze(-1)
        return torch.where(self.prompt.fixed, given.clamp(min=torch.finfo(torch.float64).tiny).log(), 0.0).sum(-1)

    def _ancestors(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Rows drawn by weight within each sequence, ``(B·K,)``."""
        laws = weights.reshape(-1, self.particles).softmax(-1)
        chosen = draw_symbols(laws.unsqueeze(1).expand(-1, self.particles, -1), generator)
        first = torch.arange(len(laws), device=weights.device)[:, None] * self.particles
        return (first + chosen).flatten()


class TwistedSampler(AbstractDiscreteSampler):
    """Ancestral sampling with prompts that are conditioned on under any noise, by sequential Monte Carlo.

    A network of uniform or hybrid noise knows one time for all positions, so that tokens of a prompt that are simply
    put in place pass for possible noise. Here prompted positions are corrupted like the others and led back to their
    tokens, and the K particles of a sequence are weighted by how well they explain the prompt: the conditional law is
    that of the ancestral chain, exact as K grows. Each particle costs its own evaluations, so that a budget pays for
    K times fewer steps. Without a prompt it is ancestral sampling, and for masked models `AncestralSampler` conditions
    exactly at once.

    Args:
        particles: K.
        temperature: of the law of clean tokens; 0 is greedy.
        top_p: nucleus of the law.
        min_p: minimum probability relative to the largest.

    Raises:
        ValueError: if there is no particle.

    Source: Wu et al., *Practical and Asymptotically Exact Conditional Sampling in Diffusion Models*, 2023 (twisted
    diffusion sampler), here on tokens.
    """

    def __init__(self, particles: int = 4, temperature: float = 1.0, top_p: float = 1.0, min_p: float = 0.0) -> None:
        super().__init__(temperature, top_p, min_p)
        if particles < 1:
            raise ValueError(f"particles = {particles}: must be at least 1")
        self.particles = particles

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """The step without a prompt, the ancestral one."""
        return AncestralSampler().stepper(kernel)

    @torch.no_grad()
    def sample(
        self,
        network: nn.Module,
        process: AbstractCorruption,
        shape: Sequence[int],
        nfe: int,
        generator: torch.Generator,
        prompt: tuple[Tensor, Tensor] | None = None,
        save_steps: bool = False,
        cond: Any = None,
    ) -> Solution:
        """Generate ``shape`` = (B, L) tokens; see the base class.

        Raises:
            ValueError: if the budget does not pay for one step of every particle, or the prompt does not fit.
        """
        if prompt is None:
            return super().sample(network, process, shape, nfe, generator, None, save_steps, cond)
        count = self.particles
        if nfe < count:
            raise ValueError(f"nfe = {nfe}: particles = {count} need one evaluation each; raise nfe")
        require_clean_end(process)
        given = Prompt.parse(prompt, shape, process.mask, generator.device)
        many = Prompt(*(part.repeat_interleave(count, 0) for part in (given.tokens, given.fixed)))
        start = process.prior(many.tokens.shape, generator, generator.device)
        repeated = map_tensors(lambda part: part.repeat_interleave(count, 0), cond)
        law, stepper = self.law(network, process), TwistedStepper(process, many, count)
        solution = sample_chain(law, start, stepper, nfe // count, generator, repeated, save_steps)
        work = solution.stats
        stats = Statistics(
            work.nfe.reshape(-1, count).sum(-1),
            *(part[::count] for part in (work.accepted, work.rejected, work.jacobians, work.factorizations)),
        )
        # Ancestors of the last step are drawn anew for each particle: the first one is a draw by weight.
        return dataclasses.replace(
            solution,
            ys=torch.where(given.fixed, given.tokens, solution.ys[:, ::count]),
            stats=stats,
            status=solution.status.reshape(-1, count).amax(-1),
            stopped_at=solution.stopped_at[::count],
        )
