"""Prompting and infilling: any subset of the positions of a sequence is given and stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["Prompt", "PromptedStepper"]


@dataclass(frozen=True)
class Prompt:
    """Given tokens.

    Attributes:
        tokens: int64 ``(B, L)``.
        fixed: bool ``(B, L)``, True where ``tokens`` is given.
    """

    tokens: Tensor
    fixed: Tensor

    @classmethod
    def parse(
        cls, prompt: tuple[Tensor, Tensor] | None, shape: Sequence[int], mask: int, device: torch.device | str
    ) -> Prompt:
        """Check a user's ``(tokens, fixed)``, each ``(B, L)`` or ``(L,)``; None fixes nothing.

        Raises:
            ValueError: if a shape does not fit, or a fixed token is the mask or out of the vocabulary.
        """
        if prompt is None:
            empty = torch.zeros(tuple(shape), dtype=torch.int64, device=device)
            return cls(empty, empty.bool())
        try:
            tokens, fixed = (part.to(device).expand(tuple(shape)) for part in prompt)
        except RuntimeError as error:
            shapes = [tuple(part.shape) for part in prompt]
            raise ValueError(f"prompt has shapes {shapes}; expected {tuple(shape)} or {tuple(shape[-1:])}") from error
        tokens, fixed = tokens.long(), fixed.bool()
        given = tokens[fixed]
        if bool(((given < 0) | (given >= mask)).any()):
            raise ValueError(
                f"prompt holds token {int(given.max())}; real tokens are 0 to {mask - 1}, {mask} is the mask"
            )
        return cls(tokens, fixed)

    def impose(self, z: Tensor) -> Tensor:
        """Put the given tokens into ``z`` ``(B, L)``."""
        return torch.where(self.fixed, self.tokens, z)


@dataclass(frozen=True)
class PromptedStepper(AbstractStepper):
    """Wrap a stepper on tokens: after each step the given positions hold their tokens again.

    Attributes:
        inner: the stepper.
        prompt: what is given.
    """

    inner: AbstractStepper
    prompt: Prompt

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Any:
        """The inner stepper's carry."""
        return self.inner.init(problem, t0, y0)

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        """One inner step, then impose the prompt."""
        result = self.inner.step(problem, t0, t1, y0, carry)
        return StepResult(self.prompt.impose(result.y1), carry=result.carry, nfe=result.nfe, failed=result.failed)
