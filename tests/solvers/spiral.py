"""A nonlinear, coupled, non-autonomous system with a closed form, by which orders are measured."""

import math

import numpy as np
import torch

from isocline.solvers import ConstantSteps, ODEProblem, SaveAt, solve

START = torch.tensor([[0.3, 0.1], [-0.2, 0.9]], dtype=torch.float64)


def spiral(t, y, cond=None):
    """Polar coordinates: r' = r (1 - r²), φ' = 1 + cos t."""
    grow = 1 - (y * y).sum(-1)
    turn = (1 + torch.cos(t)).to(y.dtype)
    x, v = y.unbind(-1)
    return torch.stack((grow * x - turn * v, grow * v + turn * x), -1)


def exact(t):
    """The solution from `START` at 0."""
    square = (START**2).sum(-1)
    radius = (1 + (1 / square - 1) * math.exp(-2 * t)) ** -0.5
    angle = torch.atan2(START[:, 1], START[:, 0]) + t + math.sin(t)
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1)


def problem(t1=2.0):
    return ODEProblem(spiral, START, 0.0, t1)


def worst_error(stepper, count, t1=2.0):
    """Over all points of a grid of ``count`` steps."""
    with torch.no_grad():
        solution = solve(problem(t1), stepper, ConstantSteps(count), SaveAt(steps=True))
    assert solution.succeeded.all()
    wanted = torch.stack([exact(t) for t in solution.ts.tolist()])
    return float((solution.ys - wanted).abs().max())


def slope(errors, counts):
    """Of log error against log step."""
    return float(np.polyfit(-np.log(counts), np.log(errors), 1)[0])
