"""Where the maps of a consistency model lead: to data, to any earlier time, to the next edge of a phase."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from isocline.distillation.time_pairs import TimePair
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid, UniformTimeGrid
from isocline.processes.probability_flow import LinearPathVariable

__all__ = ["AbstractDestination", "DataDestination", "PhaseDestination", "RandomDestination"]


class AbstractDestination(ABC):
    """``destination(process, pair, generator) -> (B,)`` float64, below ``pair.high``.

    Where it lies above ``pair.low``, the pair is cut off there.
    """

    @abstractmethod
    def __call__(self, process: GaussianProcess, pair: TimePair, generator: torch.Generator) -> Tensor:
        """Return the times to which both maps lead."""


class DataDestination(AbstractDestination):
    """Data, t = 0: *Consistency Models*, Song et al., 2023."""

    def __call__(self, process: GaussianProcess, pair: TimePair, generator: torch.Generator) -> Tensor:
        """Return 0."""
        return torch.zeros_like(pair.low)


class RandomDestination(AbstractDestination):
    """Any time, uniform on [0, low]: a trajectory consistency function, which needs a network of two times.

    Source: *Trajectory Consistency Distillation*, Zheng et al., 2024, §4.1; *Consistency Trajectory Models*, Kim et
    al., 2024.
    """

    def __call__(self, process: GaussianProcess, pair: TimePair, generator: torch.Generator) -> Tensor:
        """Draw one for each pair."""
        share = torch.rand(pair.low.shape, generator=generator, dtype=torch.float64, device=generator.device)
        return share * pair.low


class PhaseDestination(AbstractDestination):
    """The lower edge of the phase (e_i, e_{i+1}] in which the pair's high time lies.

    With one phase it is data. A network of one time suffices, since from each time there is one way to go.
    Sampling goes from edge to edge, in as many steps as there are phases, deterministically
    (`isocline.samplers.flow_map` with γ = 0 on the same grid).

    Source: *Phased Consistency Models*, Wang et al., 2024, §3.1.

    Args:
        phases: how many.
        grid: their edges, equidistant in t by default.

    Raises:
        ValueError: if there is not at least one.
    """

    def __init__(self, phases: int = 4, grid: AbstractTimeGrid | None = None) -> None:
        if phases < 1:
            raise ValueError(f"phases={phases} must be at least 1")
        self.phases = phases
        self.grid = UniformTimeGrid() if grid is None else grid

    def edges(self, process: GaussianProcess) -> Tensor:
        """Return the K + 1 edges from t_max down to 0, float64."""
        variable = LinearPathVariable()
        edges = variable.time(process, self.grid(process, variable, self.phases, end=0.0))
        edges[0], edges[-1] = process.t_max, 0.0
        return edges

    def __call__(self, process: GaussianProcess, pair: TimePair, generator: torch.Generator) -> Tensor:
        """Return the edges."""
        rising = self.edges(process).flip(0).to(pair.high.device)
        # The first edge that is not below t ends its phase; the one before it is where its maps lead. A time that
        # went through λ may miss an edge by rounding, and would find itself at the bottom of the phase above.
        index = torch.searchsorted(rising, pair.high * (1 - 1e-12)).clamp(min=1, max=self.phases)
        return torch.minimum(rising[index - 1], pair.high)
