"""The geometry of trajectories: how far they detour, how sharply they bend, how fast they go, how many axes they need.

Straightness and total curvature are `isocline.metrics.trajectory_shape`'s; here is what is read beside them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from isocline.metrics.trajectory_shape import straightness, total_curvature

__all__ = [
    "TrajectoryGeometry",
    "arc_over_chord",
    "effective_dimension",
    "local_curvature",
    "pooled_shares",
    "principal_shares",
    "speed",
    "trajectory_geometry",
]


class TrajectoryGeometry(NamedTuple):
    """What `trajectory_geometry` found of B trajectories of K states in d dimensions.

    Attributes:
        straightness: mean squared deviation of the velocity from the chord's, ``(B,)``.
        turning: angle by which the path turns in all, radians, ``(B,)``.
        arc_over_chord: length of the path over the distance between its ends, ``(B,)``, 1 if straight.
        planarity: share of a trajectory's variance in its first two principal axes, ``(B,)``.
        shares: share of a trajectory's variance in each of its principal axes, ``(B, min(K, d))``.
        pooled: the same for all trajectories at once, each about its own mean, ``(min(K B, d),)``.
        speed: ‖dy/dt‖/√d between neighbouring states, ``(K − 1, B)``.
        curvature: 1/radius at the inner states, ``(K − 2, B)``.
    """

    straightness: Tensor
    turning: Tensor
    arc_over_chord: Tensor
    planarity: Tensor
    shares: Tensor
    pooled: Tensor
    speed: Tensor
    curvature: Tensor


def trajectory_geometry(ts: Tensor, ys: Tensor) -> TrajectoryGeometry:
    """Measure trajectories.

    Args:
        ts: times of the states, ``(K,)``, monotone.
        ys: states ``(K, B, *event)``.

    Returns:
        float64 values on the device of ``ys``.

    Raises:
        ValueError: if there are fewer than three states.
    """
    shares = principal_shares(ys)
    return TrajectoryGeometry(
        straightness=straightness(ts, ys),
        turning=total_curvature(ys),
        arc_over_chord=arc_over_chord(ys),
        planarity=shares[:, :2].sum(-1),
        shares=shares,
        pooled=pooled_shares(ys),
        speed=speed(ts, ys),
        curvature=local_curvature(ys),
    )


def arc_over_chord(ys: Tensor) -> Tensor:
    """Return the length of each polygon over the distance between its ends; infinite for a closed one.

    Args:
        ys: states ``(K, B, *event)``.

    Returns:
        ``(B,)``, float64, at least 1; NaN for a trajectory that never moves.
    """
    states = _vectors(ys, 2, "arc length")
    return states.diff(dim=0).norm(dim=-1).sum(0) / (states[-1] - states[0]).norm(dim=-1)


def local_curvature(ys: Tensor) -> Tensor:
    """Return the curvature at each inner state: 1/radius of the circle through it and its two neighbours (Menger's).

    κ = 2 sin θ/‖y_{k+1} − y_{k−1}‖ with θ the angle between the two segments; exact on circles, however the states are
    spaced, and 0 where three states lie on a line, forward or back.

    Source: *Sur la géométrie des courbes*, Menger, 1930 (the three-point definition).

    Args:
        ys: states ``(K, B, *event)``.

    Returns:
        ``(K − 2, B)``, float64, per unit of length.

    Raises:
        ValueError: if there are fewer than three states.
    """
    states = _vectors(ys, 3, "curvature")
    before, after = states.diff(dim=0)[:-1], states.diff(dim=0)[1:]
    lengths = before.norm(dim=-1) * after.norm(dim=-1)
    chord = (states[2:] - states[:-2]).norm(dim=-1)
    # Twice the triangle's area by the part of one side across the other, which does not cancel for small angles.
    along = (before * after).sum(-1, keepdim=True) / before.square().sum(-1, keepdim=True).clamp_min(1e-300)
    across = (after - along * before).norm(dim=-1) * before.norm(dim=-1)
    return torch.where((lengths > 0) & (chord > 0), 2 * across / (lengths * chord), 0.0)


def speed(ts: Tensor, ys: Tensor) -> Tensor:
    """Return ‖Δy/Δt‖/√d between neighbouring states, the root mean square over coordinates.

    Args:
        ts: times of the states, ``(K,)``, monotone.
        ys: states ``(K, B, *event)``.

    Returns:
        ``(K − 1, B)``, float64.
    """
    states = _vectors(ys, 2, "speed")
    steps = ts.double().reshape(len(states)).diff().abs()
    return states.diff(dim=0).square().mean(-1).sqrt() / steps[:, None]


def principal_shares(ys: Tensor) -> Tensor:
    """Return the share of each trajectory's variance over its states along its own principal axes, largest first.

    Trajectories of diffusion's flow are almost planar: two axes hold nearly all.

    Source: *Fast ODE-based Sampling for Diffusion Models in Around 5 Steps* (AMED), Zhou et al., 2024, §3.1.

    Args:
        ys: states ``(K, B, *event)``.

    Returns:
        ``(B, min(K, d))``, float64; rows sum to 1, or are 0 where nothing moves.
    """
    states = _vectors(ys, 2, "principal axes")
    return _shares((states - states.mean(0)).transpose(0, 1))


def pooled_shares(ys: Tensor) -> Tensor:
    """Return the shares of all trajectories' variance along common principal axes, each about its own mean.

    Beside `principal_shares` it tells whether the planes of the trajectories are one plane: few axes hold all of it
    only if they are.

    Args:
        ys: states ``(K, B, *event)``.

    Returns:
        ``(min(K B, d),)``, float64.
    """
    states = _vectors(ys, 2, "principal axes")
    return _shares((states - states.mean(0)).flatten(0, 1))


def effective_dimension(shares: Tensor) -> Tensor:
    """Return 1/Σ p² of shares ``(*rows, r)``: the number of axes if all bore the same share (participation ratio).

    Returns:
        ``(*rows,)``; infinite where all shares are 0.
    """
    return 1.0 / shares.square().sum(-1)


def _shares(rows: Tensor) -> Tensor:
    """Shares of the squared singular values of ``(*batch, n, m)``, by the smaller of its two Gram matrices.

    A share is exact to the rounding error of the largest one, not of itself.
    """
    wide = rows.shape[-2] <= rows.shape[-1]
    gram = rows @ rows.mT if wide else rows.mT @ rows
    variances = torch.linalg.eigvalsh(gram).flip(-1).clamp_min(0.0)
    total = variances.sum(-1, keepdim=True)
    return torch.where(total > 0, variances / total.where(total > 0, 1.0), 0.0)


def _vectors(ys: Tensor, least: int, wanted: str) -> Tensor:
    """The states of trajectories as vectors ``(K, B, d)``, float64."""
    if len(ys) < least:
        raise ValueError(f"{len(ys)} states: {wanted} needs at least {least}; sample with save_steps=True")
    return ys.double().flatten(2)
