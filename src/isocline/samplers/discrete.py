"""Samplers of token sequences: a law of clean tokens, a stepper and a grid from t = 1 to t = 0.

Every sampler spends at most the evaluations it is given, keeps prompted positions, decides every position at its
last step, and draws from the handed-in generator alone, in float64. A sequence is evaluated where a step decides
something in it; evaluations that would change nothing are not made, and not counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.corruption import AbstractCorruption
from isocline.processes.kernel import AbsorbingKernel, AbstractKernel
from isocline.processes.token_schedule import AbstractSurvival, LinearSurvival
from isocline.samplers.order import AbstractOrder, TopProbability
from isocline.samplers.prompt import Prompt, PromptedStepper
from isocline.samplers.token_law import GreedyTail, Sharpening, TokenLaw
from isocline.samplers.token_steppers import AncestralStepper, MixtureLeap, UnmaskingStepper
from isocline.samplers.watched_law import sample_chain
from isocline.solvers.problem import VectorField
from isocline.solvers.solution import Solution
from isocline.solvers.stepper import AbstractStepper

__all__ = [
    "AbstractDiscreteSampler",
    "AbstractJudgingSampler",
    "AncestralSampler",
    "ConfidenceSampler",
    "TauLeapingSampler",
    "absorbing_kernel",
    "require_clean_end",
    "required_kernel",
    "revealing_steps",
]


def required_kernel(kernel: AbstractCorruption, what: str) -> AbstractKernel:
    """The corruption, if it is a survival with noise.

    Raises:
        TypeError: if it is not.
    """
    if not isinstance(kernel, AbstractKernel):
        raise TypeError(
            f"process = {type(kernel).__name__}: {what} needs a kernel of survival and noise, AbstractKernel; use "
            "AncestralSampler or MarkovEulerSampler"
        )
    return kernel


def require_clean_end(process: AbstractCorruption) -> None:
    """Refuse a schedule with noise at t = 0, where every sampler ends with clean tokens.

    Raises:
        ValueError: if a(0) < 1.
    """
    if isinstance(process, AbstractKernel):
        first = float(process.schedule.a(torch.zeros((), dtype=torch.float64)))
        if first < 1.0:
            raise ValueError(
                f"process.schedule: a(0) = {first:.6g}, so that tokens may be noise where sampling ends; take a "
                "schedule with a(0) = 1 (its likelihood is a bound either way)"
            )


def absorbing_kernel(kernel: AbstractCorruption, what: str) -> AbsorbingKernel:
    """The corruption, if it masks tokens that then stay masked.

    Raises:
        TypeError: if it does not.
    """
    if not isinstance(kernel, AbsorbingKernel):
        raise TypeError(f"process = {type(kernel).__name__}: {what} needs AbsorbingKernel")
    return kernel


def revealing_steps(nfe: int, undecided: Tensor) -> int:
    """Steps that reveal a position each at least: no more than are masked in any sequence, ``(B, L)``."""
    return max(1, min(nfe, int(undecided.sum(-1).max())))


class AbstractDiscreteSampler(ABC):
    """Generate tokens by reversing a corruption kernel on a uniform grid of times.

    Args:
        temperature: of the law of clean tokens; 0 is greedy. Below 1 it trades entropy for likelihood.
        top_p: nucleus of the law.
        min_p: minimum probability relative to the largest.
        greedy_tail: at times up to this the most probable token is taken; 0 never, 1/N in the last of N even steps.

    Raises:
        ValueError: if a value is out of range.
    """

    def __init__(
        self, temperature: float = 1.0, top_p: float = 1.0, min_p: float = 0.0, greedy_tail: float = 0.0
    ) -> None:
        self.sharpening = Sharpening(temperature, top_p, min_p)
        if not 0 <= greedy_tail <= 1:
            raise ValueError(f"greedy_tail = {greedy_tail}: must be a time in [0, 1]; 0 draws to the end")
        self.greedy_tail = greedy_tail

    @abstractmethod
    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """Return the stepper, or raise a `TypeError` if the kernel does not suit."""

    def prompted(self, kernel: AbstractCorruption, prompt: Prompt) -> AbstractStepper:
        """The stepper under a prompt."""
        return PromptedStepper(self.stepper(kernel), prompt)

    def law(self, network: nn.Module, kernel: AbstractCorruption) -> VectorField:
        """The law of clean tokens that the stepper is driven by."""
        law = TokenLaw(network, kernel, self.sharpening)
        return GreedyTail(law, self.greedy_tail) if self.greedy_tail > 0 else law

    def steps(self, nfe: int, undecided: Tensor) -> int:
        """Number of steps for a budget, given which positions are open at the start, ``(B, L)``."""
        return nfe

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
        """Generate ``shape`` = (B, L) tokens.

        Args:
            network: ``network(t, z, cond) -> (B, L, V)`` logits, on the generator's device.
            process: the corruption that the network was trained with.
            shape: (B, L).
            nfe: evaluations per sequence at most; ``stats.nfe`` says how many each one needed.
            generator: source of every draw.
            prompt: ``(tokens, fixed)``, each ``(B, L)`` or ``(L,)``: positions where ``fixed`` keep their token. A
                masked model conditions on them exactly. Under a kernel whose noise consists of real symbols they are
                clean, but the network, which knows one time for all positions, takes them for tokens that may be noise
                like the others: early on it hardly uses them, and the conditional law is an approximation that more
                steps do not repair; `isocline.samplers.twisted` conditions on them.
            save_steps: keep every state, the start included.
            cond: handed to the network; tensors in it lead with B.

        Returns:
            Solution with int64 ``ys`` ``(K, B, L)``; ``final`` holds real tokens only. Where the network returned
            logits that are not finite the sequence's status says so, and its tokens mean nothing.

        Raises:
            ValueError: if the budget is below 1, the prompt does not fit, or tokens may be noise at t = 0.
            TypeError: if the sampler does not suit the kernel.
        """
        if nfe < 1:
            raise ValueError(f"nfe = {nfe}: a sampler needs at least one evaluation")
        require_clean_end(process)
        given = Prompt.parse(prompt, shape, process.mask, generator.device)
        start = given.impose(process.prior(shape, generator, generator.device))
        law, stepper = self.law(network, process), self.prompted(process, given)
        return sample_chain(law, start, stepper, self.steps(nfe, process.undecided(start)), generator, cond, save_steps)


class AncestralSampler(AbstractDiscreteSampler):
    """Draw each state from the posterior of the kernel under the predicted clean tokens (Austin et al., 2021)."""

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """The ancestral step of any kernel; for the absorbing one the leap is the same law at less cost."""
        return MixtureLeap(kernel) if isinstance(kernel, AbsorbingKernel) else AncestralStepper(kernel)


class TauLeapingSampler(AbstractDiscreteSampler):
    """Follow the flow-matching rates with the prediction frozen over each step (Gat et al., 2024).

    For the absorbing kernel this is ancestral sampling; for the uniform one it is another chain with the same
    marginals in the limit of many steps.
    """

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """The leap of any kernel with survival and noise."""
        return MixtureLeap(required_kernel(kernel, "tau-leaping"))


class AbstractJudgingSampler(AbstractDiscreteSampler):
    """A sampler that judges how certain a position is, on the law as it is; it draws from the sharpened one."""

    def law(self, network: nn.Module, kernel: AbstractCorruption) -> VectorField:
        """The law as it is."""
        return TokenLaw(network, kernel, Sharpening())


class ConfidenceSampler(AbstractJudgingSampler):
    """Decide the most certain masked positions first, the same number per step ("MaskGIT", Chang et al., 2022).

    Args:
        order: what certain means; the probability of the candidate by default.
        pace: share of positions decided at t; linear by default, cosine starts slowly.
        temperature: of the law of clean tokens.
        top_p: nucleus of the law.
        min_p: minimum probability relative to the largest.
    """

    def __init__(
        self,
        order: AbstractOrder | None = None,
        pace: AbstractSurvival | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
    ) -> None:
        super().__init__(temperature, top_p, min_p)
        self.order = TopProbability() if order is None else order
        self.pace = LinearSurvival() if pace is None else pace

    def stepper(self, kernel: AbstractCorruption) -> AbstractStepper:
        """The unmasking step; absorbing kernels only."""
        masked = absorbing_kernel(kernel, "unmasking in an order")
        return UnmaskingStepper(masked, self.order, self.pace, self.sharpening)

    def steps(self, nfe: int, undecided: Tensor) -> int:
        """No more steps than masked positions: further ones would decide nothing."""
        return revealing_steps(nfe, undecided)
