"""Stochastic depth: residual branches that are left out at random in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from isocline.networks.residual_layers import ResidualLayer, residual_stacks
from isocline.objectives.base import Objective
from isocline.shapes import expand_like
from isocline.training.regularisation.base import AbstractRegulariser
from isocline.training.regularisation.layers import integrator_of, layers_of

__all__ = ["StochasticDepth"]


class StochasticDepth(AbstractRegulariser):
    """x_{l+1} = x_l + b_l/(1 − p_l) F_l(x_l) with b_l ~ Bernoulli(1 − p_l) for each sample, p_l = rate · l/L.

    In a Transformer whose depth integrator takes another step than Euler's, the branch is Step(F_l, x_l) − x_l. Over
    b_l the mean of a layer is the layer itself, and the whole network is what is evaluated. A step draws b once: all
    evaluations of it, of as many samples, leave out the same branches, as students and their targets should (see
    `isocline.distillation.shared_dropout`); targets that are other modules are evaluated whole. All branches are
    computed, so that a step costs no less.

    Source: *Deep Networks with Stochastic Depth*, Huang et al., 2016, §3, with the branch scaled in training
    instead of evaluation.

    Args:
        rate: p_L, of the last layer.

    Raises:
        ValueError: if the rate is outside [0, 1).
    """

    hooked = True

    def __init__(self, rate: float = 0.1) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"rate = {rate}: must be in [0, 1)")
        self.rate = rate
        self._kept: dict[tuple[int, int], Tensor] = {}

    def check(self, network: nn.Module, objective: Objective) -> None:
        """Refuse a network without layers, and one whose layers hand on more than the state."""
        if not all(layer.skippable for layer in layers_of(network)):
            raise ValueError(
                f"{integrator_of(network)} carries a velocity, which a layer that is left out would still have moved; "
                "remove it, or choose a network of first order in depth"
            )

    @contextlib.contextmanager
    def watch(self, network: nn.Module, generator: torch.Generator) -> Iterator[None]:
        """Leave branches out while a network in training mode is evaluated."""
        self._kept = {}
        if not network.training:
            yield
            return
        numbered = [
            (layer, self.rate * (index + 1) / len(layers))
            for layers in residual_stacks(network)
            for index, layer in enumerate(layers)
        ]
        with contextlib.ExitStack() as stack:
            for place, (layer, rate) in enumerate(numbered):
                hook = self._dropper(place, layer, rate, generator)
                stack.callback(layer.module.register_forward_hook(hook).remove)
            yield

    def _dropper(self, place: int, layer: ResidualLayer, rate: float, generator: torch.Generator) -> Any:
        def drop(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if layer.adds and args[0].shape != output.shape:
                return None
            key = (place, len(output))
            if key not in self._kept:
                draws = torch.rand(len(output), generator=generator, device=generator.device)
                self._kept[key] = (draws >= rate).to(output.device)
            scale = expand_like(self._kept[key].to(output.dtype) / (1 - rate), output)
            return args[0] + scale * (output - args[0]) if layer.adds else scale * output

        return drop

    def value(self, network: nn.Module) -> Tensor | None:
        """Return the share of the branches that were kept.

        Raises:
            ValueError: if no layer was evaluated.
        """
        kept, self._kept = self._kept, {}
        if not network.training:
            return None
        if not kept:
            raise ValueError(
                f"the objective evaluates no residual layer of {type(network).__name__} that keeps the state's shape "
                "as a whole; remove it"
            )
        return torch.cat(list(kept.values())).float().mean()
