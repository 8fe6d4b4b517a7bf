"""The law of clean tokens, asked for those sequences only that a step needs it for.

A sequence in which a step decides nothing costs no evaluation: not in the statistics and, where the problem is
separable, not in time either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.solvers.problem import AbstractProblem

__all__ = ["law_at", "law_of_rows", "time_of_rows"]


def time_of_rows(t: Tensor, rows: Tensor) -> Tensor:
    """Times of the sequences ``rows``, for ``t`` ``()`` or ``(B,)``."""
    return t[rows] if t.ndim else t


def law_of_rows(problem: AbstractProblem, t: Tensor, z: Tensor, rows: Tensor) -> Tensor:
    """Evaluate the problem's law of clean tokens for some sequences.

    Args:
        problem: its ``rate`` is the law (see `isocline.samplers.token_law.TokenLaw`).
        t: time, ``()`` or ``(B,)``.
        z: tokens of all sequences, ``(B, L)``.
        rows: the sequences wanted, increasing, ``(n,)`` with n > 0.

    Returns:
        p(x|z), ``(n, L, V)`` float64.
    """
    if len(rows) == len(z):
        return problem.evaluate(t, z)
    if problem.separable:
        return problem.at_rows(rows).evaluate(time_of_rows(t, rows), z[rows])
    return problem.evaluate(t, z)[rows]


def law_at(problem: AbstractProblem, t: Tensor, z: Tensor, places: Tensor) -> Tensor:
    """Evaluate the law of clean tokens at marked positions; sequences without any are not evaluated.

    Args:
        problem: as for `law_of_rows`.
        t: time, ``()`` or ``(B,)``.
        z: tokens, ``(B, L)``.
        places: bool, ``(B, L)``.

    Returns:
        ``(m, V)`` float64 for the m marked positions, row by row; ``(0, 1)`` without any.
    """
    rows = torch.nonzero(places.any(-1)).flatten()
    if not len(rows):
        return torch.zeros(0, 1, dtype=torch.float64, device=z.device)
    return law_of_rows(problem, t, z, rows)[places[rows]]
