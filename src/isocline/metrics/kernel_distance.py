"""Kernel distance (squared maximum mean discrepancy) between feature sets, unbiased and deterministic."""

from __future__ import annotations

from torch import Tensor

__all__ = ["kernel_distance"]

_ROWS = 4096


def _kernel_sum(x: Tensor, y: Tensor, *, skip_diagonal: bool) -> float:
    """Sum ``(x_i . y_j / d + 1)^3`` over all pairs, a block of rows at a time; optionally without i = j."""
    width = x.shape[1]
    total = 0.0
    for start in range(0, x.shape[0], _ROWS):
        block = x[start : start + _ROWS]
        total += float((block @ y.T / width + 1.0).pow(3).sum())
    if skip_diagonal:
        total -= float((x.square().sum(1) / width + 1.0).pow(3).sum())
    return total


def kernel_distance(x: Tensor, y: Tensor) -> float:
    r"""Unbiased squared MMD under the cubic polynomial kernel ``k(a, b) = (a . b / d + 1)^3``.

    ``sum_{i != j} k(x_i, x_j) / (n (n-1)) + sum_{i != j} k(y_i, y_j) / (m (m-1)) - 2 mean k(x_i, y_j)``
    (Gretton et al., "A kernel two-sample test", 2012, Lemma 6; kernel of Binkowski et al., "Demystifying MMD
    GANs", 2018). All pairs are used, so no subsets are drawn and no global random state is touched; the value
    may be slightly negative for equal laws, as an unbiased estimate of zero must.

    Args:
        x: features ``(n, d)``.
        y: features ``(m, d)``.

    Raises:
        ValueError: if a set has fewer than two rows or the widths differ.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(x.shape[0], y.shape[0]) < 2:
        raise ValueError(f"features have shapes {tuple(x.shape)} and {tuple(y.shape)}; need (n, d), (m, d), n, m >= 2")
    a, b = x.double(), y.double()
    n, m = a.shape[0], b.shape[0]
    within_a = _kernel_sum(a, a, skip_diagonal=True) / (n * (n - 1))
    within_b = _kernel_sum(b, b, skip_diagonal=True) / (m * (m - 1))
    return within_a + within_b - 2.0 * _kernel_sum(a, b, skip_diagonal=False) / (n * m)
