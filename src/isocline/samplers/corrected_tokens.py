"""Predictor–corrector sampling of tokens: any sampler's steps, each followed by steps at the noise level reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from isocline.processes.corruption import AbstractCorruption
from isocline.samplers.discrete import AbstractDiscreteSampler
from isocline.samplers.prompt import Prompt, PromptedStepper
from isocline.samplers.token_corrector import AbstractTokenCorrector
from isocline.shapes import expand_like
from isocline.solvers.markov import TauLeaping, clean_rates, markov_problem
from isocline.solvers.problem import AbstractProblem, VectorField
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["CorrectedSampler", "CorrectedStepper", "TokenCorrection"]


@dataclass(frozen=True)
class TokenCorrection(AbstractStepper):
    """One tau-leaping step of a corrector at the time t1, of length ``strength (t0 − t1)``.

    Attributes:
        kernel: the corruption.
        corrector: the rates.
        strength: length of the step relative to the predictor's.
    """

    kernel: AbstractCorruption
    corrector: AbstractTokenCorrector
    strength: float

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One correction."""
        generator = markov_problem(self, problem).generator
        rates, valid = clean_rates(self.corrector.rate(self.kernel, t1, y0, problem.evaluate(t1, y0)), y0)
        length = expand_like(self.strength * (t0 - t1), y0)
        drawn, _ = TauLeaping().jump(rates, length, y0, generator)
        return StepResult(drawn, failed=~valid)


@dataclass(frozen=True)
class CorrectedStepper(AbstractStepper):
    """Wrap a stepper: after each step that does not end at t = 0, so many corrections, an evaluation each.

    Attributes:
        predictor: the stepper.
        correction: the step of the corrector.
        corrections: how many.
    """

    predictor: AbstractStepper
    correction: AbstractStepper
    corrections: int

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Any:
        """The predictor's carry."""
        return self.predictor.init(problem, t0, y0)

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """Predict, then correct."""
        result = self.predictor.step(problem, t0, t1, y0, carry)
        z, nfe, failed = result.y1, result.nfe, result.failed
        for _ in range(0 if bool((t1 == 0).all()) else self.corrections):
            corrected = self.correction.step(problem, t0, t1, z, None)
            z, nfe = corrected.y1, nfe + corrected.nfe
            failed = corrected.failed if failed is None or corrected.failed is None else failed | corrected.failed
        return StepResult(z, carry=result.carry, nfe=nfe, failed=failed)


class CorrectedSampler(AbstractDiscreteSampler):
    """Any sampler whose steps are times of the corruption (ancestral, tau-leaping, Euler), with a corrector.

    n steps cost n + (n − 1)·corrections evaluations: nothing is corrected at t = 0.

    Args:
        predictor: the sampler; its temperature and truncation hold for the corrector too.
        corrector: rates that leave q_t as it is.
        corrections: corrector steps after each of the sampler's.
        strength: length of a corrector step relative to the sampler's step.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        predictor: AbstractDiscreteSampler,
        corrector: AbstractTokenCorrector,
        corrections: int = 1,
        strength: float = 1.0,
    ) -> None:
        if corrections < 0 or strength <= 0:
            raise ValueError(f"corrections = {corrections}, strength = {strength}: must be at least 0, and above 0")
        self.predictor, self.corrector = predictor, corrector
        self.corrections, self.strength = corrections, strength

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """Predictor and corrector, without a prompt."""
        return self._corrected(kernel, self.predictor.stepper(kernel), self._correction(kernel))

    def prompted(self, kernel: AbstractCorruption, prompt: Prompt) -> AbstractStepper:
        """Predictor and corrector; the prompt is imposed after the steps of both."""
        correction = PromptedStepper(self._correction(kernel), prompt)
        return self._corrected(kernel, self.predictor.prompted(kernel, prompt), correction)

    def law(self, network: nn.Module, kernel: AbstractCorruption) -> VectorField:
        """The predictor's."""
        return self.predictor.law(network, kernel)

    def steps(self, nfe: int, undecided: Tensor) -> int:
        """Return n with n + (n − 1)·corrections evaluations at most."""
        return self.predictor.steps((nfe + self.corrections) // (1 + self.corrections), undecided)

    def _correction(self, kernel: AbstractCorruption) -> TokenCorrection:
        return TokenCorrection(kernel, self.corrector, self.strength)

    def _corrected(
        self, kernel: AbstractCorruption, predictor: AbstractStepper, correction: AbstractStepper
    ) -> AbstractStepper:
        return CorrectedStepper(predictor, correction, self.corrections)
