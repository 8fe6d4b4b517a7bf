"""Anderson acceleration of the iteration x <- x + β r(x)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.dynamics.root_finder import AbstractRootFinder, AbstractRootSearch, Roots, RootStatus, residual_tolerance
from isocline.dynamics.system import AbstractSystem, row_rms

__all__ = ["Anderson"]


@dataclass(frozen=True)
class Anderson(AbstractRootFinder):
    """Type-II Anderson acceleration, batched, one evaluation of the law per iteration and no derivative.

    With the last m differences ``ΔX, ΔR`` of states and residuals and ``γ = argmin |r - ΔR γ|``, the next state is
    ``x + β r - (ΔX + β ΔR) γ``. A residual that is not finite, or ``growth`` times the best one, sends the start back
    to its best point with an empty memory and half the mixing. For a map β = 1 is the map itself; for a flow β is the
    step of an explicit Euler method, a negative one looks for points that repel.

    Source: Walker, Ni, Anderson acceleration for fixed-point iterations (2011), Algorithm AA, Eqs. 2.1 and 2.2.

    Attributes:
        memory: m; 0 is the plain iteration.
        mixing: β.
        tolerance: as in `isocline.dynamics.newton_krylov.NewtonKrylov`.
        iterations: most iterations.
        growth: of the residual over its best, at which a start goes back.

    Raises:
        ValueError: if a value is out of range.
    """

    memory: int = 5
    mixing: float = 1.0
    tolerance: float | None = None
    iterations: int = 200
    growth: float = 10.0

    def __post_init__(self) -> None:
        in_range = {
            "memory": self.memory >= 0,
            "mixing": self.mixing != 0,
            "tolerance": self.tolerance is None or self.tolerance > 0,
            "iterations": self.iterations >= 1,
            "growth": self.growth > 1,
        }
        for key, ok in in_range.items():
            if not ok:
                raise ValueError(f"{key}={getattr(self, key)} is out of range; see Anderson's docstring")

    def find(self, system: AbstractSystem, starts: Tensor) -> Roots:
        """Search from every start; see the base class."""
        with torch.no_grad():
            search = _Search(self, system, starts)
            search.run(self.iterations)
            return search.roots(search.best, search.norm)


class _Search(AbstractRootSearch):
    """The state of one call; states are rows of n numbers, the memory a ring of m differences."""

    def __init__(self, settings: Anderson, system: AbstractSystem, starts: Tensor) -> None:
        super().__init__(system, starts)
        self.settings, count = settings, len(starts)
        self.x = starts.flatten(1).clone()
        self.r = system.residual(starts).flatten(1)
        self.best, self.norm, self.best_r = self.x.clone(), row_rms(self.r), self.r.clone()
        self.mixing = torch.full((count, 1), settings.mixing, dtype=starts.dtype, device=starts.device)
        self.dx = torch.zeros(count, settings.memory, self.x.shape[1], dtype=starts.dtype, device=starts.device)
        self.dr = torch.zeros_like(self.dx)
        self.status[~self.norm.isfinite()] = int(RootStatus.NON_FINITE)
        self.finish(torch.arange(count, device=starts.device))

    def finish(self, rows: Tensor) -> None:
        """Mark what has converged."""
        done = self.norm[rows] <= residual_tolerance(self.settings.tolerance, self.best[rows])
        self.status[rows[done]] = int(RootStatus.CONVERGED)

    def advance(self, rows: Tensor) -> None:
        """One iteration of the samples ``rows``."""
        x, r, mixing = self.x[rows], self.r[rows], self.mixing[rows]
        move = mixing * r
        if self.settings.memory:
            gamma = _mixture(self.dr[rows], r)
            move = move - torch.einsum("bmn,bm->bn", self.dx[rows] + mixing[..., None] * self.dr[rows], gamma)
        fresh = x + move
        residual = self.system.at_rows(rows).residual(fresh.reshape(-1, *self.event)).flatten(1)
        self.iterations[rows] += 1
        self.evaluations[rows] += 1
        norm = row_rms(residual)
        lost = ~(norm <= self.settings.growth * self.norm[rows]) | ~fresh.isfinite().all(1)
        self.accept(rows[~lost], fresh[~lost], residual[~lost], norm[~lost])
        self.go_back(rows[lost])
        self.finish(rows)

    def accept(self, rows: Tensor, x: Tensor, r: Tensor, norm: Tensor) -> None:
        """Remember the differences and move on."""
        if self.settings.memory:
            slot = self.iterations[rows] % self.settings.memory
            self.dx[rows, slot], self.dr[rows, slot] = x - self.x[rows], r - self.r[rows]
        self.x[rows], self.r[rows] = x, r
        better = norm < self.norm[rows]
        kept = rows[better]
        self.best[kept], self.norm[kept], self.best_r[kept] = x[better], norm[better], r[better]

    def go_back(self, rows: Tensor) -> None:
        """Begin again at the best point, more carefully."""
        self.x[rows], self.r[rows] = self.best[rows], self.best_r[rows]
        self.dx[rows], self.dr[rows] = 0.0, 0.0
        self.mixing[rows] *= 0.5
        exhausted = self.mixing[rows, 0].abs() < 1e-6 * abs(self.settings.mixing)
        self.status[rows[exhausted]] = int(RootStatus.STALLED)


def _mixture(differences: Tensor, residual: Tensor) -> Tensor:
    """Least-squares γ, shape (B, m), by the singular values of the normalised differences; unused ones are zero."""
    length = torch.linalg.vector_norm(differences.double(), dim=2)
    scale = torch.where(length > 0, 1 / length, 0.0)
    columns = (differences.double() * scale[..., None]).mT
    # Differences that all but repeat others say nothing beyond rounding.
    inverse = torch.linalg.pinv(columns, rtol=10 * torch.finfo(differences.dtype).eps)
    gamma = (inverse @ residual.double()[..., None])[..., 0]
    return (gamma * scale).to(residual.dtype)
