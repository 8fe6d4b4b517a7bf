"""What every sampler of a continuous process is."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.grid import AbstractTimeGrid
from isocline.randomness import Streams
from isocline.solvers.solution import Solution

__all__ = ["AbstractSampler", "affordable"]


class AbstractSampler(ABC):
    """Turns noise into data with a denoiser, in at most ``nfe`` network forwards a sample.

    Attributes:
        grid: where the steps lie; None where the steps are found while sampling.
    """

    grid: AbstractTimeGrid | None = None

    @abstractmethod
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
            denoiser: network and process, possibly guided.
            x1: unit-variance noise ``(B, *event)``; generation starts from σ(t_max) x1.
            nfe: network forwards allowed per sample.
            cond: handed to the network.
            generator: source of noise where the sampler adds any; a list holds one generator per sample.
            save_steps: keep the states after every step, the start included, instead of the end alone.

        Returns:
            Solution in x and t: ``ts (K,)``, ``ys (K, B, *event)``; ``stats.nfe`` counts network forwards.
        """

    def on(self, grid: AbstractTimeGrid) -> Self:
        """The same sampler on another grid.

        Raises:
            TypeError: if the sampler has no grid.
        """
        if self.grid is None:
            raise TypeError(f"{type(self).__name__} finds its own steps and takes no grid")
        other = copy.copy(self)
        other.grid = grid
        return other


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
