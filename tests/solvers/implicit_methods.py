"""The implicit methods, and equations with closed forms or known difficulty to try them on."""

import math

import numpy as np
import torch

from isocline.solvers.implicit_runge_kutta import (
    SDIRK2,
    GaussLegendre2,
    GaussLegendre4,
    GaussLegendre6,
    ImplicitEuler,
    ImplicitMidpoint,
    RadauIIA3,
    RadauIIA5,
    Trapezoid,
)

KINDS = [
    ImplicitEuler,
    ImplicitMidpoint,
    Trapezoid,
    SDIRK2,
    RadauIIA3,
    GaussLegendre4,
    RadauIIA5,
    GaussLegendre6,
]
GAUSS = [GaussLegendre2, GaussLegendre4, GaussLegendre6]
START = torch.tensor([[0.1, 0.4], [0.7, 0.25]], dtype=torch.float64)


def per_sample(t, y):
    return t if t.ndim == 0 else t.reshape(-1, *([1] * (y.ndim - 1)))


def logistic(t, y, cond):
    """dy/dt = (1 + cos t) y (1 - y), solved by 1 / (1 + c exp(-t - sin t))."""
    return (1 + torch.cos(per_sample(t, y))) * y * (1 - y)


def logistic_jacobian(t, y, cond):
    return torch.diag_embed((1 + torch.cos(per_sample(t, y))) * (1 - 2 * y))


def logistic_exact(span):
    rise = span[1] - span[0] + math.sin(span[1]) - math.sin(span[0])
    return 1 / (1 + (1 / START - 1) * math.exp(-rise))


def van_der_pol(t, y, cond):
    x, v = y[:, 0], y[:, 1]
    return torch.stack([v, cond * ((1 - x * x) * v - x)], 1)


def slope(errors, counts):
    x, y = -np.log(counts), np.log(errors)
    return float(np.polyfit(x, y, 1)[0])
