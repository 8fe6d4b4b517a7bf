"""Equations with closed-form solutions, in the drop-in interface's terms."""

from __future__ import annotations

import torch
from torch import nn

DOUBLE = torch.float64


def double(*values):
    return torch.tensor(values, dtype=DOUBLE)


class Linear(nn.Module):
    """``dy/dt = A y``; the solution is a matrix exponential."""

    def __init__(self, size=3, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.A = nn.Parameter(0.7 * torch.randn(size, size, dtype=DOUBLE, generator=generator))

    def forward(self, t, y):
        return y @ self.A.T

    def exact(self, y0, t):
        return y0 @ torch.linalg.matrix_exp(self.A * t).T


class Counted:
    """A function that counts its calls and keeps its times."""

    def __init__(self, function):
        self.function, self.times = function, []

    def __call__(self, t, y):
        self.times.append(float(t.detach()))
        return self.function(t, y)


def smooth(t, y):
    """A nonlinear field that depends on time."""
    return torch.sin(y.flip(-1)) - 0.3 * y + torch.cos(t)


def decay(t, y):
    return -y
