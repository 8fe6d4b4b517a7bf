"""Generation span by span: the reversal of in-place span masking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from isocline.processes.corruption import AbstractCorruption, uniforms
from isocline.processes.span_kernel import SpanKernel
from isocline.samplers.discrete import AbstractDiscreteSampler
from isocline.samplers.token_rows import law_at
from isocline.shapes import expand_like
from isocline.solvers.markov import draw_symbols, markov_problem
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["SpanSampler", "SpanStepper"]


@dataclass(frozen=True)
class SpanStepper(AbstractStepper):
    """Ancestral step on spans: each masked one is written whole with probability (a_s − a_t)/(1 − a_t).

    Its tokens are drawn independently given what is visible, as the bound of a model of spans assumes.

    Attributes:
        kernel: gives the law of the partition, drawn once per sequence, and the schedule.
    """

    kernel: SpanKernel

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Tensor:
        """The number of the span of every position, ``(B, L)``."""
        generator = markov_problem(self, problem).generator
        return self.kernel.spans.partition(y0.shape, generator, y0.device)

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One draw per span, then the tokens of those that are written."""
        generator = markov_problem(self, problem).generator
        survival = self.kernel.schedule.a
        reveal = expand_like((survival(t1) - survival(t0)) / (1.0 - survival(t0)), y0)
        chosen = uniforms(y0.shape, generator, y0.device).gather(-1, carry) < reveal
        written = chosen & self.kernel.undecided(y0)
        drawn = y0.clone()
        drawn[written] = draw_symbols(law_at(problem, t0, y0, written), generator)
        return StepResult(drawn, carry=carry, nfe=written.any(-1).long())


class SpanSampler(AbstractDiscreteSampler):
    """Write whole spans, of the lengths that the kernel masked in training.

    Any sampler for `AbsorbingKernel` suits the same model too, and writes it position by position.
    """

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """The step on spans; for a `SpanKernel` alone."""
        if not isinstance(kernel, SpanKernel):
            raise TypeError(f"process = {type(kernel).__name__}: writing spans needs SpanKernel (kernel: span)")
        return SpanStepper(kernel)
