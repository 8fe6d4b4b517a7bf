"""Weight tying: one field for all depths."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from isocline.networks.residual_layers import ResidualLayer, residual_stacks
from isocline.training.regularisation.base import AbstractRegulariser
from isocline.training.regularisation.layers import lacking

__all__ = ["WeightTying"]


class WeightTying(AbstractRegulariser):
    """All residual layers of a stack share the first one's parameters: the limit of `ParameterSmoothness`.

    x_{l+1} = x_l + F(x_l; θ) is then Euler's method on an autonomous ODE, of a depth that can be changed. Coefficients
    that an integrator of the depth learns for each layer stay its own. The trained model is stored with a copy of θ
    for each layer, so that it is read like any other.

    Source: *Universal Transformers*, Dehghani et al., 2019.
    """

    reparametrises = True

    def prepare(self, network: nn.Module) -> None:
        """Share the parameters.

        Raises:
            ValueError: if a stack's layers differ in shape, or no stack has two.
        """
        stacks = [stack for stack in residual_stacks(network) if len(stack) > 1]
        if not stacks:
            raise ValueError(
                f"{lacking(network)} has no two residual layers to tie; remove it, or choose a network with them "
                "(network.depth or network.blocks of at least 2)"
            )
        for stack in stacks:
            _tie(stack, type(network).__name__)

    def value(self, network: nn.Module) -> None:
        """Return nothing: it holds by construction."""


def _tie(stack: Sequence[ResidualLayer], name: str) -> None:
    first = dict(stack[0].weights.named_parameters())
    for layer in stack[1:]:
        own = dict(layer.weights.named_parameters())
        if {key: p.shape for key, p in own.items()} != {key: p.shape for key, p in first.items()}:
            raise ValueError(f"the residual layers of {name} differ in shape and cannot be tied; remove it")
        for key in own:
            owner, _, attribute = key.rpartition(".")
            setattr(layer.weights.get_submodule(owner), attribute, first[key])
