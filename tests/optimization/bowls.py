"""Quadratic bowls with known spectra, for the optimisers' tests."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def bowl(curvatures: Tensor, theta: nn.Parameter, optimizer: Optimizer) -> Callable[[], Tensor]:
    """A closure of ``Σ λ_i θ_i² / 2``."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 0.5 * (curvatures * theta.square()).sum()
        loss.backward()
        return loss

    return closure


def descend(
    make: Callable[[list[nn.Parameter]], Optimizer], curvatures: Tensor, steps: int, start: Tensor | None = None
) -> Tensor:
    """All iterates from ones, shape (steps + 1, n)."""
    theta = nn.Parameter(torch.ones_like(curvatures) if start is None else start.clone())
    optimizer = make([theta])
    closure = bowl(curvatures, theta, optimizer)
    found = [theta.detach().clone()]
    for _ in range(steps):
        optimizer.step(closure)
        found.append(theta.detach().clone())
    return torch.stack(found)


class TinyNetwork(nn.Module):
    """A non-linear regression with two parameter groups' worth of weights, float64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(6, 2, generator=generator, dtype=torch.float64) / 2)
        self.last = nn.Parameter(torch.randn(1, 6, generator=generator, dtype=torch.float64) / 2)
        self.x = torch.randn(16, 2, generator=generator, dtype=torch.float64)
        self.y = torch.sin(2 * self.x[:, :1])

    def closure(self, optimizer: Optimizer) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            optimizer.zero_grad()
            loss = ((self.x @ self.first.T).tanh() @ self.last.T - self.y).square().mean()
            loss.backward()
            return loss

        return evaluate

    def vector(self) -> Tensor:
        return torch.cat([self.first.detach().reshape(-1), self.last.detach().reshape(-1)])
