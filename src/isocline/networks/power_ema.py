"""Averages of weights with power-function profiles, from which any other width is made after training.

The average at step t weighs step τ by p(τ; t, γ) = (γ + 1) τ^γ / t^{γ+1}: it forgets in proportion to the run's
length, and never holds the initialisation. Its width is σ_rel, the standard deviation of p over t.

Source: *Analyzing and Improving the Training Dynamics of Diffusion Models*, Karras et al., 2024, §3.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

__all__ = [
    "PowerFunctionAverage",
    "Profiles",
    "Synthesis",
    "exponent",
    "relative_width",
    "synthesise",
    "with_average",
]

_WIDEST = 12**-0.5
"""σ_rel of γ = 0, the plain mean of all steps."""


def relative_width(gamma: float) -> float:
    """Return σ_rel = √(γ + 1) / ((γ + 2) √(γ + 3))."""
    return math.sqrt((gamma + 1) / (gamma + 3)) / (gamma + 2)


def exponent(sigma_rel: float) -> float:
    """Return the γ whose profile has the width σ_rel, by bisection.

    Raises:
        ValueError: unless 0 < σ_rel <= 12^{-1/2}.
    """
    if not 0.0 < sigma_rel <= _WIDEST:
        raise ValueError(f"sigma_rel = {sigma_rel}: must be above 0 and at most {_WIDEST:.4f} (the plain mean)")
    low, high = 0.0, 1.0 / sigma_rel + 1.0  # σ_rel < 1/γ
    while high - low > 1e-14 * (1.0 + high):
        middle = (low + high) / 2
        low, high = (middle, high) if relative_width(middle) > sigma_rel else (low, middle)
    return (low + high) / 2


class Profiles(NamedTuple):
    """Averages that were kept.

    Attributes:
        times: the steps t at which they were, float64 ``(N,)``.
        gammas: their exponents γ, float64 ``(N,)``.
        weights: the averaged parameters, one after another, ``(N, P)``.
    """

    times: Tensor
    gammas: Tensor
    weights: Tensor


class Synthesis(NamedTuple):
    """A combination of profiles.

    Attributes:
        coefficients: one for each profile, float64 ``(N,)``.
        error: distance of the combined profile from the wanted one in L², relative to the wanted one's norm.
    """

    coefficients: Tensor
    error: float


def _products(t: Tensor, gamma: Tensor, s: Tensor, delta: Tensor) -> Tensor:
    """∫ p(τ; t, γ) p(τ; s, δ) dτ for all pairs, ``(N, M)``."""
    t, gamma, s, delta = t[:, None], gamma[:, None], s[None], delta[None]
    early, late = torch.minimum(t, s), torch.maximum(t, s)
    of_late = torch.where(t > s, gamma, delta)  # the exponent of the one that reaches further
    return (gamma + 1) * (delta + 1) / (gamma + delta + 1) * (early / late) ** of_late / late


def synthesise(times: Tensor, gammas: Tensor, time: float, gamma: float) -> Synthesis:
    """Find the combination of profiles, of coefficients that sum to one, that is nearest in L² to p(·; time, γ).

    The article's combinations are free; held to one, weights that have come to rest stay what they are, whatever the
    width.

    Args:
        times: of the kept averages, ``(N,)``.
        gammas: of the kept averages, ``(N,)``.
        time: step of the wanted average, not after the last kept one.
        gamma: exponent of the wanted average.

    Raises:
        ValueError: if the wanted step is after every kept one, or before the first.
    """
    if not 0 < time <= float(times.max()):
        raise ValueError(
            f"time = {time}: the last average was kept at step {int(times.max())}; give at most that, and more than 0"
        )
    times, gammas = times.double(), gammas.double()
    wanted = (torch.tensor([time], dtype=torch.float64), torch.tensor([gamma], dtype=torch.float64))
    inner, aside = _products(times, gammas, times, gammas), _products(times, gammas, *wanted)[:, 0]
    square = float(_products(*wanted, *wanted))
    # Unit norms: profiles of early steps are narrow and high, and the matrix is nearly singular as it is.
    norms = inner.diagonal().sqrt()
    scaled = inner / norms[:, None] / norms[None]
    right = torch.stack([aside / norms, 1.0 / norms], 1)
    free, lift = (torch.linalg.lstsq(scaled, right, rcond=1e-12, driver="gelsd").solution / norms[:, None]).unbind(1)
    # Lagrange's condition for the sum.
    coefficients = free + lift * ((1.0 - free.sum()) / lift.sum())
    rest = square - 2 * coefficients @ aside + coefficients @ inner @ coefficients
    return Synthesis(coefficients, math.sqrt(max(0.0, float(rest)) / square))


class PowerFunctionAverage(nn.Module):
    """Track power-function averages, keep snapshots of them, and make the average of any width from these.

    The averages of step n have β = (1 − 1/n)^{γ+1}: they are the profile's integrals over unit steps, exactly.
    Snapshots are taken every k steps; when there is room for no more, every second one is given up and k doubles, so
    that memory is bounded and the length of the run need not be known. All of it is in the state.

    Args:
        network: the network to follow.
        sigma_rel: width of what is evaluated and saved as the model.
        tracked: widths that are tracked.
        snapshots: room for snapshots, each of all tracked widths; even.

    Raises:
        ValueError: if a width is out of range, fewer than two are tracked or there is room for less than two.
    """

    averages: Tensor
    kept_weights: Tensor
    kept_times: Tensor
    updates: Tensor
    every: Tensor

    def __init__(
        self,
        network: nn.Module,
        sigma_rel: float = 0.1,
        tracked: Sequence[float] = (0.05, 0.1),
        snapshots: int = 8,
    ) -> None:
        super().__init__()
        if len(tracked) < 2:
            raise ValueError(f"ema.tracked = {list(tracked)}: give two widths at least; others are made from them")
        if snapshots < 2 or snapshots % 2:
            raise ValueError(f"ema.snapshots = {snapshots}: give an even number of at least 2")
        self.sigma_rel = sigma_rel
        self.gamma = exponent(sigma_rel)
        self.gammas = tuple(exponent(width) for width in tracked)
        self.template = copy.deepcopy(network).requires_grad_(False).eval()
        weights = parameters_to_vector(network.parameters()).detach()
        self.register_buffer("averages", weights.repeat(len(tracked), 1))
        self.register_buffer("kept_weights", weights.new_zeros(snapshots, len(tracked), len(weights)))
        self.register_buffer("kept_times", torch.zeros(snapshots, dtype=torch.int64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("every", torch.ones((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Follow the network's step; its buffers are copied, not averaged."""
        self.updates += 1
        step = int(self.updates)
        weights = parameters_to_vector(network.parameters())
        for average, gamma in zip(self.averages, self.gammas, strict=True):
            average.lerp_(weights.to(average.dtype), 1.0 - (1.0 - 1.0 / step) ** (gamma + 1.0))
        for kept, buffer in zip(self.template.buffers(), network.buffers(), strict=True):
            kept.copy_(buffer)
        if step % int(self.every) == 0:
            self._keep(step)

    def _keep(self, step: int) -> None:
        """Take a snapshot, and make room when there is none left."""
        index = int((self.kept_times > 0).sum())
        self.kept_weights[index], self.kept_times[index] = self.averages, step
        if index + 1 == len(self.kept_times):
            half = len(self.kept_times) // 2
            self.kept_weights[:half] = self.kept_weights[1::2].clone()
            self.kept_times[:half] = self.kept_times[1::2].clone()
            self.kept_times[half:] = 0
            self.every *= 2

    def profiles(self) -> Profiles:
        """Return the snapshots and the present averages.

        Raises:
            ValueError: before the first update.
        """
        last = int(self.updates)
        if not last:
            raise ValueError("nothing has been averaged yet; call update")
        earlier = (self.kept_times > 0) & (self.kept_times < last)
        times = torch.cat([self.kept_times[earlier], self.updates[None]]).double()
        weights = torch.cat([self.kept_weights[earlier], self.averages[None]])
        gammas = torch.tensor(self.gammas, dtype=torch.float64).repeat(len(times))
        return Profiles(times.repeat_interleave(len(self.gammas)).cpu(), gammas, weights.flatten(0, 1))

    @property
    def network(self) -> nn.Module:
        """The network with the average of width ``sigma_rel`` at the present step; before any update, as it began."""
        if not int(self.updates):
            return self.template
        kept = self.profiles()
        found = synthesise(kept.times, kept.gammas, float(self.updates), self.gamma)
        return with_average(self.template, kept, found)

    def kept(self) -> dict[str, Tensor]:
        """Return what a model keeps beside its weights, so that other widths can be made of it."""
        return {name: tensor.cpu().contiguous() for name, tensor in self.profiles()._asdict().items()}


def with_average(network: nn.Module, profiles: Profiles, synthesis: Synthesis) -> nn.Module:
    """Return a copy of a network whose parameters are the combination of averages; its buffers stay."""
    made = copy.deepcopy(network)
    mixed = synthesis.coefficients.to(profiles.weights.device) @ profiles.weights.double()
    vector_to_parameters(mixed.to(profiles.weights.dtype), made.parameters())
    return made
