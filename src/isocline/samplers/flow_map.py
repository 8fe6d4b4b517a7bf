"""Sampling by flow maps: jumps along a grid, each to its end or below it with noise up again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid, UniformTimeGrid
from isocline.processes.probability_flow import TimeVariable
from isocline.randomness import Streams, normal
from isocline.samplers.base import AbstractSampler, affordable
from isocline.samplers.continuous import integrate
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import Solution
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["FlowMapSampler"]


class _Jump(AbstractStepper):
    """X_{t→s'} with s' = (1 − γ) s, then the forward process up to s. To 0 it is the predicted data.

    The times are kept on the host, where it is decided what a step is; the carry counts the steps.
    """

    def __init__(
        self, denoiser: AbstractDenoiser, times: Sequence[float], gamma: float, generator: Streams | None
    ) -> None:
        self.denoiser, self.times, self.gamma, self.generator = denoiser, times, gamma, generator

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> int:
        return 0

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: int) -> StepResult:
        end = self.times[carry + 1]
        low = (1 - self.gamma) * end
        if low == 0:
            x = self.denoiser.towards(low).data(t0, y0, problem.cond)
        else:
            x = flow_map(self.denoiser, t0, low, y0, problem.cond)
        if low < end:
            assert self.generator is not None
            x = _noised(self.denoiser.process, x, normal(x.shape, self.generator, x), low, end)
        return StepResult(x, carry=carry + 1)


def _noised(process: GaussianProcess, x: Tensor, noise: Tensor, low: float, high: float) -> Tensor:
    """The forward process from ``low`` to ``high``; what lies at 0 is data."""
    above = process.schedule(high)
    if low == 0:
        return process.mix(x, noise, above)
    below = process.schedule(low)
    kept = above.alpha / below.alpha
    added = (above.sigma.square() - (kept * below.sigma).square()).clamp(min=0.0).sqrt()
    return x * float(kept) + noise * float(added)


class FlowMapSampler(AbstractSampler):
    """``nfe`` evaluations of a flow map, along a grid of times that ends at data.

    γ = 0 jumps from time to time and draws no noise: exact in any number of steps for an exact map, DDIM for a network
    that was not distilled. γ = 1 jumps to data and noises them again, multistep consistency sampling. Between, it jumps
    from t to (1 − γ) s and adds noise up to s. The last jump's end is returned as it is: data at t = 0, also where
    σ(0) > 0.

    Source: *Trajectory Consistency Distillation*, Zheng et al., 2024, Algorithm 4 (strategic stochastic sampling);
    *Consistency Trajectory Models*, Kim et al., 2024, Algorithm 3 (γ-sampling, which leaves √(1 − γ²) of σ instead).

    Args:
        grid: the times of evaluation, from t_max; equidistant in t by default.
        gamma: γ, from 0 to 1.

    Raises:
        ValueError: if γ is out of range.
    """

    grid: AbstractTimeGrid

    def __init__(self, grid: AbstractTimeGrid | None = None, gamma: float = 0.0) -> None:
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma={gamma}; expected 0 (no noise) to 1 (all the way to data, then noise)")
        self.grid = UniformTimeGrid() if grid is None else grid
        self.gamma = gamma

    def sample(
        self,
        denoiser: AbstractDenoiser,
        x1: Tensor,
        nfe: int,
        cond: Any = None,
        generator: Streams | None = None,
        save_steps: bool = False,
    ) -> Solution:
        """Generate; see the base class.

        Raises:
            ValueError: if the budget does not pay for one evaluation, or noise is to be added without a generator.
        """
        steps = affordable(nfe, denoiser.evaluations)
        if steps > 1 and self.gamma > 0 and generator is None:
            raise ValueError(f"nfe={nfe} adds noise between evaluations; pass generator=torch.Generator()")
        times = self.grid(denoiser.process, TimeVariable(), steps)
        times[-1] = 0.0
        stepper = _Jump(denoiser, times.tolist(), self.gamma, generator)
        return integrate(denoiser, x1, stepper, TimeVariable(), times, cond, save_steps)
