"""How strongly a field pulls states together or apart: spectral and logarithmic norms of its Jacobian along a path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.krylov import jacobian_operator, lanczos_eigenvalues, largest_singular_value
from isocline.dynamics.path import FieldPath
from isocline.metrics.uncertainty import Estimate
from isocline.solvers.problem import VectorField

__all__ = ["LipschitzEstimate", "LipschitzRow", "estimate_lipschitz"]


class LipschitzRow(NamedTuple):
    """One time of a path.

    Attributes:
        t: time.
        norm: spectral norm of the Jacobian, averaged over samples.
        largest: of all samples.
        pair_bound: largest ratio ``‖f(x) - f(y)‖ / ‖x - y‖`` over pairs of samples; None for a single sample.
        log_norm: logarithmic norm in the direction of integration, averaged.
        stiffness_factor: `LipschitzEstimate.stiffness_factor`, averaged.
    """

    t: float
    norm: Estimate
    largest: float
    pair_bound: float | None
    log_norm: Estimate
    stiffness_factor: Estimate


@dataclass(frozen=True, eq=False)
class LipschitzEstimate:
    """Norms of the Jacobian at K times of B samples.

    Lanczos finds all three from within: norms are lower bounds that are exact to rounding once it has converged.

    Attributes:
        ts: times, float64, shape (K,).
        norms: ``‖J‖₂``, the local Lipschitz constant, shape (K, B).
        log_norms: ``μ₂``, the largest eigenvalue of ``(J + Jᵀ)/2`` in the direction of integration, shape (K, B):
            neighbours part no faster than ``exp(∫ μ₂ dt)``.
        least_log_norms: the smallest, likewise: they approach no faster.
        pair_bounds: lower bounds of the Lipschitz constant between samples, shape (K, P); empty for one sample.
        span: time that the path covers.
    """

    ts: Tensor
    norms: Tensor
    log_norms: Tensor
    least_log_norms: Tensor
    pair_bounds: Tensor
    span: float

    @property
    def stiffness_factor(self) -> Tensor:
        """``-σ (t1 - t0)`` with the stiffness indicator ``σ = (μ₂ + least μ₂)/2``, shape (K, B).

        Large and positive where the flow contracts strongly: stiff. Negative where it expands, zero for rotations.

        Source: Söderlind, Jay, Calvo, Stiffness 1952–2012: sixty years in search of a definition (2015).
        """
        return -(self.log_norms + self.least_log_norms) / 2 * self.span

    @property
    def growth(self) -> Tensor:
        """``exp(∫ μ₂ dt)`` from the first time on, by the trapezoidal rule, shape (K, B).

        By as much at most does a small error of the start grow (as far as the times resolve μ₂).
        """
        steps = self.ts.diff().abs()[:, None]
        parts = steps * (self.log_norms[1:] + self.log_norms[:-1]) / 2
        return torch.cat([torch.zeros_like(self.log_norms[:1]), parts.cumsum(0)]).exp()

    @property
    def constant(self) -> float:
        """The largest lower bound of the Lipschitz constant found anywhere."""
        return float(torch.cat([self.norms.flatten(), self.pair_bounds.flatten()]).max())

    def rows(self) -> list[LipschitzRow]:
        """One row per time.

        Raises:
            ValueError: if a norm is not finite.
        """
        return [
            LipschitzRow(
                t,
                Estimate.from_values(norms.tolist()),
                float(norms.max()),
                float(pairs.max()) if len(pairs) else None,
                Estimate.from_values(log_norms.tolist()),
                Estimate.from_values(factors.tolist()),
            )
            for t, norms, pairs, log_norms, factors in zip(
                self.ts.tolist(), self.norms, self.pair_bounds, self.log_norms, self.stiffness_factor, strict=True
            )
        ]


def estimate_lipschitz(
    field: VectorField,
    path: FieldPath,
    iterations: int,
    generator: torch.Generator,
    cond: Any = None,
    *,
    partners: int = 3,
) -> LipschitzEstimate:
    """Norms of the Jacobian at every state of a path, by products with it and its transposed.

    Args:
        field: ``f(t, x, cond) -> dx``; samples must not influence one another.
        path: where.
        iterations: products for each norm; ten give them to a few per cent, twenty usually to a per mille.
        generator: source of the start vectors, on the CPU.
        cond: handed to the field.
        partners: other samples that each is compared with, under its own ``cond``: one evaluation each.
    """
    norms, most, least, pairs = [], [], [], []
    for t, x in zip(path.ts, path.states, strict=True):
        operator = jacobian_operator(field, t, x, cond)
        norms.append(largest_singular_value(operator, iterations, generator))
        symmetric = lanczos_eigenvalues(operator.symmetric_part(), iterations, generator).values
        ends = (symmetric[:, 0], symmetric[:, -1])
        most.append(ends[0] if path.direction > 0 else -ends[1])
        least.append(ends[1] if path.direction > 0 else -ends[0])
        pairs.append(_pair_bounds(field, t, x, cond, partners))
    return LipschitzEstimate(
        path.ts,
        torch.stack(norms).cpu(),
        torch.stack(most).cpu(),
        torch.stack(least).cpu(),
        torch.stack(pairs).cpu(),
        path.span,
    )


def _pair_bounds(field: VectorField, t: Tensor, x: Tensor, cond: Any, partners: int) -> Tensor:
    """Ratios of each sample with the next few, shape (P,); equal samples count as zero."""
    time, found = t.to(x.device), []
    with torch.no_grad():
        slope = field(time, x, cond)
        for shift in range(1, min(partners, len(x) - 1) + 1):
            other = x.roll(-shift, 0)
            rise = (field(time, other, cond) - slope).double().flatten(1)
            distance = torch.linalg.vector_norm((other - x).double().flatten(1), dim=1)
            ratio = torch.linalg.vector_norm(rise, dim=1) / torch.where(distance > 0, distance, 1.0)
            found.append(torch.where(distance > 0, ratio, 0.0))
    return torch.cat(found) if found else x.new_zeros(0, dtype=torch.float64)
