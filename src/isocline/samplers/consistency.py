"""Multistep consistency sampling: jump to data, add noise again at a smaller time, repeat."""

from __future__ import annotations

from isocline.processes.grid import AbstractTimeGrid
from isocline.samplers.flow_map import FlowMapSampler

__all__ = ["ConsistencySampler"]


class ConsistencySampler(FlowMapSampler):
    """``nfe`` evaluations of a consistency function f(x, t) = the denoiser's data prediction.

    Flow-map sampling with γ = 1: the last evaluation's output is returned as it is, data at t = 0, and the noise added
    between evaluations is fresh and comes from the generator.

    Source: *Consistency Models*, Song et al., 2023, Algorithm 1.

    Args:
        grid: the times of evaluation, from t_max; equidistant in t by default.
    """

    def __init__(self, grid: AbstractTimeGrid | None = None) -> None:
        super().__init__(grid, gamma=1.0)
