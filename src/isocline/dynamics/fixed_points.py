"""Fixed points of flows and maps from many starts, without repetition and with their spectra."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.dynamics.classify import Classification, Kind, classify, point_spectrum
from isocline.dynamics.distinct import group_points, spread
from isocline.dynamics.krylov import Spectrum
from isocline.dynamics.newton_krylov import NewtonKrylov
from isocline.dynamics.root_finder import AbstractRootFinder, Roots
from isocline.dynamics.system import AbstractSystem, check_states

__all__ = ["FixedPoints", "find_fixed_points"]


@dataclass(frozen=True)
class FixedPoints:
    """The P distinct fixed points that B starts led to, those reached most often first.

    Attributes:
        points: shape (P, *event).
        residuals: root mean square of the residual, float64, shape (P,).
        spectrum: eigenvalues of the law's Jacobian, shape (P, k).
        classification: kind, index and leading growth of each.
        hits: starts that reached the point, int64, shape (P,).
        sources: the start whose search gave the point, int64, shape (P,): its row of ``cond``.
        members: point that each start reached, -1 for starts whose search failed, int64, shape (B,).
        roots: the search from each start, failures included.
    """

    points: Tensor
    residuals: Tensor
    spectrum: Spectrum
    classification: Classification
    hits: Tensor
    sources: Tensor
    members: Tensor
    roots: Roots

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kind of each point."""
        return self.classification.kinds

    @property
    def index(self) -> Tensor:
        """Number of directions in which deviations grow, int64, shape (P,)."""
        return self.classification.index

    @property
    def attracting(self) -> Tensor:
        """Which points attract, bool, shape (P,)."""
        return torch.tensor([kind.attracts for kind in self.kinds], dtype=torch.bool, device=self.hits.device)


def find_fixed_points(
    system: AbstractSystem,
    starts: Tensor,
    generator: torch.Generator,
    *,
    finder: AbstractRootFinder | None = None,
    separation: float = 1e-3,
    steps: int | None = None,
) -> FixedPoints:
    """Search from every start, merge what is the same point, and classify.

    Nothing says that all fixed points are found: ``hits`` tells how much each one's share of the starts is worth.
    ``cond`` belongs to the starts: with labels in it, points of different labels are compared as well, and a point
    that two of them share is classified under the label of its best start.

    Args:
        system: a `Flow` or `IteratedMap`.
        starts: shape (B, *event).
        generator: of Arnoldi's start, on the CPU.
        finder: `NewtonKrylov` by default, which finds points of every kind; `Anderson` is cheaper per start and
            finds mostly those that attract.
        separation: distance below which two points are one, in units of the starts' spread.
        steps: products per spectrum; see `isocline.dynamics.classify.point_spectrum`.

    Raises:
        TypeError, ValueError: if the starts are no batch of finite states, or ``separation`` is not positive.
    """
    check_states(starts, "starts")
    if separation <= 0:
        raise ValueError(f"separation={separation}; expected a positive share of the starts' spread")
    roots = (finder or NewtonKrylov()).find(system, starts)
    good = torch.nonzero(roots.converged).flatten()
    found = roots.points[good]
    groups = group_points(found, roots.residuals[good], separation * spread(starts))
    hits = torch.bincount(groups.members, minlength=len(groups.representatives))
    order = hits.argsort(descending=True, stable=True)
    members = torch.full_like(roots.status, -1)
    members[good] = order.argsort()[groups.members]
    sources = good[groups.representatives[order]]
    points, part = roots.points[sources], system.at_rows(sources)
    size = starts[0].numel()
    if len(points):
        spectrum = point_spectrum(part, points, generator, steps=steps)
    else:
        spectrum = Spectrum(
            torch.zeros(0, 1, dtype=torch.complex128, device=points.device),
            torch.zeros(0, 1, dtype=torch.float64, device=points.device),
        )
    verdict = classify(system, spectrum, starts.dtype, size)
    return FixedPoints(points, roots.residuals[sources], spectrum, verdict, hits[order], sources, members, roots)
