"""A cap on the Lipschitz constant of every linear map, by projection after each step."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from isocline.objectives.base import Objective
from isocline.training.regularisation.base import AbstractRegulariser
from isocline.training.regularisation.matrices import largest_singular_value, linear_maps, power_step, start

__all__ = ["LipschitzCap"]


class LipschitzCap(AbstractRegulariser):
    """σ_max(W) ≤ bound for every linear and convolutional layer: W ← W min(1, bound/σ_max(W)) after each step.

    The set of such weights is convex, so that averages of them belong to it too. σ_max is followed by one step of power
    iteration at each step of the optimiser, which approaches it from below; the trained model is projected by exact
    values. The kernel of a convolution counts as a matrix ``(outputs, inputs · k · k)``: as a map of images its norm
    may be up to k times larger. Attention has no Lipschitz constant however small its weights are (*The Lipschitz
    Constant of Self-Attention*, Kim, Papamakarios & Mnih, 2021): this bounds its linear maps alone.

    Source: *Regularisation of Neural Networks by Enforcing Lipschitz Continuity*, Gouk et al., 2021.

    Args:
        bound: of σ_max.

    Raises:
        ValueError: if the bound is not above 0.
    """

    largest: Tensor

    def __init__(self, bound: float = 1.0) -> None:
        super().__init__()
        if not bound > 0:
            raise ValueError(f"bound = {bound}: must be above 0")
        self.bound = bound
        self._names: list[str] = []
        self.register_buffer("largest", torch.zeros(()))

    def prepare(self, network: nn.Module) -> None:
        """Project the weights as they start.

        Raises:
            ValueError: if there is none.
        """
        layers = linear_maps(network)
        if not layers:
            raise ValueError(f"{type(network).__name__} has no linear map in training; remove it")
        self._names = [name for name, module in network.named_modules() if module in layers]
        for index, weight in enumerate(self._weights(network)):
            self.register_buffer(f"left{index}", start(weight.detach(), index))
        if not any(weight.is_meta for weight in self._weights(network)):
            self.release(network)

    def check(self, network: nn.Module, objective: Objective) -> None:
        """Refuse weights that are computed from others."""
        if any(parametrize.is_parametrized(network.get_submodule(name), "weight") for name in self._names):
            raise ValueError("the weights are normalised already; remove it or the spectral normalisation")

    @torch.no_grad()
    def after_step(self, network: nn.Module) -> None:
        """Follow the singular values and project."""
        largest = self.largest.new_zeros(())
        for index, weight in enumerate(self._weights(network)):
            left = self.get_buffer(f"left{index}")
            found = power_step(weight, left)
            left.copy_(found.left)
            weight.mul_((self.bound / found.value).clamp(max=1.0))
            largest = torch.maximum(largest, found.value)
        self.largest.copy_(largest)

    def value(self, network: nn.Module) -> Tensor:
        """Return the largest singular value of all maps that the last step led to, before the projection."""
        return self.largest.clone()

    @torch.no_grad()
    def release(self, network: nn.Module) -> None:
        """Project by exact values."""
        for weight in self._weights(network):
            weight.mul_((self.bound / largest_singular_value(weight)).clamp(max=1.0))

    def _weights(self, network: nn.Module) -> list[Tensor]:
        """The weights in a network, or in its average, which trains none."""
        return [network.get_parameter(f"{name}.weight") for name in self._names]
