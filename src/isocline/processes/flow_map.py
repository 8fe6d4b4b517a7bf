"""The flow map X_{t→s}: from the state at t to the state at s on the probability flow, in one call of a network."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DifferencePrediction
from isocline.shapes import expand_like

__all__ = ["LinearPathPoint", "flow_map", "on_linear_path"]

_DIFFERENCE = DifferencePrediction()


class LinearPathPoint(NamedTuple):
    """What makes a state of a process one of the linear path, y = x/c at π; each of the shape of t, float64.

    Attributes:
        scale: c = α + σ.
        position: π = σ/(α + σ).
    """

    scale: Tensor
    position: Tensor


def on_linear_path(process: GaussianProcess, t: Tensor | float) -> LinearPathPoint:
    """Return scale and position at t; unlike through `LinearPathVariable`, derivatives in t are finite at both ends."""
    values = process.schedule(t)
    scale = values.alpha + values.sigma
    return LinearPathPoint(scale, values.sigma / scale)


def flow_map(denoiser: AbstractDenoiser, t: Tensor | float, s: Tensor | float, x: Tensor, cond: Any = None) -> Tensor:
    """Return X_{t→s}(x), what DDIM's step makes of the denoiser's prediction towards s.

    With y = x/(α + σ) and π = σ/(α + σ), in which every process is the linear path, y_s = y_t + (π_s − π_t) p, where
    p predicts ε − x_0. On the linear path with a velocity prediction u it is x − (t − s) u. X_{t→t}(x) = x exactly,
    whatever is predicted. A network of one time makes an Euler step of it, exact in the limit s → t or when it was
    distilled to a consistency function and s = 0; one of two times is exact if p is the average of ε − x_0 over [s, t]
    in π. The network is asked at t within [t_min, t_max]; s may be 0.

    Source: *Consistency Trajectory Models*, Kim et al., 2024, §3 (anytime-to-anytime jumps); *Mean Flows for One-step
    Generative Modeling*, Geng et al., 2025, Eq. 3 (the average velocity); *Denoising Diffusion Implicit Models*, Song
    et al., 2021, Eq. 12.

    Args:
        denoiser: a network under a process, possibly guided.
        t: where x is, ``()`` or ``(B,)``.
        s: where to go, ``()`` or ``(B,)``.
        x: states ``(B, *event)``.
        cond: handed to the network.

    Returns:
        The state at s, shape and dtype of x. At s = 0 that is data if σ(0) = 0.
    """
    process = denoiser.process
    # Times from the host follow the state: what a network gets lies beside its weights.
    t, s = (torch.as_tensor(time, dtype=torch.float64, device=x.device) for time in (t, s))
    asked = t.clamp(process.t_min, process.t_max)
    here, seen, there = (on_linear_path(process, time) for time in (t, asked, s))

    def expand(factor: Tensor) -> Tensor:
        return expand_like(factor.to(x.dtype), x)

    slope = denoiser.towards(s).predict(asked, x * expand(seen.scale / here.scale), cond, _DIFFERENCE)
    change = there.scale * (there.position - here.position)
    return x * expand(there.scale / here.scale) + slope * expand(change)
