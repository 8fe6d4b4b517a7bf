"""Cost over error of one solver, sample by sample, and what is read off it at a given error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.metrics.uncertainty import Estimate
from isocline.solvers import AbstractStepper, Auto
from isocline.solvers.implicit_runge_kutta import AbstractImplicitRungeKutta
from isocline.solvers.stage_solvers import FixedPoint
from isocline.solvers.stiff import AbstractStiffStepper

__all__ = ["CostAt", "CostCurve", "SolverCandidate"]


@dataclass(frozen=True)
class SolverCandidate:
    """A solver to be compared.

    Attributes:
        name: for tables.
        stepper: the method.
        adaptive: whether it is run at tolerances, or with numbers of steps.
    """

    name: str
    stepper: AbstractStepper
    adaptive: bool = True

    @property
    def needs_jacobians(self) -> bool:
        """Whether it forms Jacobians and factorizes matrices of the state's size."""
        if isinstance(self.stepper, AbstractImplicitRungeKutta):
            return not isinstance(self.stepper.solver, FixedPoint)
        return isinstance(self.stepper, AbstractStiffStepper | Auto)

    @property
    def kind(self) -> str:
        """``explicit``, ``implicit`` or ``switching``."""
        if isinstance(self.stepper, Auto):
            return "switching"
        implicit = isinstance(self.stepper, AbstractStiffStepper | AbstractImplicitRungeKutta)
        return "implicit" if implicit else "explicit"


class CostAt(NamedTuple):
    """What a solver takes for a given error, averaged over samples.

    Attributes:
        nfe: evaluations as the solver counts them (see `isocline.solvers.Statistics`).
        jacobians: Jacobians.
        factorizations: matrices factorized.
        work: evaluations with every direction of a Jacobian counted as one.
        is_bound: whether some sample's cheapest solve that is accurate enough is more accurate than asked, with none to
            interpolate from: these are upper bounds then.
    """

    nfe: Estimate
    jacobians: Estimate
    factorizations: Estimate
    work: Estimate
    is_bound: bool


class _Place(NamedTuple):
    """Between which settings a sample reaches an error: ``(1 - share)`` of one and ``share`` of the next."""

    setting: int
    share: float
    is_bound: bool


@dataclass(frozen=True, eq=False)
class CostCurve:
    """One solver at P settings for B samples.

    Attributes:
        candidate: the solver.
        settings: tolerances or numbers of steps, from cheap to dear.
        errors: float64, shape (P, B); infinite where a sample failed.
        nfe: evaluations, float64, shape (P, B).
        jacobians: likewise.
        factorizations: likewise.
        work: likewise, with every direction of a Jacobian counted as one.
    """

    candidate: SolverCandidate
    settings: tuple[float, ...]
    errors: Tensor
    nfe: Tensor
    jacobians: Tensor
    factorizations: Tensor
    work: Tensor

    def at(self, level: float) -> CostAt | None:
        """Costs at an error: between neighbouring settings, linear in logarithms of error and cost.

        Never extrapolated: None unless every sample has a setting at least as accurate.
        """
        places = [self._place(sample, level) for sample in range(self.errors.shape[1])]
        known = [place for place in places if place is not None]
        if len(known) < len(places):
            return None
        found = [
            Estimate.from_values([_read(values[:, sample], place) for sample, place in enumerate(known)])
            for values in (self.nfe, self.jacobians, self.factorizations, self.work)
        ]
        return CostAt(found[0], found[1], found[2], found[3], any(place.is_bound for place in known))

    def works(self, level: float) -> Tensor:
        """Work of each sample at an error, float64, shape (B,).

        Raises:
            ValueError: if a sample does not reach it.
        """
        found = []
        for sample in range(self.errors.shape[1]):
            place = self._place(sample, level)
            if place is None:
                raise ValueError(f"level={level}: sample {sample} of {self.candidate.name} is never that accurate")
            found.append(_read(self.work[:, sample], place))
        return torch.tensor(found, dtype=torch.float64)

    def _place(self, sample: int, level: float) -> _Place | None:
        """The cheapest place at which a sample's error is no larger than ``level``."""
        errors, best, least = self.errors[:, sample].tolist(), None, math.inf
        for index, error in enumerate(errors):
            if error > level:
                continue
            before = errors[index - 1] if index else math.inf
            place = _Place(index, 0.0, error < level)
            if level < before < math.inf:
                share = math.log(before / level) / math.log(before / error) if error > 0 else 1.0
                place = _Place(index - 1, share, False)
            cost = _read(self.work[:, sample], place)
            if cost < least:
                best, least = place, cost
        return best


def _read(values: Tensor, place: _Place) -> float:
    low = float(values[place.setting])
    if place.share == 0:
        return low
    high = float(values[place.setting + 1])
    if low > 0 and high > 0:
        return math.exp((1 - place.share) * math.log(low) + place.share * math.log(high))
    return (1 - place.share) * low + place.share * high
