"""Derivatives along the flow by forward mode, in full precision."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Tangent", "tangent_along"]


class Tangent(NamedTuple):
    """A value and its derivative.

    Attributes:
        value: f(t, y), differentiable in the parameters.
        slope: ∂f/∂t ṫ + ∂f/∂y ẏ, without gradient.
    """

    value: Tensor
    slope: Tensor


def tangent_along(
    function: Callable[[Tensor, Tensor], Tensor], t: Tensor, y: Tensor, dt: Tensor, dy: Tensor
) -> Tangent:
    """Differentiate a function of time and state along (ṫ, ẏ).

    Autocast is off: in reduced precision tangents overflow, and differences that the loss is made of drown. Attention
    is computed plainly, since fused kernels have no forward mode. Value and derivative come from one call, so that
    they share their dropout masks.

    Args:
        function: f(t, y), a network and what is around it.
        t: times ``(B,)`` float64.
        y: states ``(B, *event)``, float32 or float64.
        dt: ṫ, like t.
        dy: ẏ, like y.
    """
    with torch.autocast(y.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        result = torch.func.jvp(function, (t, y), (dt, dy))
    return Tangent(result[0], result[1].detach())
