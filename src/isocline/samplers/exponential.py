"""Sampling by exponential integrators in λ = ln(α/σ), for every process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid
from isocline.randomness import Streams
from isocline.samplers.straight_path import AbstractStraightPathSampler
from isocline.solvers.stepper import AbstractStepper

__all__ = ["AbstractExponentialMethod", "ExponentialSampler"]


class AbstractExponentialMethod(ABC):
    """A family of exponential integrators, one for each order up to ``order``."""

    order: int

    @abstractmethod
    def orders(self, calls: int) -> tuple[int, ...]:
        """Return the order of each step when there are ``calls`` evaluations, at least 1; the last one is 1."""

    @abstractmethod
    def stepper(self, positions: Sequence[float], orders: Sequence[int], generator: Streams | None) -> AbstractStepper:
        """Return the method on one grid.

        Args:
            positions: of `LinearPathVariable`, decreasing to 0; one more than orders.
            orders: of the steps.
            generator: source of noise.

        Raises:
            ValueError: if noise is to be added and there is no generator.
        """


class ExponentialSampler(AbstractStraightPathSampler):
    """Exponential steps from t_max to data; the last one, of infinite length in λ, returns the predicted data.

    Args:
        method: which integrator.
        grid: where the steps lie.
        wrap: what is put around the denoiser first (clipping, say).
    """

    def __init__(
        self,
        method: AbstractExponentialMethod,
        grid: AbstractTimeGrid,
        wrap: Callable[[AbstractDenoiser], AbstractDenoiser] | None = None,
    ) -> None:
        super().__init__(grid, wrap)
        self.method = method

    def steps(self, process: GaussianProcess, calls: int) -> int:
        """One for each order of the method's plan."""
        return len(self.method.orders(calls))

    def stepper(
        self, denoiser: AbstractDenoiser, positions: tuple[float, ...], calls: int, generator: Streams | None
    ) -> AbstractStepper:
        """See the base class."""
        return self.method.stepper(positions, self.method.orders(calls), generator)
