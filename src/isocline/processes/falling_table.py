"""A falling positive function of one variable, known by values and slopes, and its inverse."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["FallingTable"]


class FallingTable:
    """ln u as a piecewise cubic with the given values and slopes on a uniform grid from 0 (Hermite).

    Args:
        function: maps positions ``(N,)`` to u and du/dx, float64; u(0) = 1, falling.
        last: end of the grid; beyond it u is taken for 0.
        rows: number of grid points.
    """

    def __init__(self, function: Callable[[Tensor], tuple[Tensor, Tensor]], last: float, rows: int = 2001) -> None:
        self.last, self.rows, self.width = last, rows, last / (rows - 1)
        value, slope = function(torch.linspace(0.0, last, rows, dtype=torch.float64))
        value[0] = 1.0  # a rounding above or below would put the inverse of 1 beside 0
        self._table = torch.stack([value.log(), slope / value * self.width])

    def _cubic(self, cell: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Coefficients in the share of a cell, lowest first."""
        (y0, d0), (y1, d1) = table[:, cell], table[:, cell + 1]
        return y0, d0, 3 * (y1 - y0) - 2 * d0 - d1, 2 * (y0 - y1) + d0 + d1

    def value(self, x: Tensor) -> Tensor:
        """Return u at x at least 0, any shape, float64."""
        place = (x / self.width).clamp(0.0, self.rows - 1.0)
        cell = place.long().clamp(max=self.rows - 2)
        c0, c1, c2, c3 = self._cubic(cell, self._table.to(x.device))
        share = place - cell
        log_value = c0 + share * (c1 + share * (c2 + share * c3))
        return torch.where(x < self.last, log_value.exp(), 0.0)

    def inverse(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the x with u(x) = u, by Newton's method on the cubic, and dx/du; x is ``last`` where u is less.

        Args:
            u: values in [0, 1], any shape, float64.
        """
        table = self._table.to(u.device)
        wanted = u.log().clamp(float(table[0, -1]), 0.0)
        # ln u falls; searchsorted wants it to rise.
        cell = (torch.searchsorted(-table[0], -wanted) - 1).clamp(0, self.rows - 2)
        c0, c1, c2, c3 = self._cubic(cell, table)
        share = (wanted - c0) / (table[0, cell + 1] - c0)
        for _ in range(4):
            excess = c0 - wanted + share * (c1 + share * (c2 + share * c3))
            share = share - excess / (c1 + share * (2 * c2 + share * 3 * c3))
        return (cell + share) * self.width, self.width / (c1 + share * (2 * c2 + share * 3 * c3)) / u
