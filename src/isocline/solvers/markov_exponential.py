"""Exact steps of chains whose positions are independent, by matrix exponentials; for small vocabularies."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.markov import draw_symbols, markov_problem
from isocline.solvers.markov_clock import AbstractClock
from isocline.solvers.problem import AbstractProblem, MarkovProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = [
    "MarkovExponential",
    "generator_matrices",
    "integrated_generators",
    "integrated_rates",
    "transition_matrices",
]

_GAUSS = 0.5 / math.sqrt(3)


@dataclass(frozen=True)
class MarkovExponential(AbstractStepper):
    """Draw every position from its row of ``P = exp ∫ Q dt``, Q being the V × V generator of that position.

    For chains whose positions are independent: the rates of one depend on no other's symbol. The generators are read
    off the problem's ``rate`` by showing it sequences of one symbol, for every symbol: V evaluations.

    With a clock, the rates are ``β(t) R(z)`` (`isocline.solvers.markov_clock`), read once and for all: the law is exact
    for steps of any length. Without one, the rates are integrated over each step by Gauss's two-point rule (2 V
    evaluations): exact where the generators at different times commute and change no faster than a cubic polynomial,
    of weak order 2 otherwise; a transition matrix at any step size, for the integral of generators is one. One or two
    more evaluations in the first step check the independence. The clock's span has to be finite.

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
        first, nfe = carry is None, 0
        if self.clock is None:
            integral = integrated_generators(chain, t0, t1, y0)
            carry, nfe = (), 2 * integral.shape[-1]
        else:
            elapsed = self.clock.elapsed(t0.expand(len(y0)), t1.expand(len(y0)))[:, None, None, None]
            if first:
                carry = generator_matrices(chain, t0, y0)
                nfe = carry.shape[-1]
            integral = carry * elapsed
        if first:
            # What the real tokens are told finds out chains for which the method is wrong.
            if self.clock is None:
                told, more = integrated_rates(chain, t0, t1, y0), 2
            else:
                told, more = chain.evaluate(t0, y0).double() * elapsed.squeeze(-1), 1
            _check_independent(told, _present(integral, y0), y0)
            nfe += more
        transition, valid = transition_matrices(integral)
        z = torch.where(valid[:, None], draw_symbols(_present(transition, y0), chain.generator), y0)
        return StepResult(z, carry=carry, nfe=nfe, failed=~valid)


def integrated_rates(problem: MarkovProblem, t0: Tensor, t1: Tensor, z: Tensor) -> Tensor:
    """``|∫ R(t, z) dt|`` from t0 to t1 by Gauss's two-point rule, float64, shape (B, L, V).

    Args:
        problem: the chain.
        t0: start, shape () or (B,).
        t1: end, likewise.
        z: tokens, which do not move, (B, L).
    """
    middle, reach = (t0 + t1) / 2, (t1 - t0) * _GAUSS
    total = problem.evaluate(middle - reach, z).double() + problem.evaluate(middle + reach, z).double()
    return total * ((t1 - t0).abs() / 2).expand(len(z))[:, None, None]


def integrated_generators(problem: MarkovProblem, t0: Tensor, t1: Tensor, z: Tensor) -> Tensor:
    """As `generator_matrices`, integrated from t0 to t1 as by `integrated_rates`."""
    return _matrices(lambda tokens: integrated_rates(problem, t0, t1, tokens), z)


def generator_matrices(problem: MarkovProblem, t: Tensor, z: Tensor) -> Tensor:
    """Rates from every symbol to every other at every position, rows summing to zero.

    Args:
        problem: a chain with independent positions.
        t: time, shape () or (B,).
        z: tokens, for shape and device, (B, L).

    Returns:
        float64, shape (B, L, V, V): entry (i, j) is the rate from i to j.
    """
    return _matrices(lambda tokens: problem.evaluate(t, tokens).double(), z)


def _matrices(rates: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    first = rates(torch.zeros_like(z))
    table = torch.stack([first, *(rates(torch.full_like(z, symbol)) for symbol in range(1, first.shape[-1]))], 2)
    unit = torch.eye(table.shape[-1], dtype=torch.bool, device=table.device)
    table = torch.where(unit, 0.0, table)
    return table - torch.diag_embed(table.sum(-1))


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


def _check_independent(told: Tensor, found: Tensor, z: Tensor) -> None:
    unit = torch.nn.functional.one_hot(z, told.shape[-1]).bool()
    differs = ((told - found).abs() > 1e-5 * told.abs() + 1e-12) & ~unit
    if bool(differs.any()):
        sample, place = (int(index) for index in torch.nonzero(differs.any(-1))[0])
        raise ValueError(
            f"the rates of sample {sample} at position {place} depend on other positions; MarkovExponential is for "
            "independent ones: take Gillespie"
        )
