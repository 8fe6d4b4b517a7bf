"""Trace and Frobenius norm of a field's Jacobian from products with it: exact, by Hutchinson's probes, by Hutch++."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "AbstractTrace",
    "ExactTrace",
    "HutchPlusPlusTrace",
    "HutchinsonTrace",
    "JacobianMeasure",
    "ProbeLaw",
    "gaussian",
    "rademacher",
]


class JacobianMeasure(NamedTuple):
    """What was found of J = ∂f/∂x, both float64 ``(B,)``.

    Attributes:
        trace: tr J, or an unbiased estimate.
        square: ‖J‖_F², or an unbiased estimate.
    """

    trace: Tensor
    square: Tensor


class AbstractTrace(ABC):
    """Divergence of a field.

    A subclass implements `probe` and `measure`.

    Attributes:
        kind: ``exact`` or ``estimate`` (unbiased).
    """

    kind: str

    @abstractmethod
    def products(self, dimension: int) -> int:
        """Products with the Jacobian (backward passes) per evaluation of a field on R^dimension."""

    @abstractmethod
    def probe(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw what stays fixed during one solve, leading with B."""

    @abstractmethod
    def measure(self, slope: Tensor, x: Tensor, probe: Tensor, create_graph: bool = False) -> JacobianMeasure:
        """Measure ∂slope/∂x.

        Args:
            slope: computed from x, ``(B, *event)``, sample by sample.
            x: requires grad, ``(B, *event)``.
            probe: what `probe` drew.
            create_graph: whether the result is differentiated.
        """

    def __call__(self, slope: Tensor, x: Tensor, probe: Tensor) -> Tensor:
        """Return tr(∂slope/∂x) ``(B,)`` for a slope computed from x, both ``(B, *event)``; nothing is recorded."""
        return self.measure(slope, x, probe).trace


ProbeLaw = Callable[[tuple[int, ...], torch.Generator], Tensor]
"""``law(shape, generator)``: independent entries of mean 0 and variance 1, on the generator's device."""


def rademacher(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Random signs: of all laws the one with the least variance."""
    return 2 * torch.randint(0, 2, shape, generator=generator, device=generator.device) - 1


def gaussian(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=generator, device=generator.device)


class ExactTrace(AbstractTrace):
    """Σ_i ∂f_i/∂x_i by one backward pass per dimension: for small d."""

    kind = "exact"

    def products(self, dimension: int) -> int:
        """As many as dimensions."""
        return dimension

    def probe(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return an empty tensor: nothing is drawn."""
        return x.new_empty(x.shape[0], 0)

    def measure(self, slope: Tensor, x: Tensor, probe: Tensor, create_graph: bool = False) -> JacobianMeasure:
        """Return the exact values."""
        flat = slope.flatten(1)
        trace = square = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for index in range(flat.shape[1]):
            row = _gradient(flat[:, index].sum(), x, None, create_graph)
            trace, square = trace + row[:, index], square + row.square().sum(1)
        return JacobianMeasure(trace, square)


class HutchinsonTrace(AbstractTrace):
    """Mean of zᵀ J z over probes z of independent entries, fixed per solve: unbiased, one backward pass each.

    With random signs its variance is 2 (‖S‖_F² − Σ_i S_ii²)/K, with normal numbers 2 ‖S‖_F²/K, S the symmetric part of
    J and K the number of probes. ‖zᵀ J‖² estimates ‖J‖_F².

    Source: *FFJORD*, Grathwohl et al., 2019, §3.1; Hutchinson, 1990.

    Args:
        probes: K.
        law: of the entries, `rademacher` or `gaussian`.

    Raises:
        ValueError: if there is not one at least.
    """

    kind = "estimate"

    def __init__(self, probes: int = 1, law: ProbeLaw | None = None) -> None:
        if probes < 1:
            raise ValueError(f"probes = {probes}: must be at least 1")
        self.probes = probes
        self.law = rademacher if law is None else law

    def products(self, dimension: int) -> int:
        """One per probe."""
        return self.probes

    def probe(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw the entries, ``(B, K, *event)``.

        Raises:
            ValueError: without a generator.
        """
        return _drawn(self.law, x, self.probes, generator, type(self).__name__)

    def measure(self, slope: Tensor, x: Tensor, probe: Tensor, create_graph: bool = False) -> JacobianMeasure:
        """Return the estimates."""
        trace = square = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for signs in probe.unbind(1):
            pulled = _pull(slope, x, signs, create_graph)
            trace = trace + (pulled * signs.flatten(1)).sum(1)
            square = square + pulled.square().sum(1)
        return JacobianMeasure(trace / self.probes, square / self.probes)


class HutchPlusPlusTrace(AbstractTrace):
    """Hutch++: the trace on a sketched subspace exactly, Hutchinson's estimate on the rest.

    With S Gaussian ``(d, r)``, Q an orthonormal basis of JᵀS and P = I − QQᵀ,
    ``tr J = tr(QᵀJQ) + E[gᵀ P J P g]``, g random signs: unbiased for every Q, exact where rank J ≤ r. It needs
    2r + K backward passes. (The paper allows random signs for S too; in few dimensions they are often parallel.) Q is
    held constant in the derivative, which stays unbiased for the same reason and spares the sketch's second
    derivatives.

    Source: *Hutch++: Optimal Stochastic Trace Estimation*, Meyer, Musco, Musco and Woodruff, 2021, Algorithm 1 (with
    Jᵀ for its A, since backward passes multiply by Jᵀ).

    Args:
        rank: r, dimensions of the subspace.
        probes: K, probes of the rest.

    Raises:
        ValueError: if one of them is below 1; on use, if the rank exceeds the dimension.
    """

    kind = "estimate"

    def __init__(self, rank: int = 1, probes: int = 1) -> None:
        for name, value in (("rank", rank), ("probes", probes)):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be at least 1")
        self.rank = rank
        self.probes = probes

    def products(self, dimension: int) -> int:
        """Twice the rank, and one per probe."""
        return 2 * self.rank + self.probes

    def probe(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw normals for the sketch, then signs for the rest, ``(B, r + K, *event)``.

        Raises:
            ValueError: without a generator, or if the rank exceeds the dimension.
        """
        dimension = x[0].numel()
        if self.rank > dimension:
            raise ValueError(f"rank = {self.rank}, but a sample has {dimension} dimensions; give at most that")
        signs = _drawn(rademacher, x, self.probes, generator, type(self).__name__)
        sketch = _drawn(gaussian, x, self.rank, generator, type(self).__name__)
        return torch.cat([sketch, signs], dim=1)

    def measure(self, slope: Tensor, x: Tensor, probe: Tensor, create_graph: bool = False) -> JacobianMeasure:
        """Return the estimates."""
        sketch = [_pull(slope, x, signs) for signs in probe[:, : self.rank].unbind(1)]
        basis = torch.linalg.qr(torch.stack(sketch, dim=2)).Q.detach()  # (B, d, r)
        trace = square = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for column in basis.unbind(2):
            pulled = _pull(slope, x, column.reshape(x.shape), create_graph)
            trace = trace + (pulled * column).sum(1)
            square = square + pulled.square().sum(1)
        for signs in probe[:, self.rank :].flatten(2).to(torch.float64).unbind(1):
            rest = signs - (basis @ (basis.mT @ signs[:, :, None]))[:, :, 0]
            pulled = _pull(slope, x, rest.reshape(x.shape), create_graph)
            trace = trace + (pulled * rest).sum(1) / self.probes
            square = square + pulled.square().sum(1) / self.probes
        return JacobianMeasure(trace, square)


def _pull(slope: Tensor, x: Tensor, vector: Tensor, create_graph: bool = False) -> Tensor:
    """Jᵀ v as float64 ``(B, d)``."""
    return _gradient(slope, x, vector.to(slope.dtype), create_graph)


def _gradient(value: Tensor, x: Tensor, vector: Tensor | None, create_graph: bool) -> Tensor:
    if not value.requires_grad:
        return torch.zeros(x.flatten(1).shape, dtype=torch.float64, device=x.device)
    # A slope that does not depend on x has the derivative zero.
    (found,) = torch.autograd.grad(
        value, x, vector, retain_graph=True, create_graph=create_graph, allow_unused=True, materialize_grads=True
    )
    return found.flatten(1).to(torch.float64)


def _drawn(law: ProbeLaw, x: Tensor, count: int, generator: torch.Generator | None, owner: str) -> Tensor:
    if generator is None:
        raise ValueError(f"{owner} draws a probe; pass generator=torch.Generator()")
    return law((len(x), count, *x.shape[1:]), generator).to(x)
