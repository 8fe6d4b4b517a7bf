"""Expectations over every clean and noisy sequence of a small law, and integrals over time, without sampling."""

import itertools
from typing import NamedTuple

import numpy as np
import torch

from isocline.processes.enumerated import EnumeratedLaw


class Pairs(NamedTuple):
    """Clean and noisy sequences that can occur at one time, each ``(N, L)``, and the probability of each pair."""

    x: torch.Tensor
    z: torch.Tensor
    weight: torch.Tensor


def small_law(symbols=3, length=2, spread=2.0):
    return EnumeratedLaw.random(symbols, length, spread, torch.Generator().manual_seed(0))


def pairs(truth, kernel, t):
    states = torch.tensor(list(itertools.product(range(truth.vocab_size), repeat=truth.length)))
    x = truth.sequences.repeat_interleave(len(states), 0)
    z = states.repeat(len(truth.sequences), 1)
    given = kernel.marginal(x, t).gather(-1, z.unsqueeze(-1)).squeeze(-1).prod(-1)
    weight = given * truth.probs.repeat_interleave(len(states))
    keep = weight > 0
    return Pairs(x[keep], z[keep], weight[keep])


def integral(value, start=0.0, nodes=64):
    """∫ value(t) dt from start to 1 by the double-exponential rule: integrands may be like 1/√t at both ends."""
    x, step = np.linspace(-3.2, 2.9, nodes, retstep=True)
    inner = 0.5 * np.pi * np.sinh(x)
    slope = 0.25 * np.pi * np.cosh(x) / np.cosh(inner) ** 2
    # 1/(1 + e^-2y) keeps its digits near 0, where (1 + tanh y)/2 would lose them.
    share = np.minimum(1.0 / (1.0 + np.exp(-2.0 * inner)), 1.0 - 1e-15)
    total = 0.0
    for point, weight in zip(share, step * slope, strict=True):
        t = torch.tensor(start + (1.0 - start) * point, dtype=torch.float64)
        total = total + (1.0 - start) * weight * value(t)
    return total
