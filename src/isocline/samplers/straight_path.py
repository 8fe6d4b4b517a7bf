"""Samplers whose stepper is made for one grid, in the state y = (1 − s) x_0 + s ε that every process has."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid
from isocline.processes.probability_flow import LinearPathVariable
from isocline.randomness import Streams
from isocline.samplers.base import AbstractSampler
from isocline.samplers.continuous import in_state
from isocline.solvers.controller import FixedGrid
from isocline.solvers.loop import solve
from isocline.solvers.problem import ODEProblem
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper

__all__ = ["AbstractStraightPathSampler", "affordable", "required"]


class AbstractStraightPathSampler(AbstractSampler):
    """Steps in `LinearPathVariable` from t_max to data, in at most ``nfe`` network forwards a sample.

    The state is finite from α = 0 to σ = 0, so that one implementation serves every process: a method that works on
    the predicted noise reads ε = y + (1 − s) dy/ds off the slope. Generation ends at σ = 0 exactly; where t_min > 0
    the network is asked at t_min for times below it.

    Args:
        grid: where the steps lie.
        wrap: what is put around the denoiser first (clipping, say).
    """

    grid: AbstractTimeGrid
    variable = LinearPathVariable()

    def __init__(
        self, grid: AbstractTimeGrid, wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None
    ) -> None:
        self.grid = grid
        self.wrap = wrap

    @abstractmethod
    def steps(self, process: GaussianProcess, calls: int) -> int:
        """Return how many steps ``calls`` evaluations of the field, at least 1, pay for."""

    @abstractmethod
    def stepper(
        self, process: GaussianProcess, positions: tuple[float, ...], calls: int, generator: Streams | None
    ) -> AbstractStepper:
        """Return the method on one grid.

        Args:
            process: the process.
            positions: of `LinearPathVariable`, decreasing to 0; one more than steps.
            calls: evaluations that may be made.
            generator: source of noise.

        Raises:
            ValueError: if noise is to be added and there is no generator.
        """

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
        denoiser = denoiser if self.wrap is None else self.wrap(denoiser)
        process, variable = denoiser.process, self.variable
        calls = affordable(nfe, denoiser.evaluations)
        positions = self.grid(process, variable, self.steps(process, calls))
        stepper = self.stepper(process, tuple(positions.tolist()), calls, generator)
        y1 = variable.from_state(process, positions[0], process.prior(x1))
        problem = ODEProblem(variable.field(denoiser), y1, float(positions[0]), float(positions[-1]), cond)
        solution = solve(problem, stepper, FixedGrid(positions), SaveAt(steps=save_steps))
        return in_state(solution, process, variable, denoiser.evaluations)


def affordable(nfe: int, evaluations: int) -> int:
    """Return the evaluations of the field that a budget pays for.

    Args:
        nfe: network forwards allowed per sample.
        evaluations: forwards per evaluation (2 under classifier-free guidance).

    Raises:
        ValueError: if it does not pay for one.
    """
    calls = nfe // evaluations
    if calls < 1:
        raise ValueError(f"nfe={nfe} does not pay for one evaluation ({evaluations} forwards); raise nfe")
    return calls


def required(generator: Streams | None, because: str) -> Streams:
    """Return the generator.

    Args:
        generator: what the sampler was given.
        because: the setting that adds noise.

    Raises:
        ValueError: if there is none.
    """
    if generator is None:
        raise ValueError(f"{because} adds noise between steps; pass generator=torch.Generator()")
    return generator
