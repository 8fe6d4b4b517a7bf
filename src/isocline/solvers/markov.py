"""Steps of continuous-time Markov chains on tokens: the same loop, a state of integers.

Positions jump independently within a step, given the whole sequence at its start.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.problem import AbstractProblem, MarkovProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["AbstractMarkovStepper", "MarkovEuler", "TauLeaping", "clean_rates", "draw_symbols", "markov_problem"]


def draw_symbols(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw one symbol per position by inverting the distribution function in float64.

    Float32 Gumbel noise would truncate the tail of a large vocabulary.

    Args:
        weights: non-negative, not necessarily normalised, shape (..., V).
        generator: source of the draws: one uniform number per position, whatever V.

    Returns:
        int64, shape (...); a symbol of weight zero is never drawn unless all weights are zero.
    """
    source = generator.device
    share = torch.rand(weights.shape[:-1], generator=generator, dtype=torch.float64, device=source).to(weights.device)
    cumulative = weights.double().cumsum(-1)
    # A share below one times the total can round up to the total: the last symbol of positive weight is the bound.
    total = cumulative[..., -1:].contiguous()
    last = torch.searchsorted(cumulative, total)
    found = torch.searchsorted(cumulative, share.unsqueeze(-1) * total, right=True)
    # Weights that are not numbers send the search anywhere.
    return torch.minimum(found, last).squeeze(-1).clamp(max=weights.shape[-1] - 1)


def markov_problem(stepper: AbstractStepper, problem: AbstractProblem) -> MarkovProblem:
    """The problem, if it is a Markov chain.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(problem, MarkovProblem):
        raise TypeError(f"{type(stepper).__name__} got a {type(problem).__name__}; expected a MarkovProblem")
    return problem


def clean_rates(rates: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Rates in float64, zero at the current symbol, and which samples' are rates.

    Args:
        rates: shape (B, L, V).
        z: tokens, int64, shape (B, L).

    Returns:
        rates, and bool of shape (B,), False where a rate is negative or not finite.
    """
    rates = rates.double().scatter(-1, z[..., None], 0.0)
    # Comparisons with NaN are false, so rates that are not finite count as invalid, as negative ones do.
    return rates, ((rates.amin(-1) >= 0) & rates.sum(-1).isfinite()).all(1)


class AbstractMarkovStepper(AbstractStepper):
    """A step on tokens. A subclass implements `jump`; samplers of text with other networks override `step` directly."""

    order = 1.0
    nfe_per_step = 1

    @abstractmethod
    def jump(self, rates: Tensor, dt: Tensor, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Move the tokens of every position.

        Args:
            rates: shape (B, L, V), float64, zero at the current symbol.
            dt: length of the step, positive, shape () or (B, 1).
            z: tokens, int64, shape (B, L).
            generator: source of the draws.

        Returns:
            new tokens, and which samples' step was invalid (bool, shape (B,)) or None.
        """

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Advance by one step; see the base class.

        Rates that are negative or not finite make the sample's step invalid.

        Raises:
            TypeError: if the problem is not a `MarkovProblem`.
        """
        chain = markov_problem(self, problem)
        rates, valid = clean_rates(chain.evaluate(t0, y0), y0)
        tokens, failed = self.jump(rates, expand_like((t1 - t0).abs(), y0), y0, chain.generator)
        return StepResult(tokens, failed=~valid if failed is None else ~valid | failed)


class MarkovEuler(AbstractMarkovStepper):
    """Euler's step: jump to y with probability ``|Δt| R(z, y)``, stay with the rest.

    Exact where the rates make it so (absorbing kernel with a linear schedule, whose last step has probability one). A
    step on which the probabilities of leaving exceed one is invalid, and the sample's status says so.

    Source: Campbell et al., A continuous time framework for discrete denoising models (2022), section 4.
    """

    def jump(self, rates: Tensor, dt: Tensor, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """See the base class."""
        leave = rates * dt[..., None]
        total = leave.sum(-1)
        stay = (1 - total).clamp(min=0)
        weights = leave.scatter(-1, z[..., None], stay[..., None])
        return draw_symbols(weights, generator), (total > 1 + 1e-9).flatten(1).any(1)


class TauLeaping(AbstractMarkovStepper):
    """Tau-leaping on unordered symbols: rates frozen over the step, and the first jump within it, if any, is taken.

    The position leaves with probability ``1 - exp(-|Δt| Σ_y R(z, y))`` for y with probability proportional to
    ``R(z, y)``: with unordered symbols a second jump of the same position would have no meaning.

    Source: Campbell et al., A continuous time framework for discrete denoising models (2022), section 4.3.
    """

    def jump(self, rates: Tensor, dt: Tensor, z: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """See the base class."""
        total = rates.sum(-1, keepdim=True)
        leave = -torch.expm1(-total * dt[..., None])
        weights = rates * torch.where(total > 0, leave / total, 0.0)
        return draw_symbols(weights.scatter(-1, z[..., None], 1 - leave), generator), None
