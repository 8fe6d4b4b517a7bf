"""Semi-linear problems ``dy/dt = A y + g(t, y)``: the linear part is given apart, for exponential integrators."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.phi import matrix_phi_functions, phi_functions
from isocline.solvers.problem import AbstractProblem, ODEProblem, Time, VectorField
from isocline.solvers.rows import select_rows

__all__ = ["AbstractLinearPart", "AbstractPhis", "DenseLinear", "DiagonalLinear", "SemilinearProblem"]


class AbstractPhis(ABC):
    """The matrices ``φ_0(hA)`` to ``φ_K(hA)``."""

    @abstractmethod
    def apply(self, k: int, y: Tensor) -> Tensor:
        """``φ_k(hA) y`` for states of shape (B, *event)."""


class AbstractLinearPart(ABC):
    """A constant matrix A on the states, the same for all samples."""

    @property
    @abstractmethod
    def is_learned(self) -> bool:
        """Whether gradients are wanted with respect to A."""

    @abstractmethod
    def check(self, y0: Tensor) -> None:
        """Compare with a state.

        Raises:
            ValueError: if the shapes do not go together.
            TypeError: if a complex matrix meets real states.
        """

    @abstractmethod
    def apply(self, y: Tensor) -> Tensor:
        """``A y``."""

    @abstractmethod
    def phis(self, h: Tensor, count: int, y: Tensor) -> AbstractPhis:
        """``φ_0(hA)`` to ``φ_count(hA)``, found in double precision.

        Args:
            h: shape () or (B,), float64.
            count: the largest index.
            y: a state, for shape and dtype.
        """


class _DiagonalPhis(AbstractPhis):
    def __init__(self, values: tuple[Tensor, ...]) -> None:
        self._values = values

    def apply(self, k: int, y: Tensor) -> Tensor:
        return self._values[k] * y


@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalLinear(AbstractLinearPart):
    """``A y = values * y``.

    Attributes:
        values: broadcastable to the event axes of a state; no batch axis.
    """

    values: Tensor

    @property
    def is_learned(self) -> bool:
        """Whether ``values`` requires a gradient."""
        return self.values.requires_grad

    def check(self, y0: Tensor) -> None:
        """See the base class."""
        shape, event = tuple(self.values.shape), tuple(y0.shape[1:])
        pairs = zip(reversed(shape), reversed(event), strict=False)
        if len(shape) > len(event) or any(size not in (1, wanted) for size, wanted in pairs):
            raise ValueError(
                f"DiagonalLinear.values has shape {shape}; expected one that broadcasts to {event}, the state's shape "
                "without the batch axis"
            )
        _check_dtype("DiagonalLinear.values", self.values, y0)

    def apply(self, y: Tensor) -> Tensor:
        """``values * y``."""
        return self.values.to(y.dtype) * y

    def phis(self, h: Tensor, count: int, y: Tensor) -> AbstractPhis:
        """See the base class."""
        z = expand_like(h, y) * _double(self.values)
        return _DiagonalPhis(tuple(value.to(y.dtype) for value in phi_functions(z, count)))


class _DensePhis(AbstractPhis):
    def __init__(self, matrices: tuple[Tensor, ...]) -> None:
        self._matrices = matrices

    def apply(self, k: int, y: Tensor) -> Tensor:
        return _multiply(self._matrices[k], y)


@dataclasses.dataclass(frozen=True, eq=False)
class DenseLinear(AbstractLinearPart):
    """``A y = matrix @ y`` on flattened states.

    The φ functions of one step size cost some twenty to a hundred products of (D, D) matrices, the fewer the smaller
    the step. The last bits of a sample's result can depend on the size of its batch, as those of any matrix product.

    Attributes:
        matrix: shape (D, D), D the number of components of an event.
    """

    matrix: Tensor

    @property
    def is_learned(self) -> bool:
        """Whether ``matrix`` requires a gradient."""
        return self.matrix.requires_grad

    def check(self, y0: Tensor) -> None:
        """See the base class."""
        shape, width = tuple(self.matrix.shape), y0[0].numel()
        if shape != (width, width):
            raise ValueError(
                f"DenseLinear.matrix has shape {shape}; expected {(width, width)} for states of {width} components"
            )
        _check_dtype("DenseLinear.matrix", self.matrix, y0)

    def apply(self, y: Tensor) -> Tensor:
        """``matrix @ y``."""
        return _multiply(self.matrix.to(y.dtype), y)

    def phis(self, h: Tensor, count: int, y: Tensor) -> AbstractPhis:
        """See the base class."""
        z = h[..., None, None] * _double(self.matrix)
        return _DensePhis(tuple(value.to(y.dtype) for value in matrix_phi_functions(z, count)))


@dataclasses.dataclass(frozen=True)
class SemilinearProblem(AbstractProblem):
    """``dy/dt = A y + remainder(t, y, cond)``, ``y(t0) = y0``, wanted up to ``t1``.

    Any stepper solves it; exponential ones take A exactly. An evaluation is one of the remainder.

    Attributes:
        linear: A, a `DiagonalLinear` or a `DenseLinear`.
        remainder: the rest of the field; see `isocline.solvers.problem.VectorField`.
        y0: as in `isocline.solvers.ODEProblem`, like the others.
        t0: start.
        t1: end.
        cond: handed to the remainder.
        is_separable: whether samples may be integrated apart.

    Raises:
        TypeError: if ``y0`` is not a floating or complex tensor, or is real while A is complex.
        ValueError: if A, ``y0`` and ``cond`` do not go together.
    """

    linear: AbstractLinearPart
    remainder: VectorField
    y0: Tensor
    t0: Time
    t1: Time
    cond: Any = None
    is_separable: bool = True

    def __post_init__(self) -> None:
        # Made for its checks.
        ODEProblem(self.remainder, self.y0, self.t0, self.t1, self.cond, self.is_separable)
        self.linear.check(self.y0)

    @property
    def start(self) -> Tensor:
        """State at ``t0``."""
        return self.y0

    @property
    def separable(self) -> bool:
        """Whether finished samples may leave the batch."""
        return self.is_separable

    def evaluate(self, t: Tensor, y: Tensor) -> Tensor:
        """``A y + remainder(t, y, cond)``."""
        return self.linear.apply(y) + self.remainder(t, y, self.cond)

    def evaluate_remainder(self, t: Tensor, y: Tensor) -> Tensor:
        """``remainder(t, y, cond)``."""
        return self.remainder(t, y, self.cond)

    def at_rows(self, rows: Tensor) -> SemilinearProblem:
        """The same equation for the samples ``rows``, an int64 tensor of shape (n,)."""
        y0, t0, t1, cond = select_rows((self.y0, self.t0, self.t1, self.cond), rows)
        return dataclasses.replace(self, y0=y0, t0=t0, t1=t1, cond=cond)


def _multiply(matrix: Tensor, y: Tensor) -> Tensor:
    rows = y.reshape(len(y), -1)
    found = rows @ matrix.T if matrix.ndim == 2 else torch.matmul(matrix, rows[..., None])[..., 0]
    return found.reshape(y.shape)


def _double(value: Tensor) -> Tensor:
    return value.to(torch.complex128 if value.is_complex() else torch.float64)


def _check_dtype(name: str, value: Tensor, y0: Tensor) -> None:
    if value.is_complex() and not y0.is_complex():
        raise TypeError(f"{name} is complex and y0 is {y0.dtype}; make y0 complex, too")
