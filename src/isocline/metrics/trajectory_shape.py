"""How straight a sampler's trajectories are, and how much they turn."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isocline.processes.gaussian import GaussianProcess
from isocline.processes.probability_flow import LinearPathVariable
from isocline.solvers.solution import Solution

__all__ = ["TrajectoryShape", "straightness", "total_curvature", "trajectory_shape"]


class TrajectoryShape(NamedTuple):
    """Per trajectory.

    Attributes:
        straightness: S, the mean squared deviation of the velocity from the chord's, ``(B,)``, 0 if straight.
        curvature: the angle by which the path turns in all, in radians, ``(B,)``, 0 if straight.
    """

    straightness: Tensor
    curvature: Tensor


def straightness(ts: Tensor, ys: Tensor) -> Tensor:
    """Return S = ∫ ‖(y_end − y_start)/(t_end − t_start) − ẏ‖² |dt| / (d |t_end − t_start|) per trajectory.

    0 for a straight flow travelled at constant speed. ẏ is the slope between neighbouring saved states, so that S is
    exact for the polygon that a sampler with ``save_steps=True`` walked, Euler's own in particular; it grows with
    the number of steps towards the flow's. On the linear path y = x; of another process hand in the states of
    `LinearPathVariable`.

    Source: *Flow Straight and Fast*, Liu et al., 2023, Eq. 7.

    Args:
        ts: times of the states, ``(K,)`` or ``(K, 1)``, monotone.
        ys: states ``(K, B, *event)``.

    Returns:
        ``(B,)``, float64.

    Raises:
        ValueError: if there are fewer than two states.
    """
    states = _states(ys, "straightness")
    times = ts.double().reshape(len(ys))
    steps, whole = times.diff(), times[-1] - times[0]
    slopes = states.diff(dim=0) / steps[:, None, None]
    bend = (slopes - (states[-1] - states[0]) / whole).square().mean(-1)
    return (bend * (steps / whole)[:, None]).sum(0)


def total_curvature(ys: Tensor) -> Tensor:
    """Return the total curvature ∫ κ ds of each trajectory, the angle by which its direction turns, in radians.

    Of the polygon through the states it is the sum of the angles between neighbouring segments; inscribed in a smooth
    curve the polygon's is at most the curve's and tends to it as segments shrink. An arc of angle θ in n equal segments
    gives θ (1 − 1/n). It depends neither on scale nor on the speed along the path. Segments of no length have no
    direction and are passed over.

    Source: *On the Total Curvature of Knots*, Milnor, 1950, §1; for diffusion's trajectories, *On the Trajectory
    Regularity of ODE-based Diffusion Sampling*, Chen et al., 2024.

    Args:
        ys: states ``(K, B, *event)``.

    Returns:
        ``(B,)``, float64.

    Raises:
        ValueError: if there are fewer than two states.
    """
    segments = _states(ys, "curvature").diff(dim=0)
    lengths = segments.norm(dim=-1, keepdim=True)
    directions = segments / lengths.where(lengths > 0, 1.0)
    for index in range(1, len(directions)):
        # A segment of no length goes on as the one before it did.
        directions[index] = torch.where(lengths[index] > 0, directions[index], directions[index - 1])
    first, second = directions[:-1], directions[1:]
    # Unlike arccos of the cosine this is exact for small angles.
    angles = 2 * torch.atan2((second - first).norm(dim=-1), (second + first).norm(dim=-1))
    started = directions[:-1].square().sum(-1) > 0
    return torch.where(started, angles, 0.0).sum(0)


def trajectory_shape(solution: Solution, process: GaussianProcess) -> TrajectoryShape:
    """Measure the trajectories of a sampler with ``save_steps=True``, in the coordinates of `LinearPathVariable`.

    In those the path of one pair of noise and data is a straight line under every process, so that numbers compare
    between processes. What a sampler adds as noise on the way counts as turning.

    Args:
        solution: times ``(K,)`` or ``(K, B)`` and states ``(K, B, *event)`` of x.
        process: the sampler's.
    """
    variable, states, count = LinearPathVariable(), solution.ys.double(), len(solution.ys)
    times = solution.ts.double().reshape(count, -1)[:, 0]
    positions = variable.position(process, times)
    ys = torch.stack([variable.from_state(process, s, x) for s, x in zip(positions, states, strict=True)])
    return TrajectoryShape(straightness(positions, ys), total_curvature(ys))


def _states(ys: Tensor, wanted: str) -> Tensor:
    """The states of trajectories as vectors ``(K, B, d)``, float64."""
    if len(ys) < 2:
        raise ValueError(f"{len(ys)} state: {wanted} needs a trajectory; sample with save_steps=True")
    return ys.double().flatten(2)
