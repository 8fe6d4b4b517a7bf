"""Problems of the solver benchmark: a field, a start, a span, and the field for JAX where diffrax solves it too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

F64 = torch.float64


@dataclass(frozen=True)
class Problem:
    """``dy/dt = field(t, y, cond)`` from ``y0`` (B, D) at 0 to ``t1``."""

    name: str
    field: Callable[[Any, Tensor, Any], Tensor]
    y0: Tensor
    t1: float
    cond: Tensor | None = None
    jax_field: Callable[[Any, Any, Any], Any] | None = None


def _van_der_pol(t: Any, y: Tensor, mu: Tensor) -> Tensor:
    x, v = y.unbind(1)
    return torch.stack([v, mu * (1 - x * x) * v - x], 1)


def van_der_pol(batch: int, low: float = 0.1, high: float = 100.0, t1: float = 2.0) -> Problem:
    """μ from ``low`` to ``high``, evenly in the logarithm."""
    mu = torch.logspace(torch.tensor(low).log10(), torch.tensor(high).log10(), batch, dtype=F64)
    y0 = torch.tensor([[2.0, 0.0]], dtype=F64).repeat(batch, 1)
    name = f"Van der Pol μ {low:g}–{high:g}"
    return Problem(
        name,
        _van_der_pol,
        y0,
        t1,
        mu,
        lambda np, y, mu: np.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]),
    )


def _kepler(t: Any, y: Tensor, cond: Any) -> Tensor:
    place, speed = y[:, :2], y[:, 2:]
    square = (place * place).sum(1, keepdim=True)
    return torch.cat([speed, -place / (square * square.sqrt())], 1)


def kepler(batch: int, eccentricity: float = 0.95, t1: float = 10.0) -> Problem:
    """Eccentricity from 0 to the one given; starts at the perihelion."""
    e = torch.linspace(0 if batch > 1 else eccentricity, eccentricity, batch, dtype=F64)
    zero = torch.zeros_like(e)
    y0 = torch.stack([1 - e, zero, zero, ((1 + e) / (1 - e)).sqrt()], 1)
    return Problem(
        f"Kepler e 0–{eccentricity:g}",
        _kepler,
        y0,
        t1,
        None,
        lambda np, y, cond: np.concatenate([y[2:], -y[:2] / (y[:2] @ y[:2]) ** 1.5]),
    )


def _lotka_volterra(t: Any, y: Tensor, rate: Tensor) -> Tensor:
    prey, predators = y.unbind(1)
    meetings = prey * predators
    return torch.stack([rate * prey - meetings, meetings - 3 * predators], 1)


def lotka_volterra(batch: int, t1: float = 10.0) -> Problem:
    """Growth of the prey from 0.5 to 5, from (1, 1)."""
    rate = torch.linspace(0.5, 5.0, batch, dtype=F64)
    y0 = torch.ones(batch, 2, dtype=F64)
    return Problem(
        "Lotka–Volterra",
        _lotka_volterra,
        y0,
        t1,
        rate,
        lambda np, y, rate: np.stack([rate * y[0] - y[0] * y[1], y[0] * y[1] - 3 * y[1]]),
    )


def lorenz(t1: float = 5.0) -> Problem:
    """One trajectory on the attractor."""

    def field(t: Any, y: Tensor, cond: Any) -> Tensor:
        a, b, c = y.unbind(1)
        return torch.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], 1)

    return Problem("Lorenz", field, torch.ones(1, 3, dtype=F64), t1)


def mlp(width: int, batch: int, dimension: int = 2, t1: float = 20.0) -> Problem:
    """A tanh network with two hidden layers, float32, at its initial weights times 1.5."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Linear(dimension, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, dimension)
    )
    with torch.no_grad():
        for weight in net.parameters():
            bound = 1.5 / weight.shape[-1] ** 0.5
            weight.uniform_(-bound, bound, generator=generator)
    net.requires_grad_(False)
    y0 = torch.randn(batch, dimension, generator=generator)
    return Problem(f"MLP {width}, batch {batch}", lambda t, y, cond: net(y), y0, t1)


def heterogeneous(batch: int) -> list[Problem]:
    """Batches whose samples need very different steps."""
    return [van_der_pol(batch), kepler(batch), lotka_volterra(batch)]


def singles() -> list[Problem]:
    """Classical problems, one sample each."""
    return [van_der_pol(1, 1.0, 1.0, t1=10.0), kepler(1, 0.5), lotka_volterra(1), lorenz()]
