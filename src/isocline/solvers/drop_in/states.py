"""States of any shape, tuples of states, and the tensor that is integrated in their place.

The solver core integrates one tensor whose leading axis is a batch. Here the whole state is one system: a tensor is
taken as it is or as a batch of one, a tuple is laid end to end. With ``per_sample`` the leading axis is the batch.
"""

from __future__ import annotations

import functools
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from isocline.solvers.drop_in.errors import InvalidArgumentError
from isocline.solvers.dual import Dual

__all__ = ["AbstractStateForm", "State", "TensorForm", "Tolerance", "TupleForm", "form_of", "root_mean_square"]

State: TypeAlias = Tensor | tuple[Tensor, ...]
"""What the caller integrates."""

Tolerance: TypeAlias = float | Tensor | Sequence[float | Tensor]
"""One number, one per element of the state, or one per component of a tuple."""


class AbstractStateForm(ABC):
    """How the caller's state maps to the flat tensor.

    Attributes:
        per_sample: whether axis 0 of every component is a batch of separate systems.
    """

    per_sample: bool

    @property
    @abstractmethod
    def rank(self) -> int:
        """Number of axes of a component, for times that have one value per sample."""

    @abstractmethod
    def flatten(self, state: State) -> Tensor:
        """The flat tensor of a state."""

    @abstractmethod
    def restore(self, flat: Tensor) -> State:
        """The state of a flat tensor; axes in front of the flat ones (times) stay in front."""

    @abstractmethod
    def slope(self, value: Any, like: Tensor) -> Tensor:
        """The flat tensor of what the caller's function returned.

        Raises:
            InvalidArgumentError: if it does not fit the state.
        """

    @abstractmethod
    def tolerance(self, name: str, value: Tolerance) -> float | Tensor:
        """A tolerance for the flat tensor."""

    @abstractmethod
    def norm(self, scaled: Tensor) -> Tensor:
        """Norm of a flat scaled error: RMS, the largest over the components of a tuple; () or, per sample, (B,)."""


@dataclass(frozen=True)
class TensorForm(AbstractStateForm):
    """A single tensor, which is its own flat form.

    Attributes:
        shape: of the state.
        per_sample: see the base class.
    """

    shape: torch.Size
    per_sample: bool = False

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def flatten(self, state: State) -> Tensor:
        """The state itself."""
        assert isinstance(state, Tensor)
        return state

    def restore(self, flat: Tensor) -> State:
        """The flat tensor itself."""
        return flat

    def slope(self, value: Any, like: Tensor) -> Tensor:
        """Check kind and shape; what broadcasts to the state is expanded."""
        return _fit("func", value, like)

    def tolerance(self, name: str, value: Tolerance) -> float | Tensor:
        """The tolerance itself, a number where it is one."""
        return _number_or_tensor(name, value)

    def norm(self, scaled: Tensor) -> Tensor:
        """Root mean square."""
        return root_mean_square(scaled, keep=self.per_sample)


@dataclass(frozen=True)
class TupleForm(AbstractStateForm):
    """A tuple of tensors, laid end to end along one axis.

    Attributes:
        shapes: of the components.
        per_sample: see the base class; every component then leads with the same batch axis, which stays in front.
    """

    shapes: tuple[torch.Size, ...]
    per_sample: bool = False

    @property
    def rank(self) -> int:
        """Number of axes of a component."""
        return len(self.shapes[0])

    @functools.cached_property
    def _sizes(self) -> list[int]:
        return [event.numel() for event in self._events]

    @functools.cached_property
    def _firsts(self) -> list[int]:
        return list(itertools.accumulate(self._sizes[:-1], initial=0))

    @functools.cached_property
    def _events(self) -> list[torch.Size]:
        return [shape[1:] if self.per_sample else shape for shape in self.shapes]

    def _row(self, value: Tensor) -> Tensor:
        return value.reshape(len(value), -1) if self.per_sample else value.reshape(-1)

    def flatten(self, state: State) -> Tensor:
        """Components one after the other, of the dtype they promote to; shape (n,) or (B, n)."""
        return torch.cat([self._row(part) for part in state], dim=-1)

    def restore(self, flat: Tensor) -> State:
        """Views of the components."""
        # Not by torch.split, whose results autograd lets nobody change in place.
        front = flat.shape[:-1]
        return tuple(
            flat.narrow(-1, first, size).view(front + event)
            for first, size, event in zip(self._firsts, self._sizes, self._events, strict=True)
        )

    def slope(self, value: Any, like: Tensor) -> Tensor:
        """Check that there is one slope per component, of as many elements."""
        # Samples that are done have left the batch.
        front = like.shape[:1] if self.per_sample else torch.Size()
        if isinstance(value, Tensor):
            # Slopes that were stacked, which nothing else can be that has a row of the right size for each component.
            is_stacked = value.ndim > 0 and [row.numel() for row in value] == [
                (front + event).numel() for event in self._events
            ]
            value = value.unbind(0) if is_stacked else value
        elif isinstance(value, Iterable):
            value = tuple(value)
        if not isinstance(value, tuple) or len(value) != len(self.shapes):
            found = f"{len(value)} values" if isinstance(value, tuple) else f"a {type(value).__name__}"
            raise InvalidArgumentError(
                f"func returned {found}; the state is a tuple of {len(self.shapes)} tensors: return one slope for each"
            )
        rows = []
        for index, (part, event) in enumerate(zip(value, self._events, strict=True)):
            shape = front + event
            if not isinstance(part, Tensor):
                raise InvalidArgumentError(f"func returned a {type(part).__name__} at place {index}; expected a tensor")
            if part.shape != shape and part.numel() != shape.numel():
                part = _fit(f"func at place {index}", part, like.new_empty(shape))
            rows.append(self._row(part.reshape(shape)))
        return _cast("func", torch.cat(rows, dim=-1), like.dtype)

    def tolerance(self, name: str, value: Tolerance) -> float | Tensor:
        """A number for all, or one tolerance for each component."""
        if isinstance(value, Tensor) or not isinstance(value, Sequence):
            flat = _number_or_tensor(name, value)
            if isinstance(flat, float) or flat.ndim != 1 or len(flat) != len(self.shapes):
                return flat
            value = list(flat.unbind(0))
        if len(value) != len(self.shapes):
            raise InvalidArgumentError(
                f"{name} has {len(value)} values; the state is a tuple of {len(self.shapes)}: give one number, or one "
                "for each component"
            )
        parts = [torch.as_tensor(_number_or_tensor(name, item), dtype=torch.float64) for item in value]
        return torch.cat([part.reshape(-1).expand(size) for part, size in zip(parts, self._sizes, strict=True)])

    def norm(self, scaled: Tensor) -> Tensor:
        """The largest of the components' root mean squares."""
        parts = torch.split(scaled, self._sizes, dim=-1)
        norms = [root_mean_square(part, keep=self.per_sample) for part in parts if part.numel()]
        return torch.stack(norms).amax(0)


def form_of(y0: Any, per_sample: bool) -> AbstractStateForm:
    """The form of a state.

    Raises:
        InvalidArgumentError: if it is neither a tensor nor a tuple of tensors, or has no batch axis to be solved by.
        TypeError: if a tensor is of integers.
    """
    parts = (y0,) if isinstance(y0, Tensor) else y0
    if not isinstance(parts, tuple) or not parts or not all(isinstance(part, Tensor) for part in parts):
        raise InvalidArgumentError(f"y0 is a {type(y0).__name__}; expected a tensor or a non-empty tuple of tensors")
    for part in parts:
        if not (part.is_floating_point() or part.is_complex()):
            raise TypeError(f"y0 has dtype {part.dtype}; expected floating or complex: call .float() or .double()")
    if per_sample:
        _check_batch(parts)
    if isinstance(y0, Tensor):
        return TensorForm(y0.shape, per_sample)
    return TupleForm(tuple(part.shape for part in parts), per_sample)


def root_mean_square(value: Tensor, keep: bool = False) -> Tensor:
    """``sqrt(mean(|x|²))`` in float64, shape (), or (B,) over all axes but the first with ``keep``."""
    squares = value.abs().double().square()
    return squares.reshape(len(value), -1).mean(1).sqrt() if keep else squares.mean().sqrt()


def _check_batch(parts: tuple[Tensor, ...]) -> None:
    shapes = [tuple(part.shape) for part in parts]
    if any(part.ndim == 0 for part in parts) or len({shape[0] for shape in shapes}) > 1:
        raise InvalidArgumentError(
            f"y0 has shapes {shapes}; per_sample=True needs one batch axis in front of every component: add it, or "
            "leave per_sample out"
        )
    if len({len(shape) for shape in shapes}) > 1:
        raise InvalidArgumentError(
            f"y0 has shapes {shapes}; with per_sample=True func receives one time per sample, shaped to broadcast "
            "against the state, so that all components need as many axes: add axes of length one"
        )


def _fit(name: str, value: Any, like: Tensor) -> Tensor:
    if isinstance(value, int | float | complex) and not isinstance(value, bool):
        kind = torch.complex128 if isinstance(value, complex) else torch.float64
        value = torch.tensor(value, dtype=kind, device=like.device)
    if not isinstance(value, Tensor | Dual):
        raise InvalidArgumentError(f"{name} returned a {type(value).__name__}; the state is a tensor: return a tensor")
    if value.shape != like.shape:
        try:
            value = value.expand_as(like)
        except RuntimeError as error:
            raise InvalidArgumentError(
                f"{name} returned shape {tuple(value.shape)} for a state of shape {tuple(like.shape)}; return a slope "
                "of the state's shape"
            ) from error
    return _cast(name, value, like.dtype)


def _cast(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    if value.dtype == dtype:
        return value
    if value.is_complex() and not dtype.is_complex:
        raise InvalidArgumentError(f"{name} returned {value.dtype} for a state of {dtype}; make y0 complex")
    return value.to(dtype)


def _number_or_tensor(name: str, value: Any) -> float | Tensor:
    if not isinstance(value, Tensor):
        if not isinstance(value, Sequence):
            return float(value)
        value = torch.as_tensor(value, dtype=torch.float64)
    if value.requires_grad:
        raise InvalidArgumentError(f"{name} requires gradient; a tolerance is a constant: call .detach()")
    return float(value) if value.numel() == 1 else value.double()


StateNorm: TypeAlias = Callable[[Any], Any]
"""A caller's norm: takes a state, gives a number."""
