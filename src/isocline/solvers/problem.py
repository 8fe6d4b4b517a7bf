"""What is integrated: a vector field, a stochastic differential equation or a Markov chain, with its span and start.

A problem carries everything that belongs to the *equation*; a stepper carries the method, a controller the step sizes.
"""

from __future__ import annotations

import dataclasses
import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor

from isocline.solvers.brownian import AbstractBrownian, BrownianIncrements
from isocline.solvers.rows import batch_size, select_rows

__all__ = [
    "AbstractProblem",
    "Calculus",
    "MarkovProblem",
    "ODEProblem",
    "SDEProblem",
    "Time",
    "VectorField",
    "fit_diffusion",
]

VectorField: TypeAlias = Callable[[Tensor, Tensor, Any], Tensor]
"""``field(t, x, cond) -> dx`` with ``t`` of shape () or (B,) in float64 and ``dx`` of x's shape and dtype."""

Time: TypeAlias = float | Tensor
"""One time for the whole batch, or a float64 tensor of shape (B,) with one time per sample."""

ProblemT = TypeVar("ProblemT", bound="AbstractProblem")


class AbstractProblem(ABC):
    """An initial value problem on a batch; dim 0 of the state is the batch."""

    t0: Time
    t1: Time
    cond: Any

    @property
    @abstractmethod
    def start(self) -> Tensor:
        """State at ``t0``, shape (B, *event)."""

    @property
    def separable(self) -> bool:
        """Whether samples may be integrated apart from one another, so that finished ones leave the batch."""
        return False

    @property
    def repeatable(self) -> bool:
        """Whether a step may be rejected and another one taken instead; False where every step draws afresh."""
        return True

    @abstractmethod
    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """Call the network once: drift, vector field or rates at ``(t, y)``."""

    def at_rows(self, rows: Tensor) -> AbstractProblem:
        """The same equation for some of the samples; ``cond`` is indexed along its leading axes."""
        raise NotImplementedError(f"{type(self).__name__} is solved on the whole batch only")


@dataclasses.dataclass(frozen=True)
class ODEProblem(AbstractProblem):
    """``dy/dt = field(t, y, cond)``, ``y(t0) = y0``, wanted up to ``t1`` (either direction of time).

    Attributes:
        field: vector field; see `VectorField`.
        y0: shape (B, *event), floating or complex.
        t0: start, one float or one value per sample.
        t1: end, likewise.
        cond: handed to the field. Tensors in it (nested in tuples, lists, dictionaries) lead with B: under adaptive
            control, samples that are done leave the batch and ``cond`` is indexed with the state. Zero-dimensional
            tensors and other objects are shared.
        is_separable: set to False for a field that closes over tensors of the batch's size, or mixes samples (batch
            normalisation). Samples that are done then stay in the batch, frozen.
        jac: ``jac(t, y, cond) -> (B, D, D)``, the Jacobian of the flattened field in the flattened state, for implicit
            steppers; None finds it by forward-mode differentiation.

    Raises:
        TypeError: if ``y0`` is not a floating or complex tensor.
        ValueError: if ``y0`` has no batch axis, or a tensor in ``cond`` has another batch size.
    """

    field: VectorField
    y0: Tensor
    t0: Time
    t1: Time
    cond: Any = None
    is_separable: bool = True
    jac: VectorField | None = None

    def __post_init__(self) -> None:
        _check_state(self.y0, "y0")
        if self.is_separable:
            _check_cond(self.cond, self.y0.shape[0])

    @property
    def start(self) -> Tensor:
        """State at ``t0``."""
        return self.y0

    @property
    def separable(self) -> bool:
        """Whether finished samples may leave the batch."""
        return self.is_separable

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """The field at ``(t, y)``.

        Raises:
            ValueError: if the field returns another shape than the state's.
            TypeError: if it returns a dtype that the state's does not hold.
        """
        slope = self.field(t, y, self.cond)
        if slope.shape != y.shape or slope.dtype != y.dtype:
            _check_slope(slope, y, "field")
        return slope

    def at_rows(self, rows: Tensor) -> ODEProblem:
        """The same equation for the samples ``rows``, an int64 tensor of shape (n,)."""
        return dataclasses.replace(
            self,
            y0=self.y0.index_select(0, rows),
            t0=_time_rows(self.t0, rows),
            t1=_time_rows(self.t1, rows),
            cond=select_rows(self.cond, rows),
        )


class Calculus(enum.Enum):
    """The meaning of ``g(y) dw``: Itô takes g at the start of each step, Stratonovich at its middle.

    Both mean the direction of integration: an Itô equation solved from 1 to 0 takes g at the later time.
    """

    ITO = "Itô"
    STRATONOVICH = "Stratonovich"


@dataclasses.dataclass(frozen=True)
class SDEProblem(AbstractProblem):
    """``dy = drift(t, y, cond) dt + diffusion(t, y, cond) dw``, noise diagonal, in the Itô or Stratonovich sense.

    Diagonal noise: element i of the diffusion depends on no other element of the state than i, and multiplies element
    i of the Brownian motion. Time may run either way; ``dw`` has variance ``|dt|``.

    Attributes:
        drift: the network; one call is one function evaluation.
        diffusion: broadcastable to the state (a schedule's g(t), or a function of the state; mind that t has shape
            (B,) where samples have their own times); not counted as a function evaluation.
        y0: shape (B, *event).
        t0: start.
        t1: end.
        cond: handed to both; tensors in it lead with B if ``is_separable``.
        generator: source of every draw, for fixed grids; or
        noise: the Brownian motion itself, `isocline.solvers.brownian.VirtualBrownianTree` where steps are adaptive,
            states are wanted between steps, or the same path is needed again.
        calculus: sense of the equation (see `isocline.solvers.sde` to go from one to the other).
        is_separable: as for an `ODEProblem`; only a ``noise`` that can be asked again lets samples leave the batch.

    Raises:
        TypeError: if ``y0`` is not a floating or complex tensor.
        ValueError: unless exactly one of ``generator`` and ``noise`` is given, and the noise covers the span; if
            ``y0`` has no batch axis, or a tensor in ``cond`` another batch size.
    """

    drift: VectorField
    diffusion: VectorField
    y0: Tensor
    t0: Time
    t1: Time
    cond: Any = None
    generator: torch.Generator | None = dataclasses.field(default=None, kw_only=True)
    noise: AbstractBrownian | None = dataclasses.field(default=None, kw_only=True)
    calculus: Calculus = dataclasses.field(default=Calculus.ITO, kw_only=True)
    is_separable: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        _check_state(self.y0, "y0")
        if (self.generator is None) == (self.noise is None):
            raise ValueError("SDEProblem needs generator= (fresh noise, fixed grids) or noise= (a path), not both")
        span = [torch.as_tensor(time, dtype=torch.float64) for time in (self.t0, self.t1)]
        if not self.brownian.covers(*span):
            raise ValueError(f"noise={self.noise} does not cover the span from t0={self.t0} to t1={self.t1}; widen it")
        if self.separable:
            _check_cond(self.cond, self.y0.shape[0])

    @property
    def start(self) -> Tensor:
        """State at ``t0``."""
        return self.y0

    @property
    def brownian(self) -> AbstractBrownian:
        """``noise``, or increments from ``generator``."""
        if self.noise is not None:
            return self.noise
        assert self.generator is not None
        return BrownianIncrements(self.generator)

    @property
    def separable(self) -> bool:
        """Whether finished samples may leave the batch."""
        return self.is_separable and self.brownian.repeatable

    @property
    def repeatable(self) -> bool:
        """Whether a step may be rejected and taken again: True for a noise that is a path."""
        return self.brownian.repeatable

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """The drift at ``(t, y)``.

        Raises:
            ValueError: if the drift returns another shape than the state's.
            TypeError: if it returns a dtype that the state's does not hold.
        """
        slope = self.drift(t, y, self.cond)
        if slope.shape != y.shape or slope.dtype != y.dtype:
            _check_slope(slope, y, "drift")
        return slope

    def diffuse(self, t: Tensor, y: Tensor) -> Tensor:
        """The diffusion at ``(t, y)``, in y's dtype, broadcastable to it.

        Raises:
            ValueError: if it does not broadcast to the state.
        """
        return fit_diffusion(self.diffusion(t, y, self.cond), y)

    def at_rows(self, rows: Tensor) -> SDEProblem:
        """The same equation, and the same paths, for the samples ``rows``."""
        return dataclasses.replace(
            self,
            y0=self.y0.index_select(0, rows),
            t0=_time_rows(self.t0, rows),
            t1=_time_rows(self.t1, rows),
            cond=select_rows(self.cond, rows),
            noise=self.brownian.at_rows(rows),
            generator=None,
        )


@dataclasses.dataclass(frozen=True)
class MarkovProblem(AbstractProblem):
    """A continuous-time Markov chain on tokens; positions jump independently given the whole sequence.

    Attributes:
        rate: ``rate(t, z, cond) -> (B, L, V)``: per unit of ``|dt|`` in the direction of integration, the rate of going
            from the current symbol to each other one; the entry of the current symbol is ignored. A stepper may define
            another meaning (ancestral sampling reads the law of clean tokens); it says so in its docstring.
        z0: tokens at ``t0``, int64 of shape (B, L).
        t0: start.
        t1: end.
        cond: handed to ``rate``.
        generator: source of every draw.
        is_separable: whether ``rate`` may be asked about some of the samples only, ``cond`` being indexed along its
            leading axes; exact samplers then spare the samples that are done.

    Raises:
        TypeError: if ``z0`` is not int64.
        ValueError: if ``z0`` has no batch axis; with ``is_separable``, if a tensor in ``cond`` has another batch size.
    """

    rate: VectorField
    z0: Tensor
    t0: Time
    t1: Time
    cond: Any = None
    generator: torch.Generator = dataclasses.field(kw_only=True)
    is_separable: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.z0.dtype != torch.int64:
            raise TypeError(f"z0 has dtype {self.z0.dtype}; tokens are int64: call .long()")
        if self.z0.ndim < 2:
            raise ValueError(f"z0 has shape {tuple(self.z0.shape)}; expected (B, L): add the missing axis")
        if self.is_separable:
            _check_cond(self.cond, self.z0.shape[0])

    @property
    def start(self) -> Tensor:
        """Tokens at ``t0``."""
        return self.z0

    @property
    def separable(self) -> bool:
        """Whether ``rate`` may be asked about some of the samples only."""
        return self.is_separable

    @property
    def repeatable(self) -> bool:
        """False: every step draws afresh."""
        return False

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """The rates at ``(t, z)``."""
        return self.rate(t, y, self.cond)

    def at_rows(self, rows: Tensor) -> MarkovProblem:
        """The same chain for the samples ``rows``."""
        return dataclasses.replace(
            self,
            z0=self.z0.index_select(0, rows),
            t0=_time_rows(self.t0, rows),
            t1=_time_rows(self.t1, rows),
            cond=select_rows(self.cond, rows),
        )


def fit_diffusion(g: Tensor, y: Tensor) -> Tensor:
    """What a diffusion returned for the state ``y``, in y's dtype.

    Raises:
        ValueError: if it does not broadcast to the state.
    """
    fits = g.ndim <= y.ndim and all(
        size in (1, wanted) for size, wanted in zip(reversed(g.shape), reversed(y.shape), strict=False)
    )
    if not fits:
        raise ValueError(
            f"the diffusion returned shape {tuple(g.shape)}, which does not broadcast to the state's {tuple(y.shape)}; "
            "where samples have their own times, t has shape (B,): give it the state's rank, t.reshape(-1, 1)"
        )
    return g.to(y.dtype)


def _check_state(y0: Tensor, name: str) -> None:
    if not isinstance(y0, Tensor) or not (y0.is_floating_point() or y0.is_complex()):
        kind = y0.dtype if isinstance(y0, Tensor) else type(y0).__name__
        raise TypeError(f"{name} is {kind}; expected a floating or complex tensor: call .float() or .double()")
    if y0.ndim == 0 or y0.shape[0] == 0:
        raise ValueError(f"{name} has shape {tuple(y0.shape)}; expected (B, *event) with B > 0: add a batch axis")


def _check_slope(slope: Tensor, y: Tensor, name: str) -> None:
    if slope.shape != y.shape:
        raise ValueError(f"the {name} returned shape {tuple(slope.shape)} for a state of shape {tuple(y.shape)}")
    # Narrower slopes, such as those of a network under autocast, become part of the state without loss.
    if torch.promote_types(slope.dtype, y.dtype) != y.dtype:
        cure = "make the state complex" if slope.is_complex() else "times are float64: return slope.to(y.dtype)"
        raise TypeError(f"the {name} returned dtype {slope.dtype} for a state of dtype {y.dtype}; {cure}")


def _check_cond(cond: Any, batch: int) -> None:
    found = batch_size(cond)
    wrong = sorted(size for size in found if size != batch)
    if wrong:
        raise ValueError(
            f"cond holds a tensor with leading axis {wrong[0]}, the state has batch {batch}; give per-sample tensors "
            f"leading with {batch}, close the field over shared ones, or set is_separable=False"
        )


def _time_rows(time: Time, rows: Tensor) -> Time:
    return time.index_select(0, rows) if isinstance(time, Tensor) and time.ndim else time
