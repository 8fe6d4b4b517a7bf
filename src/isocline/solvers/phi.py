"""The φ functions of exponential integrators, of numbers and of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["matrix_phi_functions", "phi_functions"]

_TERMS = 20


def phi_functions(z: Tensor, count: int) -> tuple[Tensor, ...]:
    """``φ_0(z) = exp z`` and ``φ_k(z) = ∫_0^1 exp((1 - s) z) s^(k-1) / (k-1)! ds``, component by component.

    Near zero by their Taylor series, elsewhere by ``φ_k = (φ_{k-1} - 1/(k-1)!) / z``, which would cancel there.

    Args:
        z: real or complex, any shape, in double precision for results in double precision.
        count: the largest k.

    Returns:
        φ_0 to φ_count, each of z's shape.

    Source: Hochbruck, Ostermann, Exponential integrators (2010), section 2.1, Eqs. 2.10 and 2.11.
    """
    near = z.abs() <= 1
    # Each branch gets arguments that it can be differentiated at.
    small, large = torch.where(near, z, 0), torch.where(near, 1, z)
    series = _series(small, torch.ones_like(small), count, torch.mul)
    powers = [torch.exp(large)]
    for k in range(1, count + 1):
        powers.append((powers[-1] - 1 / math.factorial(k - 1)) / large)
    return tuple(torch.where(near, a, b) for a, b in zip(series, powers, strict=True))


def matrix_phi_functions(z: Tensor, count: int) -> tuple[Tensor, ...]:
    """The same of square matrices: Taylor series of ``z / 2^s``, doubled s times by ``exp(2z) = exp(z)²`` and
    ``2^k φ_k(2z) = exp(z) φ_k(z) + Σ_{j=1}^k φ_j(z) / (k-j)!``.

    Waits for the device once, for the norms.

    Args:
        z: shape (..., D, D); each matrix is scaled by its own norm.
        count: the largest k.

    Returns:
        φ_0 to φ_count, each of z's shape.

    Source: Hochbruck, Ostermann, Exponential integrators (2010), section 2.1; Higham, Functions of matrices (2008),
    section 10.7.4, for the doubling.
    """
    norms = z.detach().abs().sum(-2).amax(-1)
    doublings = torch.frexp(norms.nan_to_num(0.0, 0.0, 0.0)).exponent.clamp(min=0)
    small = z * torch.ldexp(torch.ones_like(norms), -doublings)[..., None, None]
    identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device).expand_as(z)
    phis = _series(small, identity, count, torch.matmul)
    for turn in range(int(doublings.max())):
        doubled = [phis[0] @ phis[0]]
        for k in range(1, count + 1):
            total = phis[0] @ phis[k] + phis[k]
            for j in range(1, k):
                total = total + phis[j] / math.factorial(k - j)
            doubled.append(total / 2**k)
        more = (turn < doublings)[..., None, None]
        phis = [torch.where(more, new, old) for new, old in zip(doubled, phis, strict=True)]
    return tuple(phis)


def _series(z: Tensor, one: Tensor, count: int, product: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Horner's rule for φ_count, then downwards by ``φ_{k-1} = z φ_k + 1/(k-1)!``."""
    value = one / float(math.factorial(count + _TERMS))
    for power in reversed(range(_TERMS)):
        value = product(z, value) + one / float(math.factorial(count + power))
    phis = [value]
    for k in range(count, 0, -1):
        phis.append(product(z, phis[-1]) + one / math.factorial(k - 1))
    return phis[::-1]
