"""Polynomials of the share θ of a step: integrated Lagrange bases, and dense output made of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.dense import AbstractInterpolant

__all__ = ["PolynomialInterpolant", "integrated_lagrange"]


def integrated_lagrange(nodes: Tensor) -> Tensor:
    """Coefficients of ``∫_0^θ ℓ_j(s) ds``, ℓ_j being the Lagrange basis over distinct nodes.

    Their values at θ = 1 are the weights of the interpolatory quadrature of [0, 1]: Adams' weights for nodes at past
    times, those of a collocation method for its nodes.

    Args:
        nodes: shape (..., S), floating.

    Returns:
        shape (..., S, S): for every basis function the coefficients of θ, θ², …, θ^S.

    Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, sections II.7 and III.5.
    """
    count = nodes.shape[-1]
    places = torch.arange(count, device=nodes.device)
    unit = torch.eye(count, dtype=torch.bool, device=nodes.device)
    gaps = torch.where(unit, 1.0, nodes[..., :, None] - nodes[..., None, :])
    basis = (places == 0).to(nodes.dtype).expand(*nodes.shape, count)
    for other in range(count):
        raised = torch.cat([torch.zeros_like(basis[..., :1]), basis[..., :-1]], -1)
        times_factor = (raised - nodes[..., other, None, None] * basis) / gaps[..., :, other, None]
        basis = torch.where((places == other)[:, None], basis, times_factor)
    return basis / (places + 1)


class PolynomialInterpolant(AbstractInterpolant):
    """``y(t0 + θh) = y0 + Σ_j p_j(θ) d_j`` with polynomials that vanish at zero; it costs no evaluation."""

    def __init__(self, y0: Tensor, increments: Sequence[Tensor], coefficients: Tensor, h: Tensor | None = None) -> None:
        """Keep what the polynomial needs.

        Args:
            y0: state at the start, shape (B, *event).
            increments: the d_j, S tensors of y0's shape; slopes if ``h`` is given.
            coefficients: of θ, θ², …, shape (S, P), or (B, S, P) where samples differ; float64.
            h: step to multiply the slopes by, broadcastable to ``y0``.
        """
        self._y0, self._increments, self._coefficients, self._h = y0, increments, coefficients, h

    def evaluate(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """Sum the increments with the weights ``p_j(θ)``."""
        coefficients = self._coefficients.to(theta.device)
        if coefficients.ndim == 3 and rows is not None:
            coefficients = coefficients.index_select(0, rows)
        share = theta[..., None]
        weights = torch.zeros((), dtype=torch.float64, device=theta.device)
        for power in reversed(range(coefficients.shape[-1])):
            weights = (weights + coefficients[..., power]) * share
        start = _take(self._y0, rows)
        total = torch.zeros_like(start)
        for weight, increment in zip(weights.unbind(-1), self._increments, strict=True):
            total = torch.addcmul(total, expand_like(weight, start).to(start.dtype), _take(increment, rows))
        if self._h is None:
            return start + total
        return start + (_take(self._h, rows) if self._h.ndim else self._h) * total


def _take(value: Tensor, rows: Tensor | None) -> Tensor:
    return value if rows is None else value.index_select(0, rows)
