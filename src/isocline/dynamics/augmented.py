"""Fixed points with the time as one more unknown: ``r(x, t) = 0`` and a plane that the solution lies in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.gmres import gmres
from isocline.dynamics.krylov import LinearOperator, jacobian_operator
from isocline.dynamics.root_finder import AbstractRootFinder, Roots
from isocline.dynamics.system import AbstractSystem, Flow
from isocline.solvers.rows import select_rows

__all__ = ["AugmentedProblem"]

_DENSE = 64


class _Plane(NamedTuple):
    """The law's condition, and the plane ``normal · (u - anchor) = 0``, both (B, n + 1)."""

    cond: Any
    normal: Tensor
    anchor: Tensor


@dataclass(frozen=True)
class AugmentedProblem:
    """Unknowns ``u = (x / (s √n), t / T)``, in which a step of one is large for state and time alike.

    Source: Keller, Numerical solution of bifurcation and nonlinear eigenvalue problems (1977); Allgower, Georg,
    Introduction to Numerical Continuation Methods (2003), chapter 2.

    Attributes:
        system: of one state; its own time does not count.
        event: shape of a state.
        state_scale: s, the size of an entry's changes.
        time_scale: T.
    """

    system: AbstractSystem
    event: torch.Size
    state_scale: float
    time_scale: float

    @property
    def size(self) -> int:
        """N."""
        return self.event.numel()

    def join(self, x: Tensor, t: float) -> Tensor:
        """Unknowns of a state (1, *event) at a time, shape (1, n + 1)."""
        flat = x.flatten(1) / (self.state_scale * self.size**0.5)
        return torch.cat([flat, torch.full_like(flat[:, :1], t / self.time_scale)], 1)

    def split(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, *event) and times, float64, shape (B,)."""
        x = u[:, :-1] * (self.state_scale * self.size**0.5)
        return x.reshape(-1, *self.event), u[:, -1].double() * self.time_scale

    def law(self, t: Tensor, u: Tensor, plane: _Plane) -> Tensor:
        """Residual and distance from the plane, shape (B, n + 1)."""
        x, time = self.split(u)
        residual = self.system.residual_law(time, x, plane.cond).flatten(1)
        distance = ((u - plane.anchor) * plane.normal).sum(1, keepdim=True)
        return torch.cat([residual, distance], 1)

    def correct(self, guess: Tensor, normal: Tensor, finder: AbstractRootFinder) -> Roots:
        """The fixed point in the plane through the guess, across the normal; both (1, n + 1)."""
        return finder.find(Flow(self.law, 0.0, _Plane(self.system.cond, normal, guess)), guess)

    def operator(self, u: Tensor, normal: Tensor) -> LinearOperator:
        """The bordered Jacobian ``[[r_x, r_t], [normal]]`` at points (B, n + 1)."""
        places = torch.zeros(len(u), dtype=torch.int64, device=u.device)
        cond = select_rows(self.system.cond, places)
        return jacobian_operator(self.law, 0.0, u, _Plane(cond, normal.expand_as(u), u))

    def tangent(self, u: Tensor, normal: Tensor) -> Tensor:
        """Unit tangent of the curve of fixed points, on the normal's side, shape (1, n + 1)."""
        right = torch.zeros_like(u)
        right[:, -1] = 1.0
        tolerance = torch.full((1,), torch.finfo(u.dtype).eps ** 0.5, dtype=torch.float64, device=u.device)
        found = gmres(self.operator(u, normal).matvec, right, tolerance, min(self.size + 1, 100)).x
        return found / torch.linalg.vector_norm(found)

    def log_determinant(self, u: Tensor, normal: Tensor) -> tuple[float, float] | None:
        """Sign and logarithm of the bordered Jacobian's determinant; None for n above 64.

        With the normal along the tangent it changes sign where curves cross, and not where one turns back.
        """
        width = self.size + 1
        if self.size > _DENSE:
            return None
        columns = self.operator(u.expand(width, width), normal).matvec(torch.eye(width, dtype=u.dtype, device=u.device))
        sign, logarithm = torch.linalg.slogdet(columns.double().T)
        return float(sign), float(logarithm)
