"""Residual layers whose states a regulariser reads or changes, or why a network has none."""

from __future__ import annotations

from torch import nn

from isocline.networks.depth.integrator import AbstractDepthIntegrator
from isocline.networks.residual_layers import ResidualLayer, residual_stacks

__all__ = ["integrator_of", "lacking", "layers_of"]


def layers_of(network: nn.Module) -> list[ResidualLayer]:
    """Return the residual layers of all stacks.

    Raises:
        ValueError: if there is none.
    """
    layers = [layer for stack in residual_stacks(network) for layer in stack]
    if not layers:
        raise ValueError(f"{lacking(network)} has no residual layers; remove it, or choose another network")
    return layers


def lacking(network: nn.Module) -> str:
    """Name what is to blame where layers are missing: a Transformer's depth integrator, or else the network."""
    return ("" if any(residual_stacks(network)) else integrator_of(network)) or type(network).__name__


def integrator_of(network: nn.Module) -> str:
    """Name how a Transformer takes its depth, as ``network.integrator = …``; empty for other networks."""
    method = next((m for m in network.modules() if isinstance(m, AbstractDepthIntegrator)), None)
    return "" if method is None else f"network.integrator = {type(method).__name__}"
