"""The Dirichlet path on the simplex: concentration grows at one corner."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from isocline.processes.falling_table import FallingTable
from isocline.processes.simplex_path import uniform_on_simplex
from isocline.processes.token_path import AbstractTokenPath
from isocline.processes.undecided_share import UndecidedShare, wrong_decisions
from isocline.shapes import expand_like

__all__ = ["DirichletPath", "corner_speed", "gamma_undecided_share"]

_LOWEST, _NODES, _POINTS = -25.0, 2048, 48


@functools.cache
def _quadrature() -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], dense at 0: Gauss–Legendre in the root."""
    x, w = np.polynomial.legendre.leggauss(_POINTS)
    root = torch.as_tensor(0.5 * (x + 1.0))
    return root.square(), torch.as_tensor(w) * root


def corner_speed(concentration: float, symbols: int, log_share: Tensor) -> Tensor:
    """The speed of a conditional Dirichlet flow towards its corner, per distance and share.

    The share b = x_k of the corner under Dir(1 + τ e_k) is Beta(a, S − 1), a = 1 + τ. Its quantiles move with
    db/dτ = −∂_a I_b(a, S − 1)/f(b), and the others keep their proportions: dx/dτ = C (e_k − x), C = (db/dτ)/(1 − b).
    With y = ln b, of density g, and m = E y = ψ(a) − ψ(a + S − 1),

        d ln b/dτ = ∫_{−∞}^y (m − y') g(y') dy'/g(y) = −∫_y^0 (m − y') g(y') dy'/g(y),

    taken over the side on which g falls. Returned is C/b, which is finite and smooth from b = 0 to 1.

    Source: "Dirichlet Flow Matching", Stark et al., 2024, Eqs. 12 to 14 (C by a series there).

    Args:
        concentration: τ at least 0.
        symbols: S.
        log_share: ln b below 0, any shape, float64.

    Returns:
        C/b, shape of log_share.
    """
    a, other = 1.0 + concentration, symbols - 1.0
    mean = math.fsum((_digamma(a), -_digamma(a + other)))
    y = log_share.unsqueeze(-1)
    nodes, weights = (part.to(y.device) for part in _quadrature())
    mode = math.log(a / (a + other - 1.0))
    # Far enough for g to fall by exp(-40) on either side of its mode, or to the end at b = 1.
    left = log_share.unsqueeze(-1) <= mode
    reach = torch.where(left, 1.0 + 40.0 / a, (-y).clamp(max=4.0))
    sign = torch.where(left, -1.0, 1.0)
    r = reach * nodes
    there = y + sign * r
    log_other = torch.log(-torch.expm1(y))
    # Cancellation at the end b = 1 would make an exact 0 negative.
    change = a * sign * r + (other - 1.0) * (torch.log((-torch.expm1(there)).clamp(min=1e-300)) - log_other)
    integral = (weights * reach * (mean - there) * change.exp()).sum(-1)
    return -sign.squeeze(-1) * integral / log_other.squeeze(-1).exp()


def _digamma(x: float) -> float:
    return float(torch.special.digamma(torch.tensor(x, dtype=torch.float64)))


def gamma_undecided_share(concentration: Tensor, symbols: int) -> UndecidedShare:
    """Probability that arg-max is wrong, from 1 at concentration 0, and its derivative.

    Dir(1 + τ e_k) is made of exponentials and one G ~ Gamma(1 + τ), of which arg-max is right with probability
    E (1 − e^{−G})^{S−1}; returned is u(τ) = (1 − that)/(1 − 1/S), by the trapezoidal rule in ln G.

    Args:
        concentration: τ at least 0, any shape, float64.
        symbols: S.

    Returns:
        u and du/dτ, shape of concentration.
    """
    a = concentration.unsqueeze(-1) + 1.0
    y = torch.linspace(-38.0, math.log(200.0), 1024, dtype=torch.float64, device=a.device)
    wrong = wrong_decisions(torch.log(-torch.expm1(-y.exp())), symbols)
    weight = (a * y - y.exp() - torch.lgamma(a)).exp() * wrong * (y[1] - y[0])
    return UndecidedShare(weight.sum(-1), (weight * (y - torch.special.digamma(a))).sum(-1))


class DirichletPath(AbstractTokenPath):
    """x ~ Dir(1 + τ e_k); the position is τ, from 0 (uniform on the simplex) up.

    The evidence is τ ln x. Times are such that arg-max is right at rate 1 − t (1 − 1/S), see `gamma_undecided_share`:
    tokens are decided at τ about log₂ S, long before the state reaches a corner, and how they are decided does not
    become abrupt as S grows.

    Source: "Dirichlet Flow Matching with Applications to DNA Sequence Design", Stark et al., 2024 (whose time is τ).

    Args:
        vocab_size: vocabulary V, the mask counted.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self._clock = FallingTable(lambda tau: gamma_undecided_share(tau, self.symbols), last=60.0)

    def prior(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Uniform on the simplex."""
        return uniform_on_simplex((*shape, self.symbols), generator, device, dtype)

    def sample(
        self, tokens: Tensor, t: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw from Dir(1 + τ e_k): exponentials, one of them with a gamma variable more, over their sum."""
        draws = torch.empty((*tokens.shape, self.symbols), dtype=dtype, device=generator.device)
        draws.exponential_(generator=generator)
        shape = self.position(t).to(generator.device).reshape(-1, *[1] * (tokens.ndim - 1)).expand(tokens.shape)
        more = torch._standard_gamma(shape.contiguous(), generator=generator).to(dtype)
        draws.scatter_add_(-1, tokens.unsqueeze(-1).to(draws.device), more.unsqueeze(-1))
        return (draws / draws.sum(-1, keepdim=True)).to(tokens.device)

    def evidence(self, t: Tensor, x: Tensor) -> Tensor:
        """Return τ ln x, of states that a solver may have carried out of the simplex."""
        return self._logs(x) * expand_like(self.position(t).to(x.dtype), x)

    @staticmethod
    def _logs(x: Tensor) -> Tensor:
        return x.clamp(min=math.exp(_LOWEST)).log()

    def position(self, t: Tensor) -> Tensor:
        """Return the τ at which a share t of the tokens is undecided."""
        return self._clock.inverse(t.double())[0]

    def time(self, position: Tensor) -> Tensor:
        """Return the share of undecided tokens at τ."""
        return self._clock.value(position.double())

    def velocity(self, position: Tensor, x: Tensor, probs: Tensor) -> Tensor:
        """Σ_k p_k C(x_k) (e_k − x), with C/x_k from a table in ln x_k."""
        logs = self._logs(x)
        if position.ndim:
            speeds = [self._speed(float(tau), row) for tau, row in zip(position.expand(len(x)), logs, strict=True)]
            speed = torch.stack(speeds)
        else:
            speed = self._speed(float(position), logs)
        pull = probs.to(x.dtype) * speed * logs.exp()
        return torch.addcmul(pull, x, pull.sum(-1, keepdim=True), value=-1.0)

    def _speed(self, concentration: float, logs: Tensor) -> Tensor:
        """C/b at ``logs``, linearly interpolated."""
        grid = torch.linspace(_LOWEST, -1e-6, _NODES, dtype=torch.float64, device=logs.device)
        table = corner_speed(concentration, self.symbols, grid).to(logs.dtype)
        place = ((logs - _LOWEST) * ((_NODES - 1) / (-1e-6 - _LOWEST))).clamp(0.0, _NODES - 1.0)
        left = place.long().clamp(max=_NODES - 2)
        return torch.lerp(table[left], table[left + 1], place - left)
