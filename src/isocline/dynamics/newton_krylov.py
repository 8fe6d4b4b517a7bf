"""Newton's method whose linear systems are solved by GMRES on Jacobian–vector products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.dynamics.gmres import LinearSolution, gmres
from isocline.dynamics.krylov import jacobian_operator
from isocline.dynamics.root_finder import AbstractRootFinder, AbstractRootSearch, Roots, RootStatus, residual_tolerance
from isocline.dynamics.system import AbstractSystem, row_rms

__all__ = ["NewtonKrylov"]

_SUFFICIENT = 1e-4
_LOOSEST = 0.9


@dataclass(frozen=True)
class NewtonKrylov(AbstractRootFinder):
    """Inexact Newton with Eisenstat and Walker's forcing term and a line search on ``|r|²``.

    Each step solves ``J s = -r`` to the relative residual ``η = 0.9 (|r| / |r_before|)²`` and halves it until
    ``|r(x + λ s)| ≤ (1 - 1e-4 λ (1 - η)) |r|``. It finds zeros of every kind, also those that repel. Starts that are
    done leave the batch.

    Source: Knoll, Keyes, Jacobian-free Newton–Krylov methods (2004); Eisenstat, Walker, Choosing the forcing terms in
    an inexact Newton method (1996), Choice 2 and Eq. 2.1.

    Attributes:
        tolerance: root mean square of the residual at which a start has converged; None as
            `isocline.dynamics.root_finder.residual_tolerance`.
        iterations: most Newton steps.
        krylov: largest dimension of the Krylov spaces.
        halvings: most halvings of a step; a start that needs more has stalled.
        forcing: η of the first step; a small one pays where the start is close.

    Raises:
        ValueError: if a value is not positive.
    """

    tolerance: float | None = None
    iterations: int = 50
    krylov: int = 30
    halvings: int = 12
    forcing: float = 0.5

    def __post_init__(self) -> None:
        for key in ("tolerance", "iterations", "krylov", "halvings", "forcing"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ValueError(f"{key}={value}; expected a positive number")

    def find(self, system: AbstractSystem, starts: Tensor) -> Roots:
        """Search from every start; see the base class."""
        with torch.no_grad():
            search = _Search(self, system, starts)
            search.run(self.iterations)
            return search.roots(search.x, search.norm)


class _Search(AbstractRootSearch):
    """The state of one call."""

    def __init__(self, settings: NewtonKrylov, system: AbstractSystem, starts: Tensor) -> None:
        super().__init__(system, starts)
        self.settings = settings
        self.x, self.r = starts.clone(), system.residual(starts)
        self.norm = row_rms(self.r)
        self.forcing = torch.full_like(self.norm, settings.forcing)
        self.settle(self.running())

    def settle(self, rows: Tensor) -> None:
        """Mark what has converged or is lost."""
        norm = self.norm[rows]
        done = norm <= residual_tolerance(self.settings.tolerance, self.x[rows])
        self.status[rows[done]] = int(RootStatus.CONVERGED)
        self.status[rows[~norm.isfinite()]] = int(RootStatus.NON_FINITE)

    def advance(self, rows: Tensor) -> None:
        """One Newton step of the samples ``rows``."""
        before = self.norm[rows]
        solution = self.direction(rows)
        self.products[rows] += solution.products
        self.iterations[rows] += 1
        self.search_line(rows, solution.x.reshape(self.x[rows].shape), solution.residual.clamp(max=_LOOSEST))
        ratio = (self.norm[rows] / before).nan_to_num(nan=1.0)
        fresh, last = 0.9 * ratio.square(), 0.9 * self.forcing[rows].square()
        fresh = torch.where(last > 0.1, fresh.maximum(last), fresh)
        # Solving beyond the tolerance of the outer iteration is wasted.
        floor = 0.5 * residual_tolerance(self.settings.tolerance, self.x[rows]) / self.norm[rows].clamp(min=1e-300)
        self.forcing[rows] = fresh.maximum(floor).clamp(max=_LOOSEST)
        self.settle(self.running(rows))

    def direction(self, rows: Tensor) -> LinearSolution:
        """Newton's direction, flattened."""
        part, point = self.system.at_rows(rows), self.x[rows]
        operator = jacobian_operator(part.residual_law, part.time(point), point, part.cond)
        return gmres(operator.matvec, -self.r[rows].flatten(1), self.forcing[rows], self.settings.krylov)

    def search_line(self, rows: Tensor, step: Tensor, eta: Tensor) -> None:
        """Halve the steps until the residuals fall; a start whose does not has stalled."""
        share = 1.0
        for _ in range(self.settings.halvings + 1):
            trial = self.x[rows] + share * step
            residual = self.system.at_rows(rows).residual(trial)
            self.evaluations[rows] += 1
            norm = row_rms(residual)
            falls = norm <= (1 - _SUFFICIENT * share * (1 - eta)) * self.norm[rows]
            kept = rows[falls]
            self.x[kept], self.r[kept], self.norm[kept] = trial[falls], residual[falls], norm[falls]
            rows, step, eta, share = rows[~falls], step[~falls], eta[~falls], 0.5 * share
            if not len(rows):
                return
        self.status[rows] = int(RootStatus.STALLED)
