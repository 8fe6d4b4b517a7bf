"""Autoregressive sampling, one position per step, through the same loop as every other sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isocline.objectives.autoregressive import begin_token
from isocline.samplers.prompt import Prompt, PromptedStepper
from isocline.samplers.token_law import Sharpening
from isocline.samplers.watched_law import no_law, non_finite
from isocline.solvers.controller import ConstantSteps
from isocline.solvers.loop import solve
from isocline.solvers.markov import draw_symbols
from isocline.solvers.problem import AbstractProblem, MarkovProblem
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["AutoregressiveSampler"]


@dataclass(frozen=True)
class _NextToken(AbstractStepper):
    """Decide position i at step i; the carry is (i, what the reader remembers).

    Attributes:
        read: ``(problem, t, z, position, memory) -> (logits (B, V) of that position, memory)``.
        begin: token that starts a sequence, never drawn.
        sharpening: of the law.
    """

    read: Callable[[AbstractProblem, Tensor, Tensor, int, Any], tuple[Tensor, Any]]
    begin: int
    sharpening: Sharpening
    memory: Any = None

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Any:
        return 0, self.memory

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        assert isinstance(problem, MarkovProblem)
        position, memory = carry
        logits, memory = self.read(problem, t0, y0, position, memory)
        forbidden = torch.arange(logits.shape[-1], device=logits.device) == self.begin
        law = self.sharpening(logits.masked_fill(forbidden, -torch.inf).double().log_softmax(-1))
        z = y0.clone()
        z[:, position] = draw_symbols(law, problem.generator)
        return StepResult(z, carry=(position + 1, memory), failed=no_law(law))


class AutoregressiveSampler:
    """Generate from left to right; one evaluation per position.

    Uses the key-value cache of a network that has ``empty_cache`` and ``decode_step`` (and whose ``empty_cache`` does
    not refuse), otherwise a full forward per position.

    Args:
        temperature: of the law of the next token; 0 is greedy.
        top_p: nucleus of the law.
        min_p: minimum probability relative to the largest.
    """

    def __init__(self, temperature: float = 1.0, top_p: float = 1.0, min_p: float = 0.0) -> None:
        self.sharpening = Sharpening(temperature, top_p, min_p)

    @torch.no_grad()
    def sample(
        self,
        network: nn.Module,
        process: None,
        shape: Sequence[int],
        nfe: int | None,
        generator: torch.Generator,
        prompt: tuple[Tensor, Tensor] | None = None,
        save_steps: bool = False,
        cond: Any = None,
    ) -> Solution:
        """Generate ``shape`` = (B, L) tokens; L evaluations whatever the budget.

        Args:
            network: causal, ``network(t, z, cond) -> (B, L, V)`` logits, on the generator's device.
            process: not used; there is no corruption.
            shape: (B, L).
            nfe: not used.
            generator: source of every draw.
            prompt: ``(tokens, fixed)``, each ``(B, L)`` or ``(L,)``. A prefix is conditioned on exactly; a token fixed
                further right is kept, but what stands left of it is drawn without knowing it.
            save_steps: keep every state, the start included; positions ahead hold the begin token.
            cond: handed to the network, to its ``decode_step`` after the cache.

        Returns:
            Solution with int64 ``ys`` ``(K, B, L)``; its times run from 1 (nothing decided) to 0. Where the network
            returned logits that are not finite the sequence's status says so.
        """
        begin = begin_token(network)
        given = Prompt.parse(prompt, shape, begin, generator.device)
        start = given.impose(torch.full(tuple(shape), begin, dtype=torch.int64, device=generator.device))
        problem = MarkovProblem(network, start, 1.0, 0.0, cond, generator=generator)
        cache = _empty_cache(network, shape[0])
        if cache is None:
            stepper = _NextToken(_full_reader(begin), begin, self.sharpening)
        else:
            stepper = _NextToken(_cached_reader(network, begin), begin, self.sharpening, cache)
        grid, prompted = ConstantSteps(shape[1]), PromptedStepper(stepper, given)
        return non_finite(solve(problem, prompted, grid, SaveAt(steps=save_steps)))


def _empty_cache(network: nn.Module, batch: int) -> Any:
    if not (hasattr(network, "empty_cache") and hasattr(network, "decode_step")):
        return None
    try:
        return network.empty_cache(batch)  # type: ignore[operator]
    except ValueError:  # the network cannot serve one, for instance because it is conditioned on time
        return None


def _previous(z: Tensor, position: int, begin: int) -> Tensor:
    return z[:, position - 1] if position else torch.full_like(z[:, 0], begin)


def _cached_reader(network: nn.Module, begin: int) -> Callable[..., tuple[Tensor, Any]]:
    def read(problem: AbstractProblem, t: Tensor, z: Tensor, position: int, memory: Any) -> tuple[Tensor, Any]:
        given = () if problem.cond is None else (problem.cond,)
        result: tuple[Tensor, Any] = network.decode_step(_previous(z, position, begin), memory, *given)  # type: ignore[operator]
        return result

    return read


def _full_reader(begin: int) -> Callable[..., tuple[Tensor, Any]]:
    def read(problem: AbstractProblem, t: Tensor, z: Tensor, position: int, memory: Any) -> tuple[Tensor, Any]:
        first = torch.full_like(z[:, :1], begin)
        inputs = torch.cat([first, z[:, :-1]], dim=1)
        # Training evaluates the causal network at time 0 (see `next_token_log_probs`), whatever the loop's time.
        return problem.evaluate(torch.zeros_like(t), inputs)[:, position], memory

    return read
