"""Exact steps of chains whose positions are independent, by matrix exponentials; for small vocabularies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.markov import draw_symbols, markov_problem
from isocline.solvers.markov_clock import AbstractClock
from isocline.solvers.problem import AbstractProblem, MarkovProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["MarkovExponential", "generator_matrices", "transition_matrices"]

_GAUSS = 0.5 / math.sqrt(3)


@dataclass(frozen=True)
class MarkovExponential(AbstractStepper):
    """Draw every position from its row of ``P = exp ∫ Q dt``, Q being the V × V generator of that position.

    For chains whose positions are independent: the rates of one depend on no other's symbol. The generators are read
    off the problem's ``rate`` by showing it sequences of one symbol, for every symbol: V evaluations.

    With a clock, the rates are ``β(t) R(z)`` (`isocline.solvers.markov_clock`), read once and for all: the law is exact
    for steps of any length. Without one, the rates are integrated over each step by Gauss's two-point rule (2 V
    evaluations): exact where the generators at different times commute and change no faster than a cubic polynomial,
    of weak order 2 otherwise; a transition matrix at any step size, for the integral of generators is one. One more
    evaluation in the first step checks the independence. The clock's span has to be finite.

    Source: Campbell et al., A continuous time framework for discrete denoising models (2022), section 4.1 (forward
    kernel); Blanes et al., The Magnus expansion and some of its applications (2009), section 2 (order without
    commutators).

    Attributes:
        clock: integrates β; None for rates that depend on time in any way.
    """

    order = 2.0

    clock: AbstractClock | None = None

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Draw all positions; see the base class.

        Rates that are negative or not finite make the sample's step invalid.

        Raises:
            TypeError: if the problem is not a `MarkovProblem`.
            ValueError: if the rates of a position depend on the other positions.
        """
        chain = markov_problem(self, problem)
        batch, first = len(y0), carry is None
        if self.clock is None:
            middle, reach = (t0 + t1) / 2, (t1 - t0) * _GAUSS
            matrices, again = (generator_matrices(chain, time, y0) for time in (middle - reach, middle + reach))
            checked, nfe, carry = middle - reach, 2 * matrices.shape[-1], ()
            integral = (matrices + again) * ((t1 - t0).abs() / 2).expand(batch)[:, None, None, None]
        else:
            matrices = generator_matrices(chain, t0, y0) if carry is None else carry
            checked, nfe, carry = t0, matrices.shape[-1] if carry is None else 0, matrices
            integral = matrices * self.clock.elapsed(t0.expand(batch), t1.expand(batch))[:, None, None, None]
        if first:
            # One evaluation at the real tokens finds out chains for which the method is wrong.
            _check_independent(chain.evaluate(checked, y0).double(), matrices, y0)
            nfe += 1
        transition, valid = transition_matrices(integral)
        z = torch.where(valid[:, None], draw_symbols(_present(transition, y0), chain.generator), y0)
        return StepResult(z, carry=carry, nfe=nfe, failed=~valid)


def generator_matrices(problem: MarkovProblem, t: Tensor, z: Tensor) -> Tensor:
    """Rates from every symbol to every other at every position, rows summing to zero.

    Args:
        problem: a chain with independent positions.
        t: time, shape () or (B,).
        z: tokens, for shape and device, (B, L).

    Returns:
        float64, shape (B, L, V, V): entry (i, j) is the rate from i to j.
    """
    first = problem.evaluate(t, torch.zeros_like(z)).double()
    others = [problem.evaluate(t, torch.full_like(z, symbol)).double() for symbol in range(1, first.shape[-1])]
    rates = torch.stack([first, *others], 2)
    unit = torch.eye(rates.shape[-1], dtype=torch.bool, device=rates.device)
    rates = torch.where(unit, 0.0, rates)
    return rates - torch.diag_embed(rates.sum(-1))


def transition_matrices(integral: Tensor) -> tuple[Tensor, Tensor]:
    """``exp`` of integrated generators, and which samples' are generators.

    Args:
        integral: float64, shape (B, L, V, V).

    Returns:
        transition matrices, the identity for samples that are not valid, and bool of shape (B,).
    """
    unit = torch.eye(integral.shape[-1], dtype=torch.bool, device=integral.device)
    positive = torch.where(unit, 0.0, integral) >= 0
    valid = (positive & integral.isfinite()).flatten(1).all(1)
    safe = torch.where(valid[:, None, None, None], integral, 0.0)
    # Rounding leaves entries of the order of -1e-17, which are no probabilities.
    return torch.linalg.matrix_exp(safe).clamp(min=0), valid


def _present(matrices: Tensor, z: Tensor) -> Tensor:
    """The row of the present symbol, shape (B, L, V)."""
    return matrices.gather(2, z[..., None, None].expand(-1, -1, 1, matrices.shape[-1])).squeeze(2)


def _check_independent(rates: Tensor, matrices: Tensor, z: Tensor) -> None:
    unit = torch.nn.functional.one_hot(z, rates.shape[-1]).bool()
    differs = (rates - _present(matrices, z)).abs() > 1e-5 * rates.abs() + 1e-12
    differs = (differs & ~unit).any(-1)
    if bool(differs.any()):
        sample, place = (int(index) for index in torch.nonzero(differs)[0])
        raise ValueError(
            f"the rates of sample {sample} at position {place} depend on other positions; MarkovExponential is for "
            "independent ones: take Gillespie"
        )
