"""Spectral normalisation of every linear map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from isocline.networks.adapter import Adapted
from isocline.training.regularisation.base import AbstractRegulariser
from isocline.training.regularisation.matrices import (
    full_precision,
    largest_singular_value,
    linear_maps,
    matrix,
    power_step,
    start,
)

__all__ = ["SpectralNorm"]


class _Normalised(nn.Module):
    """W ↦ bound · W/σ_max(W), or bound · W/max(σ_max(W), bound) where W starts at 0 and has no direction yet."""

    left: Tensor

    def __init__(self, weight: Tensor, bound: float, seed: int) -> None:
        super().__init__()
        self.bound = bound
        self.least = 1e-12 if weight.is_meta or bool(weight.any()) else bound
        self.register_buffer("left", start(weight.detach(), seed))

    def forward(self, weight: Tensor) -> Tensor:
        with full_precision(weight):
            flat = matrix(weight)
            right = F.normalize(flat.detach().mT @ self.left, dim=0)
            value = self.left.clone() @ (flat @ right)
            return weight * (self.bound / value.clamp(min=self.least))

    def exact(self, weight: Tensor) -> Tensor:
        """The same by the exact singular value."""
        return weight * (self.bound / largest_singular_value(weight).clamp(min=self.least))


class SpectralNorm(AbstractRegulariser):
    """Linear and convolutional layers use bound · W/σ_max(W): their direction is trained, their norm is fixed.

    Layers that start at 0, such as gates and heads, are normalised only where they exceed the bound. σ_max is followed
    by one step of power iteration at each step of the optimiser; the trained model holds the normalised weights, by
    exact values, and is read like any other. The kernel of a convolution counts as a matrix, see `LipschitzCap`.

    Source: *Spectral Normalization for Generative Adversarial Networks*, Miyato et al., 2018, Eq. 8.

    Args:
        bound: the norm.

    Raises:
        ValueError: if the bound is not above 0.
    """

    reparametrises = True

    def __init__(self, bound: float = 1.0) -> None:
        super().__init__()
        if not bound > 0:
            raise ValueError(f"bound = {bound}: must be above 0")
        self.bound = bound

    def prepare(self, network: nn.Module) -> None:
        """Put the normalisation in front of the weights.

        Raises:
            ValueError: if there are none, or they are parts of an adapter.
        """
        if any(isinstance(module, Adapted) for module in network.modules()):
            raise ValueError("an adapter's factors have no norm of their own; take lipschitz_cap, or remove it")
        if not linear_maps(network):
            raise ValueError(f"{type(network).__name__} has no linear map in training; remove it")
        owners: dict[int, _Normalised] = {}
        layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.weight.requires_grad]
        for index, layer in enumerate(layers):
            if id(layer.weight) not in owners:
                owners[id(layer.weight)] = _Normalised(layer.weight, self.bound, index)
            parametrize.register_parametrization(layer, "weight", owners[id(layer.weight)])

    def value(self, network: nn.Module) -> Tensor:
        """Return the largest norm that the weights have before they are normalised."""
        with torch.no_grad():
            norms = [power_step(weight, rule.left).value for _, rule, weight in _normalised(network)]
        return torch.stack(norms).max()

    @torch.no_grad()
    def after_step(self, network: nn.Module) -> None:
        """Follow the singular vectors."""
        for _, rule, weight in _normalised(network):
            rule.left.copy_(power_step(weight, rule.left).left)

    @torch.no_grad()
    def release(self, network: nn.Module) -> None:
        """Put the normalised weights in the place of those that they were computed from."""
        for layer, rule, weight in _normalised(network):
            final = rule.exact(weight)
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
            assert isinstance(layer.weight, Tensor)
            layer.weight.copy_(final)


def _normalised(network: nn.Module) -> list[tuple[nn.Module, _Normalised, Tensor]]:
    """Layers, their normalisations, and what these are computed from."""
    found = []
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            chain = module.parametrizations["weight"]  # type: ignore[union-attr,index,operator]
            found.append((module, chain[0], chain.original))  # type: ignore[index,union-attr]
    return found  # type: ignore[return-value]
