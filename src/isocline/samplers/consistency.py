"""Multistep consistency sampling: jump to data, add noise again at a smaller time, repeat."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid, UniformTimeGrid
from isocline.processes.probability_flow import TimeVariable
from isocline.randomness import Streams, normal
from isocline.samplers.base import AbstractSampler, affordable
from isocline.solvers.controller import FixedGrid
from isocline.solvers.loop import solve
from isocline.solvers.problem import AbstractProblem, ODEProblem
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["ConsistencySampler"]


class _Renoise(AbstractStepper):
    """x_s = α_s f(x_t, t) + σ_s z; the last of ``steps`` steps returns f itself. The carry counts the steps."""

    def __init__(self, process: GaussianProcess, steps: int, generator: Streams | None) -> None:
        self.process = process
        self.steps = steps
        self.generator = generator

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> int:
        return 0

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: int) -> StepResult:
        data = problem.evaluate(t0, y0)
        if carry + 1 == self.steps:
            return StepResult(data, carry=carry + 1)
        assert self.generator is not None
        noise = normal(data.shape, self.generator, data)
        return StepResult(self.process.mix(data, noise, self.process.schedule(t1)), carry=carry + 1)


class ConsistencySampler(AbstractSampler):
    """``nfe`` evaluations of a consistency function f(x, t) = the denoiser's data prediction.

    The last evaluation's output is returned as it is: data at t = 0. The noise added between evaluations is fresh and
    comes from the generator.

    Source: *Consistency Models*, Song et al., 2023, Algorithm 1.

    Args:
        grid: the times of evaluation, from t_max; equidistant in t by default.
    """

    grid: AbstractTimeGrid

    def __init__(self, grid: AbstractTimeGrid | None = None) -> None:
        self.grid = UniformTimeGrid() if grid is None else grid

    def sample(
        self,
        denoiser: AbstractDenoiser,
        x1: Tensor,
        nfe: int,
        cond: Any = None,
        generator: Streams | None = None,
        save_steps: bool = False,
    ) -> Solution:
        """Generate.

        Args:
            denoiser: the student network and its process.
            x1: unit-variance noise ``(B, *event)``; the first evaluation is at σ(t_max) x1.
            nfe: network forwards per sample; each evaluation takes ``denoiser.evaluations`` of them.
            cond: handed to the network.
            generator: source of the noise between evaluations; a list holds one generator per sample.
            save_steps: keep the start and the (noisy) state after each step, instead of the end alone.

        Returns:
            Solution in x and t; ``stats.nfe`` counts network forwards.

        Raises:
            ValueError: if the budget does not pay for one evaluation, or several are asked for without a generator.
        """
        process, steps = denoiser.process, affordable(nfe, denoiser.evaluations)
        if steps > 1 and generator is None:
            raise ValueError(f"nfe={nfe} adds noise between evaluations; pass generator=torch.Generator()")
        times = self.grid(process, TimeVariable(), steps)
        times[-1] = 0.0
        problem = ODEProblem(denoiser.data, process.prior(x1), process.t_max, 0.0, cond)
        solution = solve(problem, _Renoise(process, steps, generator), FixedGrid(times), SaveAt(steps=save_steps))
        stats = dataclasses.replace(solution.stats, nfe=solution.stats.nfe * denoiser.evaluations)
        return dataclasses.replace(solution, stats=stats)
