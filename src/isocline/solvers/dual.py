"""Forward-mode differentiation in several directions at once.

A `Dual` carries a tensor and its derivatives in P directions, stacked in front: one evaluation of a field gives its
whole Jacobian, with no repetition of the batch and of ``cond``. Every rule is made of ordinary tensor operations, so
that derivatives can themselves be differentiated. PyTorch's own forward mode takes one direction at a time and, at
small sizes, 50 to 200 times as long for an operation that mixes a dual with an ordinary tensor or a number.

What has no rule here raises `UnsupportedError` (an option without one, ``TypeError``), and the caller differentiates
another way; nothing is ever treated as a constant in silence except comparisons and ``sign``, whose derivative is zero.
``detach`` and ``no_grad`` cut the graph of parameters, not these derivatives: a solver needs those of the function
itself.

Source: Griewank, Walther, Evaluating Derivatives (2008), section 3.1 (vector forward mode).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["METHODS", "RULES", "Dual", "UnsupportedError"]

Rule = Callable[..., Any]

RULES: dict[Any, Rule] = {}
"""Rules of functions of PyTorch; filled in by `isocline.solvers.dual_rules`."""

METHODS: dict[str, Rule] = {}
"""Rules of methods of tensors, likewise."""

_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "layout", "is_cuda"})

_PARTS = frozenset({"real", "imag"})


class UnsupportedError(Exception):
    """An operation without a rule was applied to a `Dual`."""


class Dual:
    """A tensor with derivatives.

    Attributes:
        primal: the value, shape ``s``.
        tangent: derivatives in P directions, shape ``(P, *s)``.
    """

    __slots__ = ("primal", "tangent")

    def __init__(self, primal: Tensor, tangent: Tensor) -> None:
        """Pair a value with its derivatives."""
        self.primal = primal
        self.tangent = tangent

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Apply the rule of a function of PyTorch."""
        rule = RULES.get(func)
        if rule is None:
            raise UnsupportedError(f"no rule for {func}")
        return rule(*args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        """A method or attribute of tensors that has a rule."""
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _ATTRIBUTES:
            return getattr(self.primal, name)
        if name in _PARTS:
            return apply_linear(lambda value: getattr(value, name))(self)
        if name == "mT" or (name == "T" and self.primal.ndim == 2):
            return Dual(self.primal.mT, self.tangent.mT)
        rule = METHODS.get(name)
        if rule is None:
            raise UnsupportedError(f"no rule for the attribute {name!r} of a tensor")
        return lambda *args, **kwargs: rule(self, *args, **kwargs)

    def __len__(self) -> int:
        """Length of the first axis."""
        return len(self.primal)

    def __iter__(self) -> Any:
        """Along the first axis."""
        return iter(unbind(self))

    def __bool__(self) -> bool:
        """Of the value."""
        return bool(self.primal)

    def __float__(self) -> float:
        """Refused: the derivative would be lost."""
        raise UnsupportedError("no rule for float()")

    def __getitem__(self, index: Any) -> Dual:
        """Basic indexing, or one tensor of indices."""
        parts = index if isinstance(index, tuple) else (index,)
        arrays = sum(isinstance(part, Tensor | list) for part in parts)
        if any(isinstance(part, Dual) for part in parts) or arrays > 1:
            raise UnsupportedError("no rule for this indexing")
        return Dual(self.primal[index], self.tangent[(slice(None), *parts)])

    def __setitem__(self, index: Any, value: Any) -> None:
        """Refused: states are not written to."""
        raise UnsupportedError("no rule for writing in place")

    def __neg__(self) -> Dual:
        return Dual(-self.primal, -self.tangent)

    def __pos__(self) -> Dual:
        return self

    def __abs__(self) -> Dual:
        return absolute(self)

    def __add__(self, other: Any) -> Dual:
        return add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Dual:
        return subtract(self, other)

    def __rsub__(self, other: Any) -> Dual:
        return subtract(other, self)

    def __mul__(self, other: Any) -> Dual:
        return multiply(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Dual:
        return divide(self, other)

    def __rtruediv__(self, other: Any) -> Dual:
        return divide(other, self)

    def __pow__(self, other: Any) -> Dual:
        return power(self, other)

    def __rpow__(self, other: Any) -> Dual:
        return power(other, self)

    def __matmul__(self, other: Any) -> Dual:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Dual:
        return matmul(other, self)

    def __lt__(self, other: Any) -> Tensor:
        return self.primal < value_of(other)

    def __le__(self, other: Any) -> Tensor:
        return self.primal <= value_of(other)

    def __gt__(self, other: Any) -> Tensor:
        return self.primal > value_of(other)

    def __ge__(self, other: Any) -> Tensor:
        return self.primal >= value_of(other)


def value_of(x: Any) -> Any:
    """The value of a dual; anything else as it is."""
    return x.primal if isinstance(x, Dual) else x


def fit_tangent(tangent: Tensor, like: Tensor) -> Tensor:
    """Broadcast derivatives to the shape of the value that they have become part of."""
    if tangent.dtype != like.dtype:
        tangent = tangent.to(like.dtype)
    missing = like.ndim + 1 - tangent.ndim
    if missing:
        tangent = tangent.reshape(tangent.shape[0], *[1] * missing, *tangent.shape[1:])
    if tangent.shape[1:] != like.shape:
        tangent = tangent.expand(-1, *like.shape)
    return tangent


def lift_tangent(x: Dual, ndim: int) -> Tensor:
    """The derivatives, with axes of length one so that they broadcast against a value of ``ndim`` axes."""
    missing = ndim + 1 - x.tangent.ndim
    if missing <= 0:
        return x.tangent
    return x.tangent.reshape(x.tangent.shape[0], *[1] * missing, *x.tangent.shape[1:])


def add(a: Any, b: Any, *, alpha: Any = 1) -> Dual:
    """``a + alpha b``."""
    value = torch.add(value_of(a), value_of(b), alpha=alpha)
    if not isinstance(b, Dual):
        return Dual(value, fit_tangent(a.tangent, value))
    if not isinstance(a, Dual):
        return Dual(value, fit_tangent(b.tangent if alpha == 1 else b.tangent * alpha, value))
    return Dual(
        value, fit_tangent(torch.add(lift_tangent(a, value.ndim), lift_tangent(b, value.ndim), alpha=alpha), value)
    )


def subtract(a: Any, b: Any, *, alpha: Any = 1) -> Dual:
    """``a - alpha b``."""
    if not isinstance(a, Dual):
        value = torch.rsub(b.primal, a, alpha=alpha)
        return Dual(value, fit_tangent(b.tangent.neg() if alpha == 1 else b.tangent * -alpha, value))
    value = torch.sub(a.primal, value_of(b), alpha=alpha)
    if not isinstance(b, Dual):
        return Dual(value, fit_tangent(a.tangent, value))
    return Dual(
        value, fit_tangent(torch.sub(lift_tangent(a, value.ndim), lift_tangent(b, value.ndim), alpha=alpha), value)
    )


def multiply(a: Any, b: Any) -> Dual:
    """``a b``."""
    value = value_of(a) * value_of(b)
    if not isinstance(b, Dual):
        return Dual(value, fit_tangent(lift_tangent(a, value.ndim) * b, value))
    if not isinstance(a, Dual):
        return Dual(value, fit_tangent(lift_tangent(b, value.ndim) * a, value))
    if a is b:
        return Dual(value, fit_tangent(a.tangent * (2 * a.primal), value))
    product = lift_tangent(a, value.ndim) * b.primal
    other = lift_tangent(b, value.ndim)
    if product.dtype == other.dtype == a.primal.dtype:
        return Dual(value, fit_tangent(torch.addcmul(product, other, a.primal), value))
    return Dual(value, fit_tangent(product + other * a.primal, value))


def divide(a: Any, b: Any) -> Dual:
    """``a / b``."""
    value = value_of(a) / value_of(b)
    if not isinstance(b, Dual):
        return Dual(value, fit_tangent(lift_tangent(a, value.ndim) / b, value))
    slope = lift_tangent(b, value.ndim) * -value
    if isinstance(a, Dual):
        slope = slope + lift_tangent(a, value.ndim)
    return Dual(value, fit_tangent(slope / b.primal, value))


def power(a: Any, b: Any) -> Dual:
    """``a ** b`` where one of them is a dual."""
    if isinstance(b, Dual):
        if isinstance(a, Dual) or (isinstance(a, Tensor) and not bool((a > 0).all())):
            raise UnsupportedError("no rule for this power")
        logarithm = torch.log(a) if isinstance(a, Tensor) else math.log(a)
        value = torch.pow(a, b.primal)
        return Dual(value, fit_tangent(lift_tangent(b, value.ndim) * (value * logarithm), value))
    value = torch.pow(a.primal, b)
    if isinstance(b, Tensor):
        slope = torch.where(b == 0, 0.0, b * torch.pow(a.primal, torch.where(b == 0, 1.0, b - 1)))
        return Dual(value, fit_tangent(lift_tangent(a, value.ndim) * slope, value))
    if b == 0:
        return Dual(value, torch.zeros_like(a.tangent))
    slope = a.primal if b == 2 else torch.pow(a.primal, b - 1)
    return Dual(value, a.tangent * (slope * b))


def matmul(a: Any, b: Any) -> Dual:
    """Matrix product."""
    left, right = value_of(a), value_of(b)
    value = torch.matmul(left, right)
    slope: Tensor | None = None
    if isinstance(a, Dual):
        if right.ndim > 2 and left.ndim < right.ndim:
            raise UnsupportedError("no rule for this matrix product")
        slope = torch.matmul(a.tangent, right)
    if isinstance(b, Dual):
        if right.ndim < 2 or left.ndim < 2:
            raise UnsupportedError("no rule for this matrix product")
        other = torch.matmul(left, lift_tangent(b, max(left.ndim, right.ndim)))
        slope = other if slope is None else slope + other
    assert slope is not None
    return Dual(value, fit_tangent(slope, value))


def absolute(x: Dual) -> Dual:
    """Modulus."""
    value = x.primal.abs()
    if x.primal.is_complex():
        return Dual(value, (x.tangent * x.primal.sgn().conj()).real)
    return Dual(value, x.tangent * x.primal.sign())


def apply_linear(function: Callable[..., Tensor]) -> Rule:
    """A function that is linear and looks at no axis."""
    return lambda x, *args, **kwargs: Dual(function(x.primal, *args, **kwargs), function(x.tangent, *args, **kwargs))


def tangent_axis(dim: int) -> int:
    """Where an axis of the value is among those of the derivatives."""
    return dim + 1 if dim >= 0 else dim


def unbind(x: Dual, dim: int = 0) -> tuple[Dual, ...]:
    """Slices along an axis."""
    return tuple(map(Dual, x.primal.unbind(dim), x.tangent.unbind(tangent_axis(dim))))
