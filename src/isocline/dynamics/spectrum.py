"""Leading eigenvalues of a field's Jacobian along its solutions, and the measures of stiffness that follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.krylov import Spectrum, arnoldi_eigenvalues, jacobian_operator
from isocline.dynamics.path import FieldPath
from isocline.metrics.uncertainty import Estimate
from isocline.solvers.problem import VectorField

__all__ = ["PathSpectrum", "SpectrumRow", "spectrum_along"]

# A residual this small in units of the spectral radius counts as converged.
_CONVERGED = 1e-2


class SpectrumRow(NamedTuple):
    """One time of a path, averaged over samples.

    Attributes:
        t: time.
        radius: largest modulus of an eigenvalue, per unit of time.
        abscissa: largest real part in the direction of integration; positive where solutions part.
        fastest_decay: smallest real part, likewise; its size bounds the step of explicit methods.
        oscillation: largest imaginary part.
        stiffness_ratio: ``max |Re λ| / min |Re λ|``; None where no sample has two real parts to compare.
        horizon: ``|λ|max (t1 - t0)``, the number of shortest time constants in the whole span.
        residual: of the leading value in units of the radius, the worst of all samples: what the radius is worth.
        converged: share of the values that have converged.
    """

    t: float
    radius: Estimate
    abscissa: Estimate
    fastest_decay: Estimate
    oscillation: Estimate
    stiffness_ratio: Estimate | None
    horizon: Estimate
    residual: float
    converged: float


@dataclass(frozen=True, eq=False)
class PathSpectrum:
    """Eigenvalues of ``∂f/∂x`` at K times of B samples, in the direction of integration.

    Where time runs backward the field that is integrated is ``-f``: its eigenvalues are given, so that a negative real
    part is decay in either case.

    Attributes:
        ts: times, float64, shape (K,).
        values: complex128, shape (K, B, k), by falling modulus.
        residuals: float64, shape (K, B, k); see `isocline.dynamics.krylov.Spectrum`.
        span: time that the path covers.
        complete: whether these are all eigenvalues, not the leading ones only.
    """

    ts: Tensor
    values: Tensor
    residuals: Tensor
    span: float
    complete: bool

    @property
    def converged(self) -> Tensor:
        """Which values have a residual below one per cent of the radius, bool, shape (K, B, k)."""
        return self.residuals <= _CONVERGED * self.values.abs().amax(-1, keepdim=True)

    @property
    def trusted(self) -> Tensor:
        """The values, NaN where they have not converged, as `largest_stable_step` takes them; shape (K, B, k)."""
        return torch.where(self.converged, self.values, math.nan)

    @property
    def radius(self) -> Tensor:
        """Spectral radius, shape (K, B)."""
        return self.values.abs().amax(-1)

    @property
    def abscissa(self) -> Tensor:
        """Largest real part found, shape (K, B)."""
        return self.values.real.amax(-1)

    @property
    def horizon(self) -> Tensor:
        """``|λ|max (t1 - t0)``, shape (K, B): explicit methods need about a third as many steps at least."""
        return self.radius * self.span

    @property
    def stiffness_ratio(self) -> Tensor:
        """``max |Re λ| / min |Re λ|`` over the values that have converged and are not rounding, shape (K, B).

        The ratio itself where the spectrum is complete, otherwise a lower bound of it: eigenvalues near zero are those
        that a Krylov method finds last. NaN where no real part differs from zero.
        """
        sizes = self.values.real.abs()
        counts = self.converged & (sizes > self.residuals)
        largest = torch.where(counts, sizes, 0.0).amax(-1)
        smallest = torch.where(counts, sizes, math.inf).amin(-1)
        return torch.where(counts.any(-1), largest / smallest, math.nan)

    def rows(self) -> list[SpectrumRow]:
        """One row per time.

        Raises:
            ValueError: if an eigenvalue is not finite.
        """
        decay, oscillation = self.values.real.amin(-1), self.values.imag.amax(-1)
        found = []
        for index, (t, ratios) in enumerate(zip(self.ts.tolist(), self.stiffness_ratio, strict=True)):
            known = ratios[ratios.isfinite()]
            row = SpectrumRow(
                t,
                _mean(self.radius[index]),
                _mean(self.abscissa[index]),
                _mean(decay[index]),
                _mean(oscillation[index]),
                _mean(known) if len(known) else None,
                _mean(self.horizon[index]),
                float((self.residuals[index, :, 0] / self.radius[index]).nan_to_num(0.0).max()),
                float(self.converged[index].double().mean()),
            )
            found.append(row)
        return found


def spectrum_along(
    field: VectorField, path: FieldPath, steps: int, generator: torch.Generator, cond: Any = None
) -> PathSpectrum:
    """Leading eigenvalues at every state of a path, by products with the Jacobian alone.

    Args:
        field: ``f(t, x, cond) -> dx``; samples must not influence one another.
        path: where.
        steps: products with each Jacobian, and values found; from the state's size on, all values.
        generator: source of the start vectors, on the CPU.
        cond: handed to the field.
    """
    found: list[Spectrum] = []
    for t, x in zip(path.ts, path.states, strict=True):
        found.append(arnoldi_eigenvalues(jacobian_operator(field, t, x, cond), steps, generator))
    values = path.direction * torch.stack([spectrum.values for spectrum in found]).cpu()
    residuals = torch.stack([spectrum.residuals for spectrum in found]).cpu()
    return PathSpectrum(path.ts, values, residuals, path.span, steps >= path.size)


def _mean(values: Tensor) -> Estimate:
    return Estimate.from_values(values.tolist())
