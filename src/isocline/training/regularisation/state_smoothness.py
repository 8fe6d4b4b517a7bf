"""Smoothness of the state over depth."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isocline.networks.residual_layers import ResidualLayer, residual_stacks
from isocline.objectives.base import Objective
from isocline.training.regularisation.base import AbstractPenalty
from isocline.training.regularisation.evaluations import mean_square, usable
from isocline.training.regularisation.layers import layers_of

__all__ = ["StateSmoothness"]


class StateSmoothness(AbstractPenalty):
    """Σ_l ‖x_{l+1} − x_l‖²/d over residual layers: the kinetic energy of depth, at unit steps.

    Averaged over samples, and over the evaluations if the objective makes several. In a Transformer x_{l+1} is where
    the step of its depth integrator has led. Layers that change the shape of the state, as a U-Net has, do not count.
    The states are those of the objective's own evaluations.

    Source: Xiao et al., Ordinary differential equations in vision and language (2026), Eq. 49; *A Principle of
    Least Action for the Training of Neural Networks*, Karkar, Ayed, de Bézenac & Gallinari, 2020.

    Args:
        weight: λ.

    Raises:
        ValueError: if the weight is negative.
    """

    hooked = True

    def __init__(self, weight: float = 1e-3) -> None:
        super().__init__(weight)
        self._increments: dict[int, list[Tensor]] = {}

    def check(self, network: nn.Module, objective: Objective) -> None:
        """Refuse a network without residual layers."""
        layers_of(network)

    @contextlib.contextmanager
    def watch(self, network: nn.Module, generator: torch.Generator) -> Iterator[None]:
        """Record the mean squares of the increments."""
        self._increments = {}
        layers = [layer for stack in residual_stacks(network) for layer in stack]
        with contextlib.ExitStack() as stack:
            for index, layer in enumerate(layers):
                stack.callback(layer.module.register_forward_hook(self._reader(index, layer)).remove)
            yield

    def _reader(self, index: int, layer: ResidualLayer) -> Any:
        def read(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if not usable(output) or (layer.adds and args[0].shape != output.shape):
                return
            step = output - args[0] if layer.adds else output
            self._increments.setdefault(index, []).append(mean_square(step))

        return read

    def value(self, network: nn.Module) -> Tensor:
        """Return the sum over layers.

        Raises:
            ValueError: if no layer was evaluated.
        """
        found, self._increments = self._increments, {}
        if not found:
            raise ValueError(
                f"the objective evaluates no residual layer of {type(network).__name__} as a whole, forwards and with "
                "gradients; remove it, or take parameter_smoothness"
            )
        return torch.stack([torch.stack(squares).mean() for squares in found.values()]).sum()
