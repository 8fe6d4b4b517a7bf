"""Brownian motion: increments on a grid from a generator, or a path that can be asked anywhere in any order."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.splitmix import combine, mix64, normal_pair, seed_key

__all__ = [
    "AbstractBrownian",
    "BrownianIncrement",
    "BrownianIncrements",
    "BrownianPoint",
    "TreeWeights",
    "VirtualBrownianTree",
    "accumulate",
    "sample_keys",
    "tree_weights",
]

_MAX_DEPTH = 48
# Numbers made at once on a CPU: what fits its cache is made several times faster.
_CACHED_NUMBERS = 1 << 16


class BrownianIncrement(NamedTuple):
    """What a step sees of the path, in the direction of integration and in the state's dtype.

    Attributes:
        w: ``W(t1) - W(t0)``, variance ``|t1 - t0|``, shape (B, *event).
        h: space-time Lévy area, the mean over the step of the path less its chord,
            ``1/(t1 - t0) ∫ W dt - (W(t0) + W(t1)) / 2``, independent of ``w``, variance ``|t1 - t0| / 12``; None where
            it was not asked for. It is the same in both directions of time.
    """

    w: Tensor
    h: Tensor | None = None


class AbstractBrownian(ABC):
    """A standard Brownian motion of the state's shape, independent across its elements.

    Attributes:
        repeatable: whether a step can be asked for again, or another one instead, and the path stays the same.
            Adaptive steps, dense output and samples that leave the batch need that.
    """

    repeatable: ClassVar[bool] = False

    def start(self, t: Tensor, y: Tensor) -> Any:
        """What `step` wants to know about the start; batched tensors or None.

        Args:
            t: start, shape () or (B,), float64.
            y: state there, for shape and device.
        """
        return None

    @abstractmethod
    def step(self, t0: Tensor, t1: Tensor, y: Tensor, memory: Any, area: bool) -> tuple[BrownianIncrement, Any]:
        """The increment over a step.

        Args:
            t0: start of the step, shape () or (B,), float64.
            t1: end, likewise, on either side.
            y: state, for shape, dtype and device.
            memory: from `start` at ``t0``, or from the step that ended there; None is allowed.
            area: whether the space-time Lévy area is wanted.

        Returns:
            the increment, and the memory for a step that starts at ``t1``.
        """

    def covers(self, t0: Tensor, t1: Tensor) -> bool:
        """Whether the path is defined between these times."""
        return True

    def at_rows(self, rows: Tensor) -> AbstractBrownian:
        """The paths of the samples ``rows`` (int64, shape (n,))."""
        raise ValueError(
            f"{type(self).__name__} draws anew at every step and cannot follow samples that leave the batch; use "
            "VirtualBrownianTree, or a fixed grid"
        )


@dataclass(frozen=True)
class BrownianIncrements(AbstractBrownian):
    """Fresh normal numbers at every step: the cheapest noise on a fixed grid.

    Asking again gives another path, so steps must not be rejected.

    Attributes:
        generator: source of every draw.
    """

    generator: torch.Generator

    def step(self, t0: Tensor, t1: Tensor, y: Tensor, memory: Any, area: bool) -> tuple[BrownianIncrement, Any]:
        """``w = √|Δt| ξ`` and, where wanted, ``h = √(|Δt|/12) ξ'``."""
        size = expand_like((t1 - t0).abs(), y)
        w = self._normal(y) * size.sqrt().to(y.dtype)
        return BrownianIncrement(w, self._normal(y) * (size / 12).sqrt().to(y.dtype) if area else None), None

    def _normal(self, y: Tensor) -> Tensor:
        source = self.generator.device
        return torch.randn(y.shape, generator=self.generator, dtype=y.dtype, device=source).to(y.device)


class BrownianPoint(NamedTuple):
    """The path at a time, float64.

    Attributes:
        w: ``W(t)``, zero at the tree's t0, shape (B, *event).
        area: ``∫_{t0}^t W ds``, likewise.
    """

    w: Tensor
    area: Tensor


class TreeWeights(NamedTuple):
    """A tree's value as a linear form in independent standard normal numbers, two at each node visited.

    Attributes:
        nodes: address of each node, unique in the tree, int64, shape (depth + 2, n).
        w: weights of the pair in ``W(t)``, float64, shape (depth + 2, 2, n).
        area: weights in the integral of W up to t, likewise.
    """

    nodes: Tensor
    w: Tensor
    area: Tensor


def tree_weights(share: Tensor, depth: int, span: float) -> TreeWeights:
    """Expand Brownian motion and its integral over the nodes above a time.

    Given the increment W and the space-time area H of an interval of length h, the expected path a share u after its
    start is ``u W + 6 u (1 - u) H``. Halving the interval adds two normal numbers, Z of variance h/16 and N of variance
    h/12: the halves have ``W' = W/2 ± (3/2 H + Z)`` and ``H' = H/4 - Z/2 ± N/2``. The difference between the halves'
    expected paths and the whole's is a quadratic in each half, times Z and N: these quadratics, summed down the tree,
    are the path. Below the last level the pair at the leaf gives W(t) and its integral their exact law given the
    leaf's W and H.

    Args:
        share: (t - t0) / span, in [0, 1], float64, shape (n,); outside, the weights are NaN.
        depth: number of halvings.
        span: length of the tree's interval.

    Returns:
        weights on the root's, the ``depth`` inner nodes' and the leaf's pairs.

    Source: Foster, Lyons, Oberhauser, An optimal polynomial approximation of Brownian motion (2020); Jelinčič, Foster,
    Kidger, Single-seed generation of Brownian paths and integrals for adaptive and high order SDE solvers (2024).
    """
    u = share.clamp(0, 1)
    cells = torch.tensor([1 << level for level in range(depth + 1)], dtype=torch.int64, device=share.device)[:, None]
    scaled = u * cells
    place = scaled.floor().long().minimum(cells - 1)
    within = scaled - place
    length = span / cells.double()
    root = torch.stack([u, 6 * u * (1 - u)]), torch.stack([u * u / 2, u * u * (3 - 2 * u)]) * span
    scale = torch.tensor([[math.sqrt(span)], [math.sqrt(span / 12)]], dtype=torch.float64, device=share.device)
    outside = torch.where(share == u, 0.0, torch.nan)
    inner, leaf = _inner_weights(within[:-1], length[:-1]), _leaf_weights(within[-1], length[-1])
    w, area = (
        torch.cat([(first * scale + outside)[None], middle, last[None]])
        for first, middle, last in zip(root, inner, leaf, strict=True)
    )
    return TreeWeights(torch.cat([torch.zeros_like(place[:1]), cells + place]), w, area)


def _inner_weights(within: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    right = within >= 0.5
    q = 2 * within - right.double()
    bump = 3 * q * (1 - q)
    bump_area = q * q * (1.5 - q)
    by_z = torch.where(right, (3 * q - 4) * q + 1, (3 * q - 2) * q)
    by_n = torch.where(right, -bump, bump)
    area_z = torch.where(right, ((q - 2) * q + 1) * q, (q - 1) * q * q)
    area_n = torch.where(right, 0.5 - bump_area, bump_area)
    size = torch.stack([(length / 16).sqrt(), (length / 12).sqrt()], 1)
    return torch.stack([by_z, by_n], 1) * size, torch.stack([area_z, area_n], 1) * (size * (length / 2)[:, None])


def _leaf_weights(f: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    g = 1 - f
    both = f * g
    root = (f * f * f + g * g * g).sqrt()
    bridge = both.sqrt() * length.sqrt()
    w = torch.stack([bridge * root, torch.zeros_like(f)])
    return w, torch.stack([(g - f) / 2, torch.full_like(f, math.sqrt(3) / 6)]) * (bridge * both / root * length)


@dataclass(frozen=True)
class VirtualBrownianTree(AbstractBrownian):
    """A Brownian path that is a function of (seed, sample, t): the same value in any order of asking, storing nothing.

    The interval is halved down to ``tol``; every node's pair of normal numbers is a hash of its address. The path of a
    sample depends on nothing but the seed and the sample's index: not on the batch, nor on the device (to rounding of
    logarithm and cosine), nor on the steppers and steps that ask. It is made in float64 whatever the state's dtype.

    The law is exact, jointly, for times of which no two lie within one leaf; within a leaf each value has its exact
    law, but two are too alike. So ``tol`` is to be below the smallest step that matters. Deepening the tree leaves the
    values at the old leaves' ends (and middles) as they are.

    Attributes:
        seed: any integer.
        t0: lower end of the interval; W is zero there.
        t1: upper end.
        tol: length at which halving stops; by default 2^-16 of the interval. The cost is proportional to the depth.
        samples: global index of every sample, int64, shape (B,); by default its place in the batch.

    Raises:
        ValueError: if the interval is empty, ``tol`` out of range, or ``samples`` not int64 of one axis.

    Source: Li, Wong, Chen, Duvenaud, Scalable gradients for stochastic differential equations (2020), section 4;
    Jelinčič, Foster, Kidger (2024), as at `tree_weights`.
    """

    seed: int
    t0: float
    t1: float
    tol: float | None = None
    samples: Tensor | None = None

    repeatable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.t0) and math.isfinite(self.t1) and self.t0 < self.t1):
            raise ValueError(f"t0={self.t0}, t1={self.t1}; expected finite t0 < t1, also if time runs backward")
        least = (self.t1 - self.t0) * 2.0**-_MAX_DEPTH
        if self.tol is not None and not least <= self.tol:
            raise ValueError(f"tol={self.tol}; expected at least {least:.3g}, 2^-{_MAX_DEPTH} of the interval")
        if self.samples is not None and (self.samples.dtype != torch.int64 or self.samples.ndim != 1):
            raise ValueError(f"samples is {self.samples.dtype} of rank {self.samples.ndim}; expected int64, shape (B,)")

    @property
    def depth(self) -> int:
        """Number of halvings."""
        if self.tol is None:
            return 16
        return max(0, math.ceil(math.log2((self.t1 - self.t0) / self.tol)))

    def covers(self, t0: Tensor, t1: Tensor) -> bool:
        """Whether both lie in the tree's interval."""
        return all(self.t0 <= float(end) <= self.t1 for time in (t0, t1) for end in (time.min(), time.max()))

    def at_rows(self, rows: Tensor) -> VirtualBrownianTree:
        """The paths of some samples; see the base class."""
        return replace(self, samples=rows if self.samples is None else self.samples[rows])

    @torch.no_grad()
    def at(self, t: Tensor, y: Tensor) -> BrownianPoint:
        """The path and its integral at a time.

        Args:
            t: float64, shape () or (B,). Outside the tree's interval the result is NaN.
            y: a state (B, *event), for shape and device.

        Raises:
            TypeError: if the state is complex.
            ValueError: if ``samples`` is not of the batch's size.
        """
        keys = sample_keys(self.seed, self.samples, y)
        span = self.t1 - self.t0
        share = (t.detach().double().reshape(-1).to(y.device) - self.t0) / span
        weights = tree_weights(share, self.depth, span)
        size = keys.shape[1]
        rows = max(1, _CACHED_NUMBERS // max(1, size)) if y.device.type == "cpu" else len(keys)
        w = torch.zeros(keys.shape, dtype=torch.float64, device=y.device)
        area = torch.zeros_like(w)
        for first in range(0, len(keys), rows):
            part = slice(first, first + rows)
            own = weights if len(share) == 1 else TreeWeights(*(weight[..., part] for weight in weights))
            accumulate(own, keys[part], w[part], area[part])
        return BrownianPoint(w.reshape(y.shape), area.reshape(y.shape))

    def start(self, t: Tensor, y: Tensor) -> BrownianPoint:
        """The path at the start."""
        return self.at(t, y)

    @torch.no_grad()
    def step(self, t0: Tensor, t1: Tensor, y: Tensor, memory: Any, area: bool) -> tuple[BrownianIncrement, Any]:
        """The difference of the path at both ends; see the base class."""
        here = self.at(t0, y) if memory is None else memory
        there = self.at(t1, y)
        w = (there.w - here.w).to(y.dtype)
        if not area:
            return BrownianIncrement(w), there
        dt = expand_like((t1 - t0).detach(), y)
        mean = (there.area - here.area) / torch.where(dt == 0, 1.0, dt)
        h = torch.where(dt == 0, 0.0, mean - (here.w + there.w) / 2)
        return BrownianIncrement(w, h.to(y.dtype)), there


def sample_keys(seed: int, samples: Tensor | None, y: Tensor) -> Tensor:
    """A key for every element of every sample of a state (B, *event), int64, shape (B, elements).

    Raises:
        TypeError: if the state is complex.
        ValueError: if ``samples``, by default the places in the batch, is not of the batch's size.
    """
    if y.is_complex():
        raise TypeError(f"the state is {y.dtype}; Brownian paths are real: give real and imaginary part an axis")
    samples = torch.arange(len(y), device=y.device) if samples is None else samples.to(y.device)
    if len(samples) != len(y):
        raise ValueError(f"the tree has {len(samples)} samples, the state a batch of {len(y)}; make them equal")
    elements = torch.arange(y[0].numel() if len(y) else 0, device=y.device)
    return combine(combine(seed_key(seed, y.device), samples)[:, None], elements)


def accumulate(weights: TreeWeights, keys: Tensor, w: Tensor, area: Tensor) -> None:
    """Add every node's normal numbers, weighted, to ``w`` and ``area`` (n, elements), in a fixed order of nodes."""
    # Addresses are hashed before they meet the key, so that neighbouring keys share no runs of numbers.
    addresses = mix64(weights.nodes)[..., None]
    block = max(1, _CACHED_NUMBERS // max(1, keys.numel()))
    by_w, by_area = weights.w[..., None].unbind(0), weights.area[..., None].unbind(0)
    for start in range(0, len(addresses), block):
        pairs = normal_pair(mix64(keys ^ addresses[start : start + block]))
        for node, (z, n) in enumerate(zip(*(numbers.unbind(0) for numbers in pairs), strict=True), start):
            for total, (first, second) in ((w, by_w[node]), (area, by_area[node])):
                total.addcmul_(first, z).addcmul_(second, n)
