"""How an optimiser multiplies an error on a quadratic: its stability region on the real axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["amplification", "stability_limit"]

Factory = Callable[[list[nn.Parameter]], Optimizer]


def amplification(optimizer: Factory, products: Tensor) -> Tensor:
    """The factor by which errors grow in a step, for each product ``η λ`` of step size and curvature.

    The optimiser is run for a few steps on ``Σ (ηλ)_i θ_i² / 2`` with ``lr = 1``. For a linear method the iterates of
    each component obey ``θ_{k+2} = a θ_{k+1} + b θ_k``; the factor is the larger modulus of the recursion's roots.

    Args:
        optimizer: makes the optimiser of parameters, as a partial with all options but ``lr``; it must take the
            components alike and linearly (no adaptive step sizes, no inner solve to a tolerance that is loose).
        products: values of ``η λ``, shape (n,).

    Returns:
        float64, shape (n,); below one where the method is stable. Of gradient descent, ``|1 - η λ|``.
    """
    z = products.double()
    theta = nn.Parameter(torch.ones_like(z))
    made = optimizer([theta])
    for group in made.param_groups:
        group["lr"] = 1.0

    def closure() -> Any:
        made.zero_grad()
        loss = 0.5 * (z * theta.square()).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    points = [theta.detach().clone()]
    for _ in range(3):
        made.step(closure)
        points.append(theta.detach().clone())
    return _largest_root(*points)


def _largest_root(p0: Tensor, p1: Tensor, p2: Tensor, p3: Tensor) -> Tensor:
    determinant = p1.square() - p0 * p2
    size = torch.stack([p0, p1, p2]).abs().amax(0)
    # A geometric sequence is a method without memory.
    single = determinant.abs() <= 1e-10 * size.square()
    safe = torch.where(single, 1.0, determinant)
    a, b = (p1 * p2 - p0 * p3) / safe, (p1 * p3 - p2.square()) / safe
    root = torch.complex(a.square() + 4 * b, torch.zeros_like(a)).sqrt()
    two = torch.maximum((a + root).abs(), (a - root).abs()) / 2
    return torch.where(single, (p1 / p0).abs(), two)


def stability_limit(optimizer: Factory, longest: float = 1e4, tolerance: float = 1e-9) -> float:
    """The least ``η λ`` above which errors grow, found on finer and finer grids.

    Args:
        optimizer: as in `amplification`; the components must not influence one another at all.
        longest: where the search ends; a method that is stable up to there is taken to be stable everywhere.
        tolerance: of the result, relative.

    Returns:
        the limit, ``inf`` if there is none. Gradient descent's is 2.
    """
    low, high = 1e-3, longest
    while high - low > tolerance * high:
        grid = torch.logspace(math.log10(low), math.log10(high), 400, dtype=torch.float64)
        unstable = (amplification(optimizer, grid) > 1 + 1e-11).nonzero()
        if not len(unstable):
            return math.inf if high == longest else high
        first = max(1, int(unstable[0]))
        low, high = float(grid[first - 1]), float(grid[first])
    return (low + high) / 2
