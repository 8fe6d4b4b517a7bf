"""How a stack of residual layers treats small changes: spectra of its layers, growth of perturbations, rounding."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.dynamics.krylov import arnoldi_eigenvalues, jacobian_operator, largest_singular_value
from isocline.networks.depth.block import Branch
from isocline.networks.depth.continuous import Continuous
from isocline.networks.transformer import TokenTransformer
from isocline.randomness import generator

__all__ = ["DepthStability", "depth_stability", "perturbation_growth", "rounding_error"]

_PERTURBATION = 1e-5


@dataclass(frozen=True)
class DepthStability:
    """Measures of one network on a few sequences.

    Attributes:
        lipschitz: largest singular value of the Jacobian of F_l at the states met, largest over layers, mean over
            sequences: a lower bound of the field's Lipschitz constant.
        abscissa: largest real part of the Jacobian's eigenvalues, likewise.
        map_gain: largest singular value of the Jacobian of the whole depth, x_0 to x_L; mean over sequences.
        growth: relative change of the state after layer 0, 1, …, L over the relative change before the first.
        logit_sensitivity: root mean square change of the logits over the relative change of the state.
        float32_error: see `rounding_error`.
    """

    lipschitz: float
    abscissa: float
    map_gain: float
    growth: tuple[float, ...]
    logit_sensitivity: float
    float32_error: float


def depth_stability(
    network: TokenTransformer, tokens: Tensor, *, iterations: int, krylov_steps: int, seed: int
) -> DepthStability:
    """Measure a network that is not conditioned on time.

    Args:
        network: in evaluation mode; not changed.
        tokens: ``(B, L)``, what the network is fed.
        iterations: power iterations for singular values.
        krylov_steps: size of the Krylov space that eigenvalues are looked for in.
        seed: of the random directions.
    """
    double = _unadjointed(network).double()
    with torch.no_grad():
        states = double.trunk.trajectory(double.embed(tokens))
    singular, real = [], []
    for layer, (field, x) in enumerate(zip(_fields(double), states, strict=False)):
        operator = jacobian_operator(functools.partial(_autonomous, field), 0.0, x)
        singular.append(largest_singular_value(operator, iterations, generator(seed, "singular", layer)))
        real.append(arnoldi_eigenvalues(operator, krylov_steps, generator(seed, "eigenvalues", layer)).abscissa)
    trunk = double.trunk

    def whole(t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        return trunk.integrator(trunk.stack, x, None)

    gain = largest_singular_value(jacobian_operator(whole, 0.0, states[0]), iterations, generator(seed, "map"))
    growth, logits = perturbation_growth(double, tokens, generator(seed, "perturbation"))
    return DepthStability(
        lipschitz=float(torch.stack(singular).amax(0).mean()),
        abscissa=float(torch.stack(real).amax(0).mean()),
        map_gain=float(gain.mean()),
        growth=growth,
        logit_sensitivity=logits,
        float32_error=rounding_error(network, tokens),
    )


@torch.no_grad()
def perturbation_growth(
    network: TokenTransformer, tokens: Tensor, draws: torch.Generator
) -> tuple[tuple[float, ...], float]:
    """Follow a small random change of the state before the stack, of each position by the same share, through it.

    Args:
        network: in float64, since the change is 1e-5 of the state.
        tokens: ``(B, L)``.
        draws: of the direction.

    Returns:
        By layer, the relative change over that at the start, root mean square over sequences and positions; and the
        change of the logits likewise, root mean square over the vocabulary too.
    """
    trunk, x = network.trunk, network.embed(tokens)
    direction = torch.randn(x.shape, generator=draws, dtype=torch.float64).to(x)
    start = x + trunk.positions[:, : x.shape[1]]
    step = _PERTURBATION * start.norm(dim=-1, keepdim=True) * direction / direction.norm(dim=-1, keepdim=True)
    before, after = trunk.trajectory(x), trunk.trajectory(x + step)
    shares = [(b - a).norm(dim=-1) / a.norm(dim=-1) for a, b in zip(before, after, strict=True)]
    growth = tuple(float(share.square().mean().sqrt()) / _PERTURBATION for share in shares)
    change = network.logits(trunk.features(after[-1])) - network.logits(trunk.features(before[-1]))
    return growth, float(change.square().mean().sqrt()) / _PERTURBATION


@torch.no_grad()
def rounding_error(network: TokenTransformer, tokens: Tensor) -> float:
    """Relative distance of float32 logits from float64 ones: root mean squares, the logits' mean left out.

    Args:
        network: in float32.
        tokens: ``(B, L)``.
    """
    exact = copy.deepcopy(network).double()(None, tokens)
    difference = network(None, tokens).double() - exact
    size = (exact - exact.mean(-1, keepdim=True)).square().mean().sqrt()
    return float(difference.square().mean().sqrt() / size)


def _unadjointed(network: TokenTransformer) -> TokenTransformer:
    """A copy whose solve, if it has one, is differentiated step by step, in either mode and more than once."""
    other = copy.deepcopy(network)
    if isinstance(other.trunk.integrator, Continuous):
        other.trunk.integrator.gradient = None
    return other


def _autonomous(field: Branch, t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
    return field(x)


def _fields(network: TokenTransformer) -> list[Branch]:
    return network.trunk.integrator.fields(network.trunk.stack, None)
