"""Langevin's dynamics at one noise level, as the corrector after a step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from isocline.randomness import Streams, normal
from isocline.samplers.noise_step import AbstractNoiseStep, NoiseEvaluation
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import StepResult

__all__ = ["LangevinCorrected"]


class LangevinCorrected(AbstractNoiseStep):
    """A step, then ``corrections`` steps of Langevin's dynamics y ← y + e g + √(2e) n at its end, g the score there.

    The step size comes from the signal-to-noise ratio r: e = 2 (r ‖n‖/‖g‖)², both norms in the root mean square that
    they have for g = −n/s, so that e = 2 r² s². The authors take the batch's mean of each, which makes a sample depend
    on its batch; each sample's own would make the step depend on the state, which changes the law (in two dimensions
    by a factor of several). Nothing is done at the end of generation, σ = 0, where there is no noise to correct.

    Source: *Score-Based Generative Modeling through SDEs*, Song et al., 2021, Algorithm 4 (without its factor α, which
    is 1 in the continuous limit).

    Args:
        step: the predictor.
        corrections: Langevin steps, of one evaluation each.
        ratio: r.
        generator: source of noise.
    """

    def __init__(self, step: AbstractNoiseStep, corrections: int, ratio: float, generator: Streams) -> None:
        self.step, self.corrections, self.ratio, self.generator = step, corrections, ratio, generator

    def advance(self, problem: AbstractProblem, y0: Tensor, s0: float, s1: float) -> StepResult:
        """See the base class."""
        predicted = self.step.advance(problem, y0, s0, s1)
        if s1 == 0:
            return predicted
        y = predicted.y1
        for _ in range(self.corrections):
            y = self._correct(y, NoiseEvaluation.at(problem, s1, y).noise, s1)
        return StepResult(y, nfe=predicted.nfe + self.corrections)

    def _correct(self, y: Tensor, predicted: Tensor, s: float) -> Tensor:
        # The law of y at s has the score −ε/s.
        size = 2 * (self.ratio * s) ** 2
        drifted = torch.add(y, predicted, alpha=-size / s)
        return torch.add(drifted, normal(y.shape, self.generator, y), alpha=math.sqrt(2 * size))
