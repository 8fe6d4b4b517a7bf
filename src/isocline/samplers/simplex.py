"""Sampling of relaxed tokens: a flow of laws from t = 1 down, and tokens drawn at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.token_path import AbstractTokenPath
from isocline.samplers.prompt import Prompt
from isocline.samplers.token_law import Sharpening
from isocline.samplers.watched_law import no_law
from isocline.shapes import expand_like
from isocline.solvers.controller import ConstantSteps
from isocline.solvers.explicit import Euler
from isocline.solvers.loop import solve
from isocline.solvers.markov import draw_symbols
from isocline.solvers.problem import AbstractProblem, ODEProblem
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["SimplexSampler"]


class _TokenLaw:
    """p(x|state), float64, given the prompt; remembers its last value where the network takes it."""

    def __init__(
        self, network: nn.Module, path: AbstractTokenPath, sharpening: Sharpening, given: Prompt, cond: Any
    ) -> None:
        self.network, self.path, self.sharpening, self.cond = network, path, sharpening, cond
        self.known = torch.where(given.fixed, given.tokens, -1) if bool(given.fixed.any()) else None
        self.previous: dict[str, Tensor] = {}

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        log_probs = self.path.log_probs(self.network, t, x, self.cond, self.known, **self.previous)
        if getattr(self.network, "takes_previous", False):
            self.previous = {"previous": log_probs.exp()}
        return self.sharpening(log_probs)

    def velocity(self, position: Tensor, x: Tensor, cond: Any) -> Tensor:
        """The path's velocity under the law, for an `ODEProblem` in the path's position."""
        t = self.path.time(position).clamp(self.path.t_min, self.path.t_max)
        return self.path.velocity(position, x, self(t, x))


@dataclass(frozen=True)
class _FlowStepper(AbstractStepper):
    """Steps of ``inner`` in the path's position, then a last one, to t = 0, that draws tokens.

    The loop's time is t. A state at t = 0 is the tokens' corners.
    """

    inner: AbstractStepper
    flow: ODEProblem
    law: _TokenLaw
    path: AbstractTokenPath
    last: Sharpening
    generator: torch.Generator
    init_nfe: int = 0

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Any:
        return self.inner.init(self.flow, self.path.position(t0), y0)

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: Any) -> StepResult:
        if float(t1) == 0.0:
            law = self.last(self.law(t0, y0).log())
            corner = self.path.corner(draw_symbols(law, self.generator), y0.dtype)
            # Tokens hide a state or law that is not finite: the loop is to see it.
            lost = no_law(law) | ~y0.isfinite().flatten(1).all(-1)
            return StepResult(corner.masked_fill(expand_like(lost, corner), torch.nan), carry=carry)
        result = self.inner.step(self.flow, self.path.position(t0), self.path.position(t1), y0, carry)
        return StepResult(result.y1, carry=result.carry, nfe=result.nfe)


class SimplexSampler:
    """Integrate the flow of a token path on a uniform grid of times, in the path's position.

    Steps of the stepper lead from t = 1 to the last grid point above 0, where the law of the tokens is asked once
    more and every token drawn from it: 1/n for n steps, so that with few steps much is left to that draw.

    A prompted position is known for certain at every time: the network is shown the token itself, and what its state
    does is of no account. With the exact denoiser that samples the conditional law; a network has to have been shown
    known tokens among noisy ones (`SimplexFlow` does that).

    Args:
        stepper: an explicit method of `isocline.solvers`; Euler by default. A budget that does not pay for one of its
            steps buys Euler's.
        temperature: of the law that drives the flow and is drawn from; 0 is greedy.
        top_p: nucleus of the law.
        min_p: minimum probability relative to the largest.
        greedy_last: take the most probable tokens at the end instead of drawing.
    """

    def __init__(
        self,
        stepper: AbstractStepper | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        greedy_last: bool = False,
    ) -> None:
        self.stepper = Euler() if stepper is None else stepper
        self.sharpening = Sharpening(temperature, top_p, min_p)
        self.last = Sharpening(temperature=0.0) if greedy_last else Sharpening()

    def plan(self, nfe: int) -> tuple[AbstractStepper, int]:
        """Return the stepper and its number of steps, which leave one evaluation for the last draw.

        Raises:
            ValueError: if the budget is below 1.
        """
        if nfe < 1:
            raise ValueError(f"nfe = {nfe}: a sampler needs at least one evaluation")
        steps = max(0, (nfe - 1 - self.stepper.init_nfe) // self.stepper.nfe_per_step)
        while steps >= 1 and self.stepper.evaluations(steps) > nfe - 1:
            steps -= 1
        return (self.stepper, steps) if steps >= 1 else (Euler(), nfe - 1)

    @torch.no_grad()
    def sample(
        self,
        network: nn.Module,
        process: AbstractTokenPath,
        shape: Sequence[int],
        nfe: int,
        generator: torch.Generator,
        prompt: tuple[Tensor, Tensor] | None = None,
        save_steps: bool = False,
        cond: Any = None,
    ) -> Solution:
        """Generate ``shape`` = (B, L) tokens.

        Args:
            network: ``network(t, view, cond) -> (B, L, S)`` logits, on the generator's device.
            process: the path that the network was trained with.
            shape: (B, L).
            nfe: evaluations per sequence at most; ``stats.nfe`` says how many there were.
            generator: source of the noise and of the last draw.
            prompt: ``(tokens, fixed)``, each ``(B, L)`` or ``(L,)``: positions where ``fixed`` keep their token.
            save_steps: keep every state, the start included, as its most probable tokens under equal odds.
            cond: handed to the network.

        Returns:
            Solution with int64 ``ys`` ``(K, B, L)``; ``final`` holds real tokens only. Where the network returned
            logits that are not finite the sequence's status says so.

        Raises:
            ValueError: if the budget is below 1 or the prompt does not fit.
            TypeError: if the process is no token path.
        """
        if not isinstance(process, AbstractTokenPath):
            raise TypeError(f"process = {type(process).__name__}: SimplexSampler needs a path of relaxed tokens")
        stepper, steps = self.plan(nfe)
        given = Prompt.parse(prompt, shape, process.mask, generator.device)
        start = process.prior(tuple(shape), generator, generator.device)
        law = _TokenLaw(network, process, self.sharpening, given, cond)
        flow = ODEProblem(law.velocity, start, 1.0, 0.0)
        driver = _FlowStepper(stepper, flow, law, process, self.last, generator, stepper.init_nfe)
        solution = solve(flow, driver, ConstantSteps(steps + 1), SaveAt(steps=save_steps))
        states = [given.impose(state.argmax(-1)) for state in solution.ys[:-1]]
        return replace(solution, ys=torch.stack([*states, solution.final.argmax(-1)]))
