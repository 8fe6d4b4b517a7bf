"""Autonomous dynamical systems: a field or a map with its time held fixed, on a batch of states."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.problem import VectorField
from isocline.solvers.rows import select_rows

__all__ = ["AbstractSystem", "Flow", "IteratedMap", "check_states", "row_rms"]


@dataclass(frozen=True)
class AbstractSystem(ABC):
    """A law ``law(t, x, cond)`` of the shape of x, with t held fixed.

    Attributes:
        law: vector field or map; rows of a batch must not see one another.
        t: the time at which the law is frozen.
        cond: handed to the law; tensors in it lead with the batch axis of the states (or have no axis).
    """

    law: VectorField
    t: float
    cond: Any = None

    @abstractmethod
    def residual_law(self, t: Tensor, x: Tensor, cond: Any) -> Tensor:
        """What vanishes at a fixed point, as a function of time, state and condition; shape of x."""

    @abstractmethod
    def growth(self, values: Tensor) -> Tensor:
        """Above zero where an eigenvalue of the law's Jacobian makes small deviations grow, real, shape of values."""

    @property
    @abstractmethod
    def shift(self) -> float:
        """S in ``d residual / dx = d law / dx - s I``."""

    def residual(self, x: Tensor) -> Tensor:
        """The residual at states ``(B, *event)``."""
        return self.residual_law(self.time(x), x, self.cond)

    def time(self, like: Tensor) -> Tensor:
        """The frozen time, float64, shape ()."""
        return torch.tensor(self.t, dtype=torch.float64, device=like.device)

    def at_rows(self, rows: Tensor) -> AbstractSystem:
        """The same system for some of the batch: ``cond`` is indexed by ``rows``, int64 of shape (n,)."""
        return dataclasses.replace(self, cond=select_rows(self.cond, rows))

    def at_time(self, t: float) -> AbstractSystem:
        """The system frozen at another time."""
        return dataclasses.replace(self, t=t)


@dataclass(frozen=True)
class Flow(AbstractSystem):
    """``dx/ds = f(t, x, cond)``: fixed points are the zeros of f; a mode grows where Re λ > 0."""

    def residual_law(self, t: Tensor, x: Tensor, cond: Any) -> Tensor:
        """``f(t, x)``."""
        return self.law(t, x, cond)

    def growth(self, values: Tensor) -> Tensor:
        """Re λ."""
        return values.real if values.is_complex() else values

    @property
    def shift(self) -> float:
        """0."""
        return 0.0


@dataclass(frozen=True)
class IteratedMap(AbstractSystem):
    """``x <- D(t, x, cond)``, for instance a denoiser's ``data``: a mode grows where |λ| > 1."""

    def residual_law(self, t: Tensor, x: Tensor, cond: Any) -> Tensor:
        """``D(t, x) - x``."""
        return self.law(t, x, cond) - x

    def growth(self, values: Tensor) -> Tensor:
        """``|λ| - 1``."""
        return values.abs() - 1

    @property
    def shift(self) -> float:
        """1."""
        return 1.0


def row_rms(x: Tensor) -> Tensor:
    """Root of the mean square of every sample's entries, float64, shape (B,)."""
    flat = x.flatten(1)
    return torch.linalg.vector_norm(flat.double(), dim=1) / math.sqrt(max(1, flat.shape[1]))


def check_states(x: Tensor, name: str) -> None:
    """Refuse what cannot be a batch of states.

    Raises:
        TypeError: if x is not a real floating tensor.
        ValueError: if it has no batch axis, no sample, no entry, or an entry that is not finite.
    """
    if not x.dtype.is_floating_point:
        raise TypeError(f"{name} has dtype {x.dtype}; expected real floating numbers, convert it first")
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected (B, *event) with at least one state")
    broken = torch.nonzero(~x.flatten(1).isfinite().all(1)).flatten()
    if len(broken):
        raise ValueError(f"{name}[{int(broken[0])}] has entries that are not finite; drop it or mend where it is made")
