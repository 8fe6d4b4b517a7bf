"""Empirical statistics of a model, with which DPM-Solver-v3 chooses the linear part that suits it, pixel by pixel.

With u = x/α and λ = ln(α/σ) the probability flow is du/dλ = −e^{−λ} ε. DPM-Solver-v3 writes it as du/dλ = −l u − N with
N = e^{−λ} ε − l u, and N along the flow as dN/dλ ≈ s N + b; l, s and b depend on λ and are estimated on data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.shapes import expand_like

__all__ = ["ModelStatistics", "estimate_statistics", "shrunk_slopes"]

_LEAST_VARIANCE, _TINY, _ROUNDING = 1e-6, 1e-30, 64


@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """l, s and b at some λ; linear in between, constant beyond.

    Attributes:
        log_ratio: λ, ``(K,)`` float64, increasing.
        linear: l, ``(K, *event)`` float64: 0 makes the remainder e^{−λ} times the noise, 1 minus the data.
        growth: s, likewise.
        drift: b, likewise.

    Raises:
        ValueError: if shapes do not fit, λ does not increase or a value is not finite.
    """

    log_ratio: Tensor
    linear: Tensor
    growth: Tensor
    drift: Tensor

    def __post_init__(self) -> None:
        if self.log_ratio.ndim != 1 or len(self.log_ratio) < 2 or not bool((self.log_ratio.diff() > 0).all()):
            raise ValueError("log_ratio must be at least two increasing values of λ in one dimension")
        for name in ("linear", "growth", "drift"):
            values = getattr(self, name)
            if values.shape != self.linear.shape or len(values) != len(self.log_ratio):
                raise ValueError(
                    f"{name} has shape {tuple(values.shape)}; expected {len(self.log_ratio)} rows, one for each λ"
                )
            if not bool(values.isfinite().all()):
                raise ValueError(f"{name} has values that are not finite; estimate it between finite λ, on more data")

    @classmethod
    def constant(cls, linear: float, growth: float, event: Sequence[int]) -> ModelStatistics:
        """Return the same l and s for every λ, and b = 0.

        With (1, 0) the polynomial of DPM-Solver-v3 is that of the data, with (0, −1) that of the noise.

        Args:
            linear: l.
            growth: s.
            event: shape of a sample.
        """
        zeros = torch.zeros(2, *event, dtype=torch.float64)
        return cls(torch.tensor([-1.0, 1.0], dtype=torch.float64), zeros + linear, zeros + growth, zeros)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors, for a file."""
        return {name: getattr(self, name).contiguous() for name in ("log_ratio", "linear", "growth", "drift")}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ModelStatistics:
        """Inverse of `tensors`; any floating dtype.

        Raises:
            KeyError: if one is missing.
            ValueError: as the class.
        """
        return cls(*(tensors[name].to(torch.float64) for name in ("log_ratio", "linear", "growth", "drift")))

    def at(self, log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return l, s and b at λ of shape ``(M,)``, each ``(M, *event)``."""
        known = self.log_ratio
        inside = log_ratio.clamp(float(known[0]), float(known[-1]))
        right = torch.searchsorted(known, inside).clamp(1, len(known) - 1)
        share = (inside - known[right - 1]) / (known[right] - known[right - 1])
        tables = (self.linear, self.growth, self.drift)
        found = (torch.lerp(table[right - 1], table[right], expand_like(share, table[right])) for table in tables)
        linear, growth, drift = found
        return linear, growth, drift


def estimate_statistics(
    denoiser: AbstractDenoiser,
    data: Tensor,
    log_ratios: Tensor,
    generator: torch.Generator,
    cond: Tensor | None = None,
    batch_size: int = 64,
    growths: Sequence[float] | None = None,
) -> ModelStatistics:
    """Estimate l, s and b on data, each component by itself.

    l is σ times the mean of ∂ε_i/∂x_i (by ∇ε v ∘ v with v = ±1 per component), which minimises E‖∂N/∂u‖² among diagonal
    l; s and b are the regression of dN/dλ on N, the derivative being taken along the flow. Two directional derivatives
    for each datum and λ, of two reverse passes each.

    Args:
        denoiser: network and process; the network must be twice differentiable.
        data: ``(N, *event)``, N of some hundreds.
        log_ratios: λ, ``(K,)`` increasing and finite; times outside [t_min, t_max] are moved there.
        generator: source of noise and probes, on any device.
        cond: conditions of the data, ``(N, …)``, or None.
        batch_size: data per call.
        growths: bounds of s, none by default. −1 and 0, those of the noise form and of the data form, are a safe choice
            for a network that was trained briefly: where its error is larger than its signal, as a noise prediction's
            is at small λ, regressions find others, by which long steps go astray.

    Returns:
        The statistics, on the CPU.

    Raises:
        ValueError: if there are less than two data or λ, or the bounds are no interval.

    Source: *DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics*, Zheng et al., 2023, Eqs. 5,
    10 and 11, App. C.1.1; there in x/α of variance-preserving processes, which is u here for all.
    """
    if min(len(data), len(log_ratios)) < 2:
        raise ValueError(f"{len(data)} data and {len(log_ratios)} values of λ; give at least two of each")
    if growths is not None and not (len(growths) == 2 and growths[0] < growths[1]):
        raise ValueError(f"growths={list(growths)} are no interval; give the lower bound and the upper, or None")
    log_ratios = log_ratios.to(device="cpu", dtype=torch.float64)

    # The same noise and probes at every λ: the estimates are then smooth in λ, as l must be to be differentiated.
    x1 = denoiser.process.noise(data.shape, generator, data.dtype).to(data.device)
    coins = torch.randint(0, 2, data.shape, generator=generator, device=generator.device).to(data)
    parts = [torch.split(values, batch_size) for values in (data, x1, 2 * coins - 1)]
    conds = [None] * len(parts[0]) if cond is None else torch.split(cond, batch_size)

    def draws(log_ratio: Tensor) -> Iterator[_Draw]:
        process = denoiser.process
        t = process.schedule.inverse_log_ratio(log_ratio).clamp(process.t_min, process.t_max).to(data.device)
        values = process.schedule(t)
        for x0, noise, signs, one in zip(*parts, conds, strict=True):
            yield _Draw(t, process.mix(x0, noise, values), one, signs)

    with torch.no_grad():
        linear = torch.stack([_mean_derivative(denoiser, draws(value)) for value in log_ratios])
        slope = torch.gradient(linear, spacing=(log_ratios,), dim=0)[0]
        rows = zip(log_ratios, linear, slope, strict=True)
        fits = [_regress(denoiser, draws(value), part, change, growths) for value, part, change in rows]
    growth, drift = (torch.stack(column) for column in zip(*fits, strict=True))
    return ModelStatistics(log_ratios, linear, growth, drift)


class _Draw(NamedTuple):
    """A noisy batch at one λ: time, state, condition and signs."""

    t: Tensor
    x: Tensor
    cond: Any
    signs: Tensor


def _along(function: Callable[..., Tensor], point: tuple[Tensor, ...], tangents: tuple[Tensor, ...]) -> Tensor:
    """J v by two reverse passes: vᵀ of the derivative with respect to w of Jᵀ w, which is linear in w.

    Not by forward mode, which normalisation of channels-last images does not have.
    """
    with torch.enable_grad():
        inputs = tuple(value.detach().requires_grad_() for value in point)
        value = function(*inputs)
        weight = torch.zeros_like(value, requires_grad=True)
        pulled = torch.autograd.grad(value, inputs, weight, create_graph=True)
        (along,) = torch.autograd.grad(pulled, weight, tangents)
    return along


def _mean_derivative(denoiser: AbstractDenoiser, draws: Iterator[_Draw]) -> Tensor:
    """σ E[∂ε_i/∂x_i], ``(*event)``."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for draw in draws:
        noise = lambda x, draw=draw: denoiser.noise(draw.t, x, draw.cond)  # noqa: E731
        along = _along(noise, (draw.x,), (draw.signs,))
        total = total + denoiser.process.schedule(draw.t).sigma.cpu() * (along * draw.signs).sum(0).cpu().double()
        count += len(draw.x)
    return total / count


def _regress(
    denoiser: AbstractDenoiser, draws: Iterator[_Draw], linear: Tensor, slope: Tensor, bounds: Sequence[float] | None
) -> tuple[Tensor, Tensor]:
    """(s, b) of dN/dλ ≈ s N + b, each ``(*event)``, for l and dl/dλ."""
    pairs = [_remainder_and_derivative(denoiser, draw, linear, slope) for draw in draws]
    value, change = (torch.cat(column) for column in zip(*pairs, strict=True))
    growth = shrunk_slopes(value, change)
    if bounds is not None:
        growth = growth.clamp(*bounds)
    return growth, change.mean(0) - growth * value.mean(0)


def shrunk_slopes(value: Tensor, change: Tensor) -> Tensor:
    """Slopes of the regressions of ``change (N, *event)`` on ``value``, each drawn towards the common slope by as much
    as it is noise: with few data the wildest of many components would carry a sampler away.

    The variance between components beyond that of the errors is DerSimonian and Laird's; one component alone keeps its
    slope.

    Source: *Meta-Analysis in Clinical Trials*, DerSimonian & Laird, 1986; empirical Bayes, Efron & Morris, 1973.

    Returns:
        Slopes, ``(*event)``.
    """
    centred = value - value.mean(0)
    moment, variance = (centred * change).mean(0), centred.square().mean(0)
    varies = variance > _LEAST_VARIANCE * value.square().mean()
    slopes = torch.where(varies, moment / variance, 0.0)
    misfit = (change - change.mean(0) - slopes * centred).square().sum(0) / max(len(value) - 2, 1)
    # A component that hardly varies (a black margin) has no slope that could be found: 0.
    common = moment[varies].sum() / variance[varies].sum()
    slopes[varies] = _shrunk(slopes[varies], (misfit / (len(value) * variance))[varies], common)
    return slopes


def _shrunk(estimates: Tensor, errors: Tensor, centre: Tensor) -> Tensor:
    """Estimates ``(K,)`` with variances ``errors``, drawn towards ``centre``."""
    count = len(estimates)
    if count < 2:
        return estimates
    least = errors.min().clamp(min=_TINY)
    errors = errors.clamp(min=_TINY)
    weights = least / errors
    excess = (weights * (estimates - centre).square()).sum() - least * (count - 1)
    spread = weights.sum() - weights.square().sum() / weights.sum()
    between = (excess / spread.clamp(min=_TINY)).clamp(min=0)
    return centre + (estimates - centre) * between / (between + errors)


def _remainder_and_derivative(
    denoiser: AbstractDenoiser, draw: _Draw, linear: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """N and dN/dλ = e^{−λ} (dε/dλ − ε) − l' u + l e^{−λ} ε along du/dλ = −e^{−λ} ε, each ``(B, *event)`` float64."""
    values = denoiser.process.schedule(draw.t)
    alpha, sigma = (value.to(draw.x.dtype) for value in (values.alpha, values.sigma))
    pace = values.dalpha / values.alpha - values.dsigma / values.sigma
    noise = denoiser.noise(draw.t, draw.x, draw.cond)
    motion = (values.dalpha / values.alpha / pace).to(draw.x.dtype) * draw.x - sigma * noise
    along = _along(lambda t, x: denoiser.noise(t, x, draw.cond), (draw.t, draw.x), (1 / pace, motion))
    u, ratio = (draw.x / alpha).cpu().double(), float(values.sigma / values.alpha)
    noise, along = noise.cpu().double(), along.cpu().double()
    remainder = ratio * noise - linear * u
    # Of exactly linear noise (Gaussian data) only rounding errors are left, and no regression may find a slope in them.
    rounding = _ROUNDING * torch.finfo(draw.x.dtype).eps * (ratio * noise.abs() + (linear * u).abs())
    remainder = torch.where(remainder.abs() <= rounding, 0.0, remainder)
    return remainder, ratio * (along - noise) - slope * u + linear * ratio * noise
