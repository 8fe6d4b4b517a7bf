"""Steps in the state y = (1 − s) x_0 + s ε of `LinearPathVariable` that know the noise: y/(1 − s) = x/α =: z, and
with ρ = s/(1 − s) = σ/α the flow is dz/dρ = ε. Positions are kept on the host, where their arithmetic is done.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["AbstractNoiseStep", "DDIMStep", "HeunStep", "NoiseEvaluation", "NoiseStepper", "noise_ratio", "transfer"]


class NoiseEvaluation(NamedTuple):
    """The field at one point.

    Attributes:
        slope: dy/ds = ε − x_0, shape of the state.
        noise: ε, likewise.
    """

    slope: Tensor
    noise: Tensor

    @classmethod
    def at(cls, problem: AbstractProblem, s: float, y: Tensor) -> NoiseEvaluation:
        """Evaluate once: ε = y + (1 − s) dy/ds.

        Args:
            problem: the flow in `LinearPathVariable`.
            s: the position.
            y: the state.
        """
        slope = _slope(problem, s, y)
        return cls(slope, torch.add(y, slope, alpha=1 - s))


def transfer(
    y0: Tensor, here: NoiseEvaluation, s0: float, s1: float, others: Sequence[Tensor] = (), shares: Sequence[float] = ()
) -> Tensor:
    """Go from s0 to s1 as if the noise were a mean of predictions all the way: of that at s0 alone, DDIM's step.

    It is z1 = z0 + (ρ1 − ρ0) ε, written so that nothing but the difference from the noise predicted at s0 is divided by
    1 − s0.

    Args:
        y0: state at s0 < 1.
        here: the field there; its noise has the share that the others leave of 1.
        s0: start.
        s1: end.
        others: further predictions of ε, shape of the state.
        shares: theirs in the mean.

    Source: *Pseudo Numerical Methods for Diffusion Models on Manifolds*, Liu et al., 2022, Eq. 11 (the transfer part).
    """
    y1 = torch.add(y0, here.slope, alpha=s1 - s0)
    if not others:
        return y1
    gain = (s1 - s0) / (1 - s0)
    # In place: fresh memory for every term costs more than its arithmetic.
    y1.add_(here.noise, alpha=-gain * math.fsum(shares))
    for noise, share in zip(others, shares, strict=True):
        y1.add_(noise, alpha=gain * share)
    return y1


def noise_ratio(s: float) -> float:
    """Return ρ = σ/α = s/(1 − s), infinite at s = 1."""
    return s / (1 - s) if s < 1 else float("inf")


class AbstractNoiseStep(ABC):
    """One step between any two positions, with nothing remembered. Stochastic samplers wrap one in another."""

    @abstractmethod
    def advance(self, problem: AbstractProblem, y0: Tensor, s0: float, s1: float) -> StepResult:
        """Return the state at s1 and the evaluations made.

        Args:
            problem: the flow in `LinearPathVariable`.
            y0: state at s0.
            s0: start.
            s1: end, below s0.
        """


class DDIMStep(AbstractNoiseStep):
    """Euler's step, of one evaluation.

    Source: *Denoising Diffusion Implicit Models*, Song et al., 2021, Eq. 12 with no noise.
    """

    def advance(self, problem: AbstractProblem, y0: Tensor, s0: float, s1: float) -> StepResult:
        """See the base class."""
        return StepResult(torch.add(y0, _slope(problem, s0, y0), alpha=s1 - s0))


class HeunStep(AbstractNoiseStep):
    """Heun's step in ρ, of two evaluations; to σ = 0 it is Euler's, of one. From α = 0 it is Heun's in s.

    Source: *Elucidating the Design Space of Diffusion-Based Generative Models*, Karras et al., 2022, Algorithm 1.
    """

    def advance(self, problem: AbstractProblem, y0: Tensor, s0: float, s1: float) -> StepResult:
        """See the base class."""
        first = _slope(problem, s0, y0)
        y1 = torch.add(y0, first, alpha=s1 - s0)
        if s1 == 0:
            return StepResult(y1)
        # Half of ε1 − ε0 = (1 − s1) (f1 − f0), which a step in ρ divides by 1 − s0.
        share = 0.5 if s0 == 1 else 0.5 * (1 - s1) / (1 - s0)
        return StepResult(torch.add(y1, _slope(problem, s1, y1) - first, alpha=(s1 - s0) * share), nfe=2)


class NoiseStepper(AbstractStepper):
    """The same kind of step on every interval of a grid; the carry counts the steps."""

    def __init__(self, step: AbstractNoiseStep, positions: Sequence[float]) -> None:
        """Lay out the steps.

        Args:
            step: the method.
            positions: of `LinearPathVariable`; one more than steps.
        """
        self._step, self._positions = step, positions

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> int:
        """No step has been taken."""
        return 0

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: int) -> StepResult:
        """Advance by one step; see the base class."""
        result = self._step.advance(problem, y0, self._positions[carry], self._positions[carry + 1])
        return StepResult(result.y1, carry=carry + 1, nfe=result.nfe)


def _slope(problem: AbstractProblem, s: float, y: Tensor) -> Tensor:
    return problem.evaluate(torch.full((), s, dtype=torch.float64, device=y.device), y)
