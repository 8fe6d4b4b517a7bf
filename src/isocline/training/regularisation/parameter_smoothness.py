"""Smoothness of the parameters over depth."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from isocline.networks.residual_layers import residual_stacks
from isocline.objectives.base import Objective
from isocline.training.regularisation.base import AbstractPenalty
from isocline.training.regularisation.layers import lacking

__all__ = ["ParameterSmoothness", "neighbours"]


def neighbours(network: nn.Module) -> list[tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]]:
    """Return the parameters by name of consecutive residual layers whose parameters have equal names and shapes."""
    found = []
    for stack in residual_stacks(network):
        for first, second in pairwise(stack):
            one, other = dict(first.weights.named_parameters()), dict(second.weights.named_parameters())
            if {name: p.shape for name, p in one.items()} == {name: p.shape for name, p in other.items()}:
                found.append((one, other))
    return found


class ParameterSmoothness(AbstractPenalty):
    """Σ_l ‖θ_{l+1} − θ_l‖² over consecutive residual layers of equal shape: a field that varies slowly over depth.

    It vanishes only where all of them are equal, which is one autonomous field (see `WeightTying` for the limit).

    Source: Xiao et al., Ordinary differential equations in vision and language (2026), Eq. 48; *Stable
    Architectures for Deep Neural Networks*, Haber & Ruthotto, 2017.

    Args:
        weight: λ.

    Raises:
        ValueError: if the weight is negative.
    """

    def __init__(self, weight: float = 1e-5) -> None:
        super().__init__(weight)

    def check(self, network: nn.Module, objective: Objective) -> None:
        """Refuse a network without two consecutive layers of equal shape, and one whose layers are one."""
        pairs = neighbours(network)
        if not pairs:
            raise ValueError(
                f"{lacking(network)} has no two consecutive residual layers of equal shape; remove it, or choose "
                "a network with them (network.depth or network.blocks of at least 2)"
            )
        if all(one[name] is other[name] for one, other in pairs for name in one):
            raise ValueError("the layers share their parameters, so that it is 0; remove it or the weight tying")

    def value(self, network: nn.Module) -> Tensor:
        """Return the sum over pairs."""
        squares = [(other[name] - one[name]).square().sum() for one, other in neighbours(network) for name in one]
        total = squares[0]
        for square in squares[1:]:
            total = total + square
        return total
