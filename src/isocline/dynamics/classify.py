"""What a fixed point is, by the eigenvalues of the Jacobian there."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.dynamics.krylov import Spectrum, arnoldi_eigenvalues, jacobian_operator
from isocline.dynamics.system import AbstractSystem

__all__ = ["Classification", "Kind", "classify", "point_spectrum"]


class Kind(enum.Enum):
    """A fixed point's kind; a focus is approached or left in a spiral along its leading mode."""

    STABLE_NODE = "stable node"
    STABLE_FOCUS = "stable focus"
    UNSTABLE_NODE = "unstable node"
    UNSTABLE_FOCUS = "unstable focus"
    SADDLE = "saddle"
    SADDLE_FOCUS = "saddle focus"
    CENTRE = "centre"
    MARGINAL = "marginal"

    @property
    def attracts(self) -> bool:
        """Whether every small deviation dies out."""
        return self in (Kind.STABLE_NODE, Kind.STABLE_FOCUS)


@dataclass(frozen=True)
class Classification:
    """Verdicts on P fixed points.

    Attributes:
        kinds: one per point.
        index: directions in which deviations grow, among the eigenvalues known, int64, shape (P,).
        undecided: eigenvalues that may lie on either side of growth 0, int64, shape (P,).
        leading: largest growth of a mode: Re λ of a flow, ``|λ| - 1`` of a map, float64, shape (P,).
    """

    kinds: tuple[Kind, ...]
    index: Tensor
    undecided: Tensor
    leading: Tensor


def point_spectrum(
    system: AbstractSystem, points: Tensor, generator: torch.Generator, *, steps: int | None = None
) -> Spectrum:
    """Eigenvalues of the law's Jacobian at every point.

    Args:
        system: the law; its ``cond`` belongs to the points.
        points: shape (P, *event), n numbers each.
        generator: of Arnoldi's start, on the CPU.
        steps: products per point; None takes all n, hence the whole spectrum, up to n = 64, and 48 beyond.

    Returns:
        complex128 values of shape (P, k) by falling modulus, and residuals.
    """
    width = points[0].numel()
    if steps is None:
        steps = width if width <= 64 else 48
    operator = jacobian_operator(system.law, system.time(points), points, system.cond)
    return arnoldi_eigenvalues(operator, steps, generator)


def classify(system: AbstractSystem, spectrum: Spectrum, dtype: torch.dtype, size: int) -> Classification:
    """Decide by the signs of the growths, as far as they are known.

    A growth within ``max(residual, sqrt(eps) max(radius, 1))`` of zero (of a flow: without the 1) is undecided. Both
    signs found make a saddle. Otherwise one undecided eigenvalue makes the point marginal, or a centre if all the
    undecided ones are complex and none grows: the linear part alone then turns around for ever. Of a non-normal
    Jacobian the residual is not a bound of the eigenvalue's error.

    Of a spectrum with fewer than ``size`` values (Arnoldi's), those on the rim have converged; the others stand for
    what lies inside. ``index`` is then a lower bound, and "unstable" says that all modes known grow.

    Args:
        system: says which eigenvalues grow.
        spectrum: as `point_spectrum`.
        dtype: in which the products were computed.
        size: n, the number of components of a state.

    Raises:
        ValueError: if the spectrum has more values than components.
    """
    values = spectrum.values
    if values.shape[1] > size:
        raise ValueError(f"{values.shape[1]} eigenvalues of states with size={size}; give the size of one state")
    growth = system.growth(values)
    radius = values.abs().amax(1, keepdim=True).clamp(min=system.shift)
    margin = spectrum.residuals.clamp(min=0.0).maximum(torch.finfo(dtype).eps ** 0.5 * radius)
    rising, falling = growth > margin, growth < -margin
    undecided = ~(rising | falling)
    turning = values.imag.abs() > margin
    leading = growth.argmax(1)
    focus = turning.gather(1, leading[:, None])[:, 0]
    kinds = tuple(
        _kind(*map(bool, row))
        for row in zip(
            rising.any(1),
            falling.any(1),
            undecided.any(1),
            (turning | ~undecided).all(1) & ~rising.any(1),
            focus,
            strict=True,
        )
    )
    return Classification(kinds, rising.sum(1), undecided.sum(1), growth.gather(1, leading[:, None])[:, 0])


def _kind(rises: bool, falls: bool, open_: bool, circles: bool, focus: bool) -> Kind:
    if rises and falls:
        return Kind.SADDLE_FOCUS if focus else Kind.SADDLE
    if open_:
        return Kind.CENTRE if circles else Kind.MARGINAL
    if rises:
        return Kind.UNSTABLE_FOCUS if focus else Kind.UNSTABLE_NODE
    return Kind.STABLE_FOCUS if focus else Kind.STABLE_NODE
