"""The linear maps of a network and their largest singular values, followed from step to step."""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Followed", "full_precision", "largest_singular_value", "linear_maps", "power_step", "start"]


class Followed(NamedTuple):
    """One step of power iteration: the left singular vector and the singular value, both approached from below."""

    left: Tensor
    value: Tensor


def linear_maps(network: nn.Module) -> list[nn.Module]:
    """Return the linear and convolutional layers whose weights are trained, once for each weight."""
    layers = [(m, m.weight) for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return list({id(weight): layer for layer, weight in layers if weight.requires_grad}.values())


def full_precision(weight: Tensor) -> contextlib.AbstractContextManager[object]:
    """Return a context without autocast; the meta device, on which compositions are checked, has none."""
    return contextlib.nullcontext() if weight.is_meta else torch.autocast(weight.device.type, enabled=False)


def matrix(weight: Tensor) -> Tensor:
    """A weight as a matrix, outputs first; a convolution's is ``(outputs, inputs · k · k)``."""
    return weight.flatten(1)


def start(weight: Tensor, seed: int) -> Tensor:
    """Return the left vector to begin with: random, but the same in every run, and near the singular one."""
    stream = torch.Generator().manual_seed(seed)
    left = F.normalize(torch.randn(len(weight), generator=stream), dim=0).to(weight)
    for _ in range(0 if weight.is_meta else 20):
        left = power_step(weight, left).left
    return left


@torch.no_grad()
def power_step(weight: Tensor, left: Tensor) -> Followed:
    """Take one step of power iteration; a matrix of zeros leaves the vector where it is.

    Source: *Spectral Normalization for Generative Adversarial Networks*, Miyato et al., 2018, Algorithm 1.
    """
    with full_precision(weight):
        flat = matrix(weight)
        image = flat @ F.normalize(flat.mT @ left, dim=0)
        value = torch.linalg.vector_norm(image)
        return Followed(torch.where(value > 0, F.normalize(image, dim=0), left), value)


@torch.no_grad()
def largest_singular_value(weight: Tensor) -> Tensor:
    """Return it to rounding, by a decomposition in float64."""
    return torch.linalg.matrix_norm(matrix(weight).double(), 2).to(weight.dtype)
