"""Time grids made for one trained field: dynamic programming over local errors, then least squares on the end's error.

Both look at a few dozen trajectories of the field itself. The dynamic programme needs one fine trajectory and finds
the best grids among its points for all numbers of steps at once, under the assumption that local errors add up; the
refinement moves the points freely and minimises what is wanted, the distance of the sampler's ends from the flow's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.grid import AbstractTimeGrid, GivenGrid, PowerGrid, UniformLogRatioGrid, UniformTimeGrid
from isocline.processes.probability_flow import AbstractVariable, LinearPathVariable
from isocline.samplers.base import AbstractSampler
from isocline.samplers.continuous import ContinuousSampler
from isocline.solvers.explicit import Heun

__all__ = ["GridSearch", "OptimisedGrid", "distance", "local_errors", "optimise_grid", "refine_grid", "shortest_path"]

Grids = Mapping[str, AbstractTimeGrid]
_VARIABLE = LinearPathVariable()
_WIDTH = 1e-2
"""Of finite differences in the logarithm of a step: smaller differences of float32 ends are rounding."""
_TRIALS = 3


def _usual_grids() -> Grids:
    return {"time": UniformTimeGrid(), "log_ratio": UniformLogRatioGrid(), "power": PowerGrid()}


@dataclass(frozen=True)
class GridSearch:
    """How an optimised grid is looked for.

    Attributes:
        points: points of the fine trajectory that the dynamic programme chooses among.
        iterations: Levenberg–Marquardt steps of the refinement; 0 for none.
        starts: grids to begin at, beside the dynamic programme's; the best of all is refined.

    Raises:
        ValueError: if a number is out of range.
    """

    points: int = 48
    iterations: int = 4
    starts: Grids = field(default_factory=_usual_grids)

    def __post_init__(self) -> None:
        if self.points < 4 or self.iterations < 0:
            raise ValueError(f"points={self.points} must be at least 4, iterations={self.iterations} not negative")


@dataclass(frozen=True)
class OptimisedGrid:
    """A grid of n steps and how far the sampler's ends lie from the flow's on it.

    Attributes:
        times: the n times at which steps begin, as `GivenGrid` takes them.
        error: see `distance`.
        errors: of the grids that it was begun at, ``shortest_path`` among them.
    """

    times: tuple[float, ...]
    error: float
    errors: Mapping[str, float]


def local_errors(denoiser: AbstractDenoiser, positions: Tensor, noise: Tensor, cond: Any = None) -> Tensor:
    """Return what an Euler (DDIM) step from each point of a trajectory to each later one errs by.

    The trajectory is Heun's over all positions of `LinearPathVariable`. The step from i to j errs by
    ``y_j − y_i − (s_j − s_i) f_i``; its norm over all samples comes from inner products of the states and slopes, so
    that N positions cost 2 N evaluations a sample and not N².

    Args:
        denoiser: network and process.
        positions: ``(N,)``, decreasing, float64.
        noise: unit-variance noise ``(B, *event)``.
        cond: handed to the network.

    Returns:
        Root-mean-square errors ``(N, N)``, float64; infinite unless j comes after i.
    """
    process, count = denoiser.process, len(positions)
    slopes_of, heun = _VARIABLE.field(denoiser), ContinuousSampler(Heun(), _Positions(positions), _VARIABLE)
    path = heun.sample(denoiser, noise, 2 * (count - 1) * denoiser.evaluations, cond, save_steps=True).ys
    pairs = list(zip(positions, path, strict=True))
    states = [_VARIABLE.from_state(process, s, x) for s, x in pairs]
    slopes = [slopes_of(s, y, cond) for s, y in zip(positions[:-1], states, strict=False)]
    rows = torch.stack([*states, *slopes]).double().flatten(1)
    products = rows @ rows.T / rows.shape[1]
    errors = torch.full((count, count), torch.inf, dtype=torch.float64)
    for i in range(count - 1):
        later = torch.arange(i + 1, count)
        weights = torch.zeros(len(later), len(rows), dtype=torch.float64)
        weights[torch.arange(len(later)), later] = 1.0
        weights[:, i] = -1.0
        weights[:, count + i] = positions[i] - positions[later]
        errors[i, later] = ((weights @ products.cpu()) * weights).sum(1).clamp(min=0.0).sqrt()
    return errors


class _Positions(AbstractTimeGrid):
    """Positions of the linear path, whatever number of steps is asked for."""

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions

    def _departures(self, process: GaussianProcess, variable: AbstractVariable, n: int, end: float) -> Tensor:
        return _VARIABLE.time(process, self.positions[:n])


def shortest_path(costs: Tensor, steps: Sequence[int]) -> dict[int, list[int]]:
    """Find for each number of steps the path from the first point to the last of least total cost.

    Bellman's recursion ``C_k(j) = min_i C_{k−1}(i) + c(i, j)``: exact, and all numbers of steps come in one pass.

    Source: *Learning to Efficiently Sample from Diffusion Probabilistic Models*, Watson et al., 2021, §3.

    Args:
        costs: ``(N, N)``, infinite unless j comes after i.
        steps: numbers of steps wanted, each at most N − 1.

    Returns:
        For each n the n + 1 indices of the path.

    Raises:
        ValueError: if there are fewer points than steps ask for.
    """
    count = len(costs)
    if not steps or min(steps) < 1 or max(steps) > count - 1:
        raise ValueError(f"steps={list(steps)}: {count} points allow 1 to {count - 1} steps; give more points")
    best = torch.full((count,), torch.inf, dtype=costs.dtype)
    best[0] = 0.0
    came_from: list[Tensor] = []
    found: dict[int, list[int]] = {}
    for n in range(1, max(steps) + 1):
        best, origin = (best[:, None] + costs).min(0)
        came_from.append(origin)
        if n in steps:
            path = [count - 1]
            for before in reversed(came_from):
                path.append(int(before[path[-1]]))
            found[n] = path[::-1]
    return found


def refine_grid(ends: Callable[[Tensor], Tensor], target: Tensor, positions: Tensor, iterations: int) -> Tensor:
    """Move a grid's interior points so that the sampler's ends come close to the flow's.

    Levenberg–Marquardt on the logarithms of the steps, which keeps them in order; derivatives by finite differences,
    so that any deterministic sampler will do: n + 1 runs of the sampler an iteration. What falls is the mean over
    samples of `distance`, by reweighted least squares: a few samples whose flow forks do not decide alone.

    Args:
        ends: maps n + 1 positions to the ends ``(B, *event)``.
        target: the flow's ends.
        positions: where to begin, ``(n + 1,)``, decreasing, float64.
        iterations: how many.

    Returns:
        Positions with the same first and last value and no larger error.
    """
    start, span = positions[0], positions[0] - positions[-1]

    def grid(logs: Tensor) -> Tensor:
        moved = torch.cat([start[None], start - span * logs.softmax(0).cumsum(0)])
        moved[-1] = positions[-1]
        return moved

    def residual(logs: Tensor) -> Tensor:
        return (ends(grid(logs)).double() - target.double()).flatten(1).cpu()

    logs = (-positions.diff() / span).log()
    units = torch.eye(len(logs), dtype=torch.float64)
    found, damping = residual(logs), 1e-2
    for _ in range(iterations if len(logs) > 1 else 0):
        weights = found.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6).rsqrt()
        columns = [weights * (residual(logs + _WIDTH * unit) - found) / _WIDTH for unit in units]
        slopes = torch.stack([column.flatten() for column in columns], dim=1)
        normal, downhill = slopes.T @ slopes, slopes.T @ (weights * found).flatten()
        scale = normal.diagonal().mean().clamp(min=1e-300)
        for _ in range(_TRIALS):
            trial = logs - torch.linalg.solve(normal + damping * scale * units, downhill).clamp(-1.0, 1.0)
            there = residual(trial)
            if bool(_rms(there) < _rms(found)):
                logs, found, damping = trial, there, damping / 4
                break
            damping *= 8
    return grid(logs)


def distance(ends: Tensor, target: Tensor) -> Tensor:
    """Return the root-mean-square difference of each sample, averaged over samples; infinite if it is no number."""
    value = _rms((ends.double() - target.double()).flatten(1))
    return value.nan_to_num(nan=torch.inf)


def _rms(residual: Tensor) -> Tensor:
    return residual.square().mean(1).sqrt().mean()


def optimise_grid(
    denoiser: AbstractDenoiser,
    sampler: AbstractSampler,
    noise: Tensor,
    target: Tensor,
    budgets: Sequence[int],
    search: GridSearch | None = None,
    cond: Any = None,
) -> dict[int, OptimisedGrid]:
    """Find grids on which a sampler's ends are close to the flow's.

    Args:
        denoiser: network and process.
        sampler: a deterministic sampler with a grid.
        noise: unit-variance noise ``(B, *event)``.
        target: the flow's ends for that noise, from a far more accurate solution.
        budgets: network forwards a sample (NFE); a method of several stages takes fewer steps.
        search: how.
        cond: handed to the network.

    Returns:
        A grid for each budget.

    Raises:
        TypeError: if the sampler has no grid.
        ValueError: if a budget does not pay for a step.
    """
    search = GridSearch() if search is None else search
    process = denoiser.process
    fine = _fine(process, search.points)
    steps = {nfe: _steps(denoiser, sampler, noise, nfe, cond) for nfe in budgets}
    paths = shortest_path(local_errors(denoiser, fine, noise, cond), list(steps.values()))
    found = {}
    for nfe, n in steps.items():

        def ends(positions: Tensor, n: int = n, nfe: int = nfe) -> Tensor:
            given = GivenGrid({n: _VARIABLE.time(process, positions[:n]).tolist()})
            return sampler.on(given).sample(denoiser, noise, nfe, cond).final

        def error(positions: Tensor, ends: Callable[[Tensor], Tensor] = ends) -> float:
            return float(distance(ends(positions), target))

        starts = {name: grid(process, _VARIABLE, n) for name, grid in search.starts.items()}
        starts["shortest_path"] = fine[paths[n]]
        errors = {name: error(positions) for name, positions in starts.items()}
        best = refine_grid(ends, target, starts[min(errors, key=lambda name: errors[name])], search.iterations)
        found[nfe] = OptimisedGrid(tuple(_VARIABLE.time(process, best[:n]).tolist()), error(best), errors)
    return found


def _steps(denoiser: AbstractDenoiser, sampler: AbstractSampler, noise: Tensor, nfe: int, cond: Any) -> int:
    """How many steps a sampler makes of a budget, which it alone knows: what it asks a grid for."""
    asked = _Asked()
    sampler.on(asked).sample(denoiser, noise, nfe, cond)
    return asked.steps


class _Asked(UniformTimeGrid):
    """Remembers for how many steps it was asked."""

    steps = 0

    def _departures(self, process: GaussianProcess, variable: AbstractVariable, n: int, end: float) -> Tensor:
        self.steps = n
        return super()._departures(process, variable, n, end)


def _fine(process: GaussianProcess, points: int) -> Tensor:
    """Points of two kinds, equidistant in t and in λ, merged where they nearly coincide."""
    halves = [grid(process, _VARIABLE, points // 2) for grid in (UniformTimeGrid(), UniformLogRatioGrid())]
    merged = torch.cat(halves).sort(descending=True).values
    kept = [merged[0]]
    for position in merged[1:-1]:
        if kept[-1] - position > 1e-3 and position - merged[-1] > 1e-3:
            kept.append(position)
    return torch.stack([*kept, merged[-1]])
