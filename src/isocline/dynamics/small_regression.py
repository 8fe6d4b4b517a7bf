"""A small full-batch regression on which optimisers are studied as dynamical systems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isocline.randomness import generator
from isocline.solvers.problem import VectorField

__all__ = ["Regression", "RegressionSettings"]


@dataclass(frozen=True)
class RegressionSettings:
    """A network of one hidden layer of tanh, fitted to a Chebyshev polynomial at equidistant points of [-1, 1].

    Attributes:
        width: hidden units.
        degree: of the polynomial.
        points: number of points; all are in every batch.

    Source: Cohen et al. (2021), whose toy regression it is.
    """

    width: int = 32
    degree: int = 4
    points: int = 20

    def __post_init__(self) -> None:
        if min(self.width, self.degree) < 1 or self.points < 2:
            raise ValueError(f"{self}: sizes must be positive, points at least 2")


class Regression:
    """One instance, in float64: the data are fixed, the weights' start is the seed's.

    The loss is the mean square error, so that runs differ by nothing but the optimiser.

    Args:
        settings: sizes.
        seed: of the weights.

    Attributes:
        parameters: the weights as leaves.
    """

    def __init__(self, settings: RegressionSettings, seed: int) -> None:
        draws = generator(seed, "regression")
        x = torch.linspace(-1, 1, settings.points, dtype=torch.float64)[:, None]
        self._x, self._y = x, torch.cos(settings.degree * torch.arccos(x))
        width = settings.width

        def draw(*shape: int, bound: float) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(*shape, generator=draws, dtype=torch.float64) - 1) * bound)

        narrow = width**-0.5
        self.parameters = [
            draw(width, 1, bound=1.0),
            draw(width, bound=1.0),
            draw(1, width, bound=narrow),
            draw(1, bound=narrow),
        ]

    def loss(self) -> Tensor:
        """Mean square error."""
        return self._error(*self.parameters)

    def _error(self, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        return ((self._x @ w1.T + b1).tanh() @ w2.T + b2 - self._y).square().mean()

    def closure(self, optimizer: Optimizer) -> Callable[[], Any]:
        """What `torch.optim.Optimizer.step` takes; returns the loss without its graph."""

        def evaluate() -> Tensor:
            optimizer.zero_grad()
            loss = self.loss()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        return evaluate

    def vector(self) -> Tensor:
        """A copy of the weights, shape (n,)."""
        return torch.cat([parameter.detach().reshape(-1) for parameter in self.parameters])

    def flow(self) -> VectorField:
        """``-∇L`` as a field of weights of shape (1, n), for the solver core."""
        sizes = [parameter.numel() for parameter in self.parameters]
        shapes = [parameter.shape for parameter in self.parameters]

        def field(t: Tensor, y: Tensor, cond: object) -> Tensor:
            parts = torch.split(y[0].detach(), sizes)  # type: ignore[no-untyped-call]
            with torch.enable_grad():
                leaves = [
                    part.reshape(shape).clone().requires_grad_() for part, shape in zip(parts, shapes, strict=True)
                ]
                found = torch.autograd.grad(self._error(*leaves), leaves)
            return -torch.cat([part.reshape(-1) for part in found])[None]

        return field
