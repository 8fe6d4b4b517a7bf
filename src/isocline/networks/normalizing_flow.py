"""Discrete normalising flows: networks that carry data to noise in closed form and know their volume change.

``flow(x)`` goes from data (t = 0) to noise (t = 1), `AbstractNormalizingFlow.decode` back. The coupling, autoregressive
and linear layers are those of the library zuko.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import zuko
from torch import Tensor, nn
from torch.distributions import Transform
from zuko.flows.coupling import GeneralCouplingTransform
from zuko.lazy import LazyComposedTransform, LazyTransform
from zuko.transforms import DependentTransform, LULinearTransform, MonotonicAffineTransform

__all__ = [
    "AbstractNormalizingFlow",
    "AutoregressiveFlow",
    "CouplingFlow",
    "Encoded",
    "GlowFlow",
    "SplineFlow",
    "check_sizes",
]


class Encoded(NamedTuple):
    """Noise ``z`` (B, d) and ln |det ∂z/∂x| ``log_det`` (B,)."""

    z: Tensor
    log_det: Tensor


class AbstractNormalizingFlow(nn.Module, ABC):
    """An invertible network on R^d whose image of the data should be N(0, I).

    A subclass implements `forward` and `decode`.
    """

    dim: int

    @abstractmethod
    def forward(self, x: Tensor) -> Encoded:
        """Carry data ``(B, d)`` to noise.

        Raises:
            ValueError: if the data are not ``(B, d)``.
        """

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """Carry noise ``(B, d)`` to data: the inverse of `forward`; no gradients."""


def check_width(values: Tensor, flow: AbstractNormalizingFlow) -> None:
    """Look whether these are states of a flow: transforms of some libraries take wider ones, and leave memory unset.

    Raises:
        ValueError: if they are not.
    """
    if values.ndim != 2 or values.shape[1] != flow.dim:
        raise ValueError(
            f"{type(flow).__name__} of dim = {flow.dim} was given shape {tuple(values.shape)}; expected (B, {flow.dim})"
        )


class _TransformFlow(AbstractNormalizingFlow):
    """A flow out of zuko's lazy transforms."""

    def __init__(self, dim: int, transform: LazyTransform) -> None:
        super().__init__()
        self.dim = dim
        self.transform = transform

    def forward(self, x: Tensor) -> Encoded:
        check_width(x, self)
        z, log_det = self.transform().call_and_ladj(x)
        return Encoded(z, log_det)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        check_width(z, self)
        return self.transform().inv(z)


class CouplingFlow(_TransformFlow):
    """Affine coupling layers (RealNVP): half of the coordinates scale and shift the other half, alternately.

    Source: *Density Estimation Using Real NVP*, Dinh, Sohl-Dickstein and Bengio, 2017.

    Args:
        dim: dimension d, at least 2.
        layers: coupling layers.
        width: hidden width of the networks within them.
        depth: hidden layers of these.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(self, dim: int, layers: int = 8, width: int = 64, depth: int = 2) -> None:
        check_sizes(dim, layers, width, depth)
        super().__init__(dim, LazyComposedTransform(*(_coupling(dim, i, width, depth) for i in range(layers))))


class AutoregressiveFlow(_TransformFlow):
    """Masked affine autoregressive layers (MAF): each coordinate is scaled and shifted by those before it.

    Density in one pass, sampling in d passes a layer; the order is reversed from layer to layer.

    Source: *Masked Autoregressive Flow for Density Estimation*, Papamakarios, Pavlakou and Murray, 2017.

    Args:
        dim: dimension d, at least 2.
        layers: autoregressive layers.
        width: hidden width.
        depth: hidden layers.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(self, dim: int, layers: int = 5, width: int = 64, depth: int = 2) -> None:
        check_sizes(dim, layers, width, depth)
        super().__init__(dim, zuko.flows.MAF(dim, transforms=layers, hidden_features=_hidden(width, depth)).transform)


class SplineFlow(_TransformFlow):
    """Autoregressive layers of monotonic rational-quadratic splines on [−5, 5] (neural spline flow).

    Source: *Neural Spline Flows*, Durkan, Bekasov, Murray and Papamakarios, 2019.

    Args:
        dim: dimension d, at least 2.
        layers: autoregressive layers.
        width: hidden width.
        depth: hidden layers.
        bins: pieces of each spline.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(self, dim: int, layers: int = 3, width: int = 64, depth: int = 2, bins: int = 8) -> None:
        check_sizes(dim, layers, width, depth, bins=bins)
        flow = zuko.flows.NSF(dim, bins=bins, transforms=layers, hidden_features=_hidden(width, depth))
        super().__init__(dim, flow.transform)


class GlowFlow(_TransformFlow):
    """Steps of Glow on vectors: a scale and shift (ActNorm), a dense linear map in LU form, an affine coupling.

    ActNorm starts as the identity instead of normalising the first batch: the data come standardised.

    Source: *Glow: Generative Flow with Invertible 1×1 Convolutions*, Kingma and Dhariwal, 2018, Table 1.

    Args:
        dim: dimension d, at least 2.
        layers: steps.
        width: hidden width of the couplings' networks.
        depth: hidden layers of these.

    Raises:
        ValueError: if a size is out of range.
    """

    def __init__(self, dim: int, layers: int = 8, width: int = 64, depth: int = 2) -> None:
        check_sizes(dim, layers, width, depth)
        steps: list[LazyTransform] = []
        for index in range(layers):
            steps += [_ActNorm(dim), _LULinear(dim), _coupling(dim, index, width, depth)]
        super().__init__(dim, LazyComposedTransform(*steps))


class _ActNorm(LazyTransform):
    """x · exp(scale) + shift, coordinate by coordinate."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(dim))
        self.scale = nn.Parameter(torch.zeros(dim))

    def forward(self, c: Any = None) -> Transform:
        return DependentTransform(MonotonicAffineTransform(self.shift, self.scale), 1)


class _LULinear(LazyTransform):
    """x ↦ L U x with the diagonal of L positive: it starts near the identity, and is invertible throughout."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 / dim**0.5 * torch.randn(dim, dim))

    def forward(self, c: Any = None) -> Transform:
        diagonal = self.weight.diagonal()
        return LULinearTransform(self.weight + torch.diag_embed(diagonal.exp() - diagonal))


def _coupling(dim: int, index: int, width: int, depth: int) -> GeneralCouplingTransform:
    mask = [i % 2 == index % 2 for i in range(dim)]
    return GeneralCouplingTransform(dim, mask=mask, hidden_features=_hidden(width, depth))


def _hidden(width: int, depth: int) -> Sequence[int]:
    return [width] * depth


def check_sizes(dim: int, layers: int, width: int, depth: int, **more: int) -> None:
    """Raise a ValueError that names the first size that is out of range (``dim`` from 2, the others from 1)."""
    if dim < 2:
        raise ValueError(f"dim = {dim}: must be at least 2; a flow mixes coordinates")
    for name, value in {"layers": layers, "width": width, "depth": depth, **more}.items():
        if value < 1:
            raise ValueError(f"{name} = {value}: must be a positive integer")
