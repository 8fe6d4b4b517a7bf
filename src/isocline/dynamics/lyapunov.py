"""Lyapunov exponents: the mean rates at which small deviations grow along a trajectory."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.dynamics.system import IteratedMap, check_states
from isocline.dynamics.variational import TangentMap, VariationalEquation
from isocline.metrics.uncertainty import Estimate
from isocline.solvers.controller import AbstractController
from isocline.solvers.problem import VectorField
from isocline.solvers.stepper import AbstractStepper

__all__ = ["LyapunovSpectrum", "kaplan_yorke_dimension", "lyapunov_spectrum", "map_lyapunov_spectrum"]

_BLOCKS = 10


@dataclass(frozen=True)
class LyapunovSpectrum:
    """The k leading exponents of B trajectories, in the order of the frame, which is that of falling growth.

    Attributes:
        exponents: per unit of time (of a map: per iteration), float64, shape (B, k); NaN where the trajectory failed.
        growths: logarithmic growth over each interval that counts, float64, shape (K, B, k).
        durations: length of these intervals, float64, shape (K,).
        states: where the trajectories ended, shape (B, *event).
        size: n, the number of components of a state.
    """

    exponents: Tensor
    growths: Tensor
    durations: Tensor
    states: Tensor
    size: int

    @property
    def succeeded(self) -> Tensor:
        """Which trajectories stayed finite, bool, shape (B,)."""
        return ~self.exponents.isnan().any(1)

    @property
    def sums(self) -> Tensor:
        """Sum of the exponents, shape (B,): the growth rate of k-volumes; with k = n the mean divergence."""
        return self.exponents.sum(1)

    def running(self) -> Tensor:
        """The estimate after every interval, shape (K, B, k): how far it has settled."""
        return self.growths.cumsum(0) / self.durations.cumsum(0)[:, None, None]

    def estimates(self) -> tuple[Estimate, ...]:
        """Mean over trajectories of each exponent, with its standard error.

        Of a single trajectory, over ten successive blocks of intervals, which underestimates the error if what is
        left of correlations reaches over a block.

        Raises:
            ValueError: if no trajectory stayed finite, or a single one has fewer than ten intervals.
        """
        kept = self.exponents[self.succeeded]
        if not len(kept):
            raise ValueError("no trajectory stayed finite; take starts nearer to the attractor, or tighter tolerances")
        if len(kept) == 1:
            if len(self.growths) < _BLOCKS:
                raise ValueError(f"{len(self.growths)} intervals of one trajectory; give {_BLOCKS}, or several starts")
            growths = self.growths[:, self.succeeded][:, 0]
            blocks = zip(growths.tensor_split(_BLOCKS), self.durations.tensor_split(_BLOCKS), strict=True)
            kept = torch.stack([rise.sum(0) / length.sum() for rise, length in blocks])
        return tuple(Estimate.from_values(column.tolist()) for column in kept.T)


def lyapunov_spectrum(
    field: VectorField,
    starts: Tensor,
    t0: float,
    t1: float,
    generator: torch.Generator,
    *,
    interval: float,
    count: int | None = None,
    transient: float = 0.0,
    cond: Any = None,
    stepper: AbstractStepper | None = None,
    controller: AbstractController | None = None,
) -> LyapunovSpectrum:
    """Exponents of a flow by repeated QR of tangent vectors that are integrated with the state.

    Over each interval the variational equation carries an orthonormal frame along; ``QR`` makes it orthonormal again
    and ``ln |R_jj|`` is the growth. The random frame turns towards the growing directions during the transient. The
    interval must be so short that the vectors do not become parallel: ``(λ_1 - λ_k) interval`` well below 15 in
    float64, and the tolerance must resolve the shortest: ``exp(-(λ_1 - λ_k) interval)`` well above rtol.

    Source: Benettin, Galgani, Giorgilli, Strelcyn, Lyapunov characteristic exponents for smooth dynamical systems
    (1980); Geist, Parlitz, Lauterborn, Comparison of different methods for computing Lyapunov exponents (1990).

    Args:
        field: ``f(t, x, cond)``, differentiable; samples must not see one another.
        starts: shape (B, *event), n numbers each.
        t0: start.
        t1: end, either direction; rates are per unit of |t|.
        generator: of the first frame, on the CPU.
        interval: time between two QR decompositions.
        count: k, the number of exponents; None takes all n.
        transient: time before growths count, part of the span.
        cond: handed to the field.
        stepper: `isocline.solvers.Tsit5` by default.
        controller: ``PIDController(rtol=1e-6, atol=1e-8)`` by default.

    Raises:
        TypeError, ValueError: if the starts are no batch of finite states, k is not in 1..n, the interval is not
            positive or the transient leaves no time.
    """
    size, count = _checked(starts, count)
    span = abs(t1 - t0)
    if interval <= 0 or not math.isfinite(span):
        raise ValueError(f"interval={interval}, t0={t0}, t1={t1}; expected a positive interval and finite times")
    if not 0 <= transient < span:
        raise ValueError(f"transient={transient}; expected a time from 0 to below the span {span}")
    equation = VariationalEquation(field, starts.shape[1:], cond, stepper, controller)
    before, counted = (_cuts(length, interval) for length in (transient, span - transient))
    marks = [*before, *(transient + mark for mark in counted[1:])]
    sign = math.copysign(1.0, t1 - t0)
    x, frame = starts, _frame(len(starts), count, size, generator, starts)
    growths = []
    for begin, end in itertools.pairwise(marks):
        solution = equation.solve(x, frame, t0 + sign * begin, t0 + sign * end)
        x = equation.states(solution)
        frame, growth = _orthonormal(equation.tangents(solution))
        growths.append(growth)
    durations = torch.tensor(marks, dtype=torch.float64).diff()[len(before) - 1 :]
    return _spectrum(growths[len(before) - 1 :], durations, x, size)


def map_lyapunov_spectrum(
    system: IteratedMap,
    starts: Tensor,
    iterations: int,
    generator: torch.Generator,
    *,
    count: int | None = None,
    transient: int = 0,
) -> LyapunovSpectrum:
    """Exponents of a map, per iteration, by QR of its Jacobians' products; see `lyapunov_spectrum`.

    Source: Eckmann, Ruelle, Ergodic theory of chaos and strange attractors (1985), section V.C.

    Args:
        system: the map.
        starts: shape (B, *event), n numbers each.
        iterations: that count.
        generator: of the first frame, on the CPU.
        count: k; None takes all n.
        transient: iterations before.

    Raises:
        TypeError, ValueError: as `lyapunov_spectrum`.
    """
    size, count = _checked(starts, count)
    if iterations < 1 or transient < 0:
        raise ValueError(f"iterations={iterations}, transient={transient}; expected at least 1 and at least 0")
    x, t, frame = starts, system.time(starts), _frame(len(starts), count, size, generator, starts)
    growths, tangent_map = [], TangentMap(system.law)
    with torch.no_grad():
        for step in range(transient + iterations):
            x, pushed = tangent_map(t, x, frame, system.cond)
            frame, growth = _orthonormal(pushed)
            if step >= transient:
                growths.append(growth)
    return _spectrum(growths, torch.ones(iterations, dtype=torch.float64), x, size)


def kaplan_yorke_dimension(exponents: Tensor, size: int) -> Tensor:
    """``j + (λ_1 + … + λ_j) / |λ_{j+1}|`` with the largest j whose sum is not negative; n if all sums are.

    Source: Kaplan, Yorke, Chaotic behavior of multidimensional difference equations (1979); Frederickson, Kaplan,
    Yorke, Yorke, The Liapunov dimension of strange attractors (1983).

    Args:
        exponents: shape (..., k), in any order.
        size: n, the number of components of a state.

    Returns:
        float64, shape (...).

    Raises:
        ValueError: if k < n and the k exponents known add up to zero or more, or k > n.
    """
    known = exponents.shape[-1]
    if not 1 <= known <= size:
        raise ValueError(f"{known} exponents of a system with size={size}; expected 1 to {size}")
    ordered = exponents.double().sort(-1, descending=True).values
    sums = ordered.cumsum(-1)
    if known < size and bool((sums[..., -1] >= 0).any()):
        raise ValueError(f"the {known} leading of {size} exponents add up to no less than 0; compute more of them")
    whole = (sums >= 0).cumprod(-1).sum(-1)
    padded = torch.cat([torch.zeros_like(sums[..., :1]), sums], -1)
    rest = padded.gather(-1, whole[..., None])[..., 0]
    following = ordered.gather(-1, whole.clamp(max=known - 1)[..., None])[..., 0]
    share = torch.where(whole < size, rest / following.abs(), 0.0)
    return torch.where(ordered.isnan().any(-1), torch.nan, whole + share)


def _checked(starts: Tensor, count: int | None) -> tuple[int, int]:
    check_states(starts, "starts")
    size = starts[0].numel()
    count = size if count is None else count
    if not 1 <= count <= size:
        raise ValueError(f"count={count} exponents of states with {size} components; expected 1 to {size}")
    return size, count


def _cuts(length: float, interval: float) -> list[float]:
    """0, the ends of equal intervals no longer than asked for, and the length; [0] if there is none."""
    pieces = math.ceil(length / interval - 1e-9)
    return [0.0, *(length * (i + 1) / pieces for i in range(pieces))]


def _frame(batch: int, count: int, size: int, generator: torch.Generator, like: Tensor) -> Tensor:
    draw = torch.randn(size, count, generator=generator, dtype=torch.float64)
    frame = torch.linalg.qr(draw)[0].T.to(like)
    return frame.expand(batch, count, size)


def _orthonormal(tangents: Tensor) -> tuple[Tensor, Tensor]:
    """A frame for the span of the rows, (B, k, n), and the logarithms of ``|R_jj|``, float64, shape (B, k)."""
    finite = tangents.flatten(1).isfinite().all(1)
    safe = torch.where(finite[:, None, None], tangents.double(), 1.0)
    frame, upper = torch.linalg.qr(safe.mT)
    growth = upper.diagonal(dim1=1, dim2=2).abs().log()
    return frame.mT, torch.where(finite[:, None], growth, torch.nan)


def _spectrum(growths: list[Tensor], durations: Tensor, states: Tensor, size: int) -> LyapunovSpectrum:
    stacked = torch.stack(growths)
    durations = durations.to(stacked.device)
    return LyapunovSpectrum(stacked.sum(0) / durations.sum(), stacked, durations, states, size)
