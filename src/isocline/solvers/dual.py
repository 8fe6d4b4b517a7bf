"""Forward-mode differentiation in several directions at once.

A `Dual` carries a tensor and its derivatives in P directions, stacked in front: one evaluation of a field gives its
whole Jacobian, with no repetition of the batch and of ``cond``. Every rule is made of ordinary tensor operations, so
that derivatives can themselves be differentiated. PyTorch's own forward mode takes one direction at a time and, at
small sizes, 50 to 200 times as long for an operation that mixes a dual with an ordinary tensor or a number.

What has no rule here raises `UnsupportedError` (an option without one, ``TypeError``), and the caller differentiates another way; nothing is ever treated as
a constant in silence except comparisons and ``sign``, whose derivative is zero. ``detach`` and ``no_grad`` cut the graph
of parameters, not these derivatives: a solver needs those of the function itself.

Source: Griewank, Walther, Evaluating Derivatives (2008), section 3.1 (vector forward mode).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Dual", "UnsupportedError"]

Rule = Callable[..., Any]


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
        rule = _RULES.get(func)
        if rule is None:
            raise UnsupportedError(f"no rule for {func}")
        return rule(*args, **(kwargs or {}))

    def __getattr__(self, name: str) -> Any:
        """A method or attribute of tensors that has a rule."""
        if name in _ATTRIBUTES:
            return getattr(self.primal, name)
        if name in _PARTS:
            return _linear_unary(lambda value: getattr(value, name))(self)
        rule = _METHODS.get(name)
        if rule is None:
            raise UnsupportedError(f"no rule for the attribute {name!r} of a tensor")
        return lambda *args, **kwargs: rule(self, *args, **kwargs)

    def __len__(self) -> int:
        """Length of the first axis."""
        return len(self.primal)

    def __iter__(self) -> Any:
        """Along the first axis."""
        return iter(_unbind(self))

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
        return _abs(self)

    def __add__(self, other: Any) -> Dual:
        return _add(self, other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Dual:
        return _sub(self, other)

    def __rsub__(self, other: Any) -> Dual:
        return _sub(other, self)

    def __mul__(self, other: Any) -> Dual:
        return _mul(self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Dual:
        return _div(self, other)

    def __rtruediv__(self, other: Any) -> Dual:
        return _div(other, self)

    def __pow__(self, other: Any) -> Dual:
        return _pow(self, other)

    def __rpow__(self, other: Any) -> Dual:
        return _pow(other, self)

    def __matmul__(self, other: Any) -> Dual:
        return _matmul(self, other)

    def __rmatmul__(self, other: Any) -> Dual:
        return _matmul(other, self)

    def __lt__(self, other: Any) -> Tensor:
        return self.primal < _value(other)

    def __le__(self, other: Any) -> Tensor:
        return self.primal <= _value(other)

    def __gt__(self, other: Any) -> Tensor:
        return self.primal > _value(other)

    def __ge__(self, other: Any) -> Tensor:
        return self.primal >= _value(other)


def _value(x: Any) -> Any:
    return x.primal if isinstance(x, Dual) else x


def _fit(tangent: Tensor, like: Tensor) -> Tensor:
    """Broadcast derivatives to the shape of the value that they have become part of."""
    if tangent.dtype != like.dtype:
        tangent = tangent.to(like.dtype)
    missing = like.ndim + 1 - tangent.ndim
    if missing:
        tangent = tangent.reshape(tangent.shape[0], *[1] * missing, *tangent.shape[1:])
    if tangent.shape[1:] != like.shape:
        tangent = tangent.expand(-1, *like.shape)
    return tangent


def _lift(x: Dual, ndim: int) -> Tensor:
    missing = ndim + 1 - x.tangent.ndim
    if missing <= 0:
        return x.tangent
    return x.tangent.reshape(x.tangent.shape[0], *[1] * missing, *x.tangent.shape[1:])


def _add(a: Any, b: Any, *, alpha: Any = 1) -> Dual:
    value = torch.add(_value(a), _value(b), alpha=alpha)
    if not isinstance(b, Dual):
        return Dual(value, _fit(a.tangent, value))
    if not isinstance(a, Dual):
        return Dual(value, _fit(b.tangent if alpha == 1 else b.tangent * alpha, value))
    return Dual(value, _fit(torch.add(_lift(a, value.ndim), _lift(b, value.ndim), alpha=alpha), value))


def _sub(a: Any, b: Any, *, alpha: Any = 1) -> Dual:
    if not isinstance(a, Dual):
        value = torch.rsub(b.primal, a, alpha=alpha)
        return Dual(value, _fit(b.tangent.neg() if alpha == 1 else b.tangent * -alpha, value))
    value = torch.sub(a.primal, _value(b), alpha=alpha)
    if not isinstance(b, Dual):
        return Dual(value, _fit(a.tangent, value))
    return Dual(value, _fit(torch.sub(_lift(a, value.ndim), _lift(b, value.ndim), alpha=alpha), value))


def _mul(a: Any, b: Any) -> Dual:
    value = _value(a) * _value(b)
    if not isinstance(b, Dual):
        return Dual(value, _fit(_lift(a, value.ndim) * b, value))
    if not isinstance(a, Dual):
        return Dual(value, _fit(_lift(b, value.ndim) * a, value))
    if a is b:
        return Dual(value, _fit(a.tangent * (2 * a.primal), value))
    product = _lift(a, value.ndim) * b.primal
    other = _lift(b, value.ndim)
    if product.dtype == other.dtype == a.primal.dtype:
        return Dual(value, _fit(torch.addcmul(product, other, a.primal), value))
    return Dual(value, _fit(product + other * a.primal, value))


def _div(a: Any, b: Any) -> Dual:
    value = _value(a) / _value(b)
    if not isinstance(b, Dual):
        return Dual(value, _fit(_lift(a, value.ndim) / b, value))
    slope = _lift(b, value.ndim) * -value
    if isinstance(a, Dual):
        slope = slope + _lift(a, value.ndim)
    return Dual(value, _fit(slope / b.primal, value))


def _pow(a: Any, b: Any) -> Dual:
    if isinstance(b, Dual):
        if isinstance(a, Dual) or (isinstance(a, Tensor) and not bool((a > 0).all())):
            raise UnsupportedError("no rule for this power")
        logarithm = torch.log(a) if isinstance(a, Tensor) else math.log(a)
        value = torch.pow(a, b.primal)
        return Dual(value, _fit(_lift(b, value.ndim) * (value * logarithm), value))
    value = torch.pow(a.primal, b)
    if isinstance(b, Tensor):
        slope = torch.where(b == 0, 0.0, b * torch.pow(a.primal, torch.where(b == 0, 1.0, b - 1)))
        return Dual(value, _fit(_lift(a, value.ndim) * slope, value))
    if b == 0:
        return Dual(value, torch.zeros_like(a.tangent))
    slope = a.primal if b == 2 else torch.pow(a.primal, b - 1)
    return Dual(value, a.tangent * (slope * b))


def _matmul(a: Any, b: Any) -> Dual:
    left, right = _value(a), _value(b)
    value = torch.matmul(left, right)
    slope: Tensor | None = None
    if isinstance(a, Dual):
        if right.ndim > 2 and left.ndim < right.ndim:
            raise UnsupportedError("no rule for this matrix product")
        slope = torch.matmul(a.tangent, right)
    if isinstance(b, Dual):
        if right.ndim < 2 or left.ndim < 2:
            raise UnsupportedError("no rule for this matrix product")
        other = torch.matmul(left, _lift(b, max(left.ndim, right.ndim)))
        slope = other if slope is None else slope + other
    assert slope is not None
    return Dual(value, _fit(slope, value))


def _einsum(equation: str, *operands: Any) -> Dual:
    if "->" not in equation or "." in equation or not isinstance(equation, str):
        raise UnsupportedError("no rule for an einsum without an explicit result")
    inputs, result = equation.replace(" ", "").split("->")
    names = inputs.split(",")
    fresh = next(letter for letter in "PQRSTUVWXYZ" if letter not in equation)
    values = [_value(operand) for operand in operands]
    total: Tensor | None = None
    for place, operand in enumerate(operands):
        if isinstance(operand, Dual):
            letters = ",".join(fresh + name if index == place else name for index, name in enumerate(names))
            parts = [*values[:place], operand.tangent, *values[place + 1 :]]
            term = torch.einsum(f"{letters}->{fresh}{result}", *parts)
            total = term if total is None else total + term
    assert total is not None
    return Dual(torch.einsum(equation, *values), total)


def _linear(x: Any, weight: Any, bias: Any = None) -> Dual:
    if isinstance(weight, Dual) or isinstance(bias, Dual):
        raise UnsupportedError("no rule for weights that depend on the state")
    return Dual(torch.nn.functional.linear(x.primal, weight, bias), torch.nn.functional.linear(x.tangent, weight))


def _where(mask: Any, a: Any, b: Any) -> Dual:
    value = torch.where(_value(mask), _value(a), _value(b))
    sides = [_fit(x.tangent, value) if isinstance(x, Dual) else 0.0 for x in (a, b)]
    return Dual(value, torch.where(_value(mask), *sides))


def _larger(a: Any, b: Any) -> Dual:
    left, right = (x if isinstance(x, Tensor) else torch.as_tensor(x) for x in (_value(a), _value(b)))
    return _where(left >= right, a, b)


def _smaller(a: Any, b: Any) -> Dual:
    left, right = (x if isinstance(x, Tensor) else torch.as_tensor(x) for x in (_value(a), _value(b)))
    return _where(left <= right, a, b)


def _clamp(x: Dual, min: Any = None, max: Any = None) -> Dual:
    if isinstance(min, Dual | Tensor) or isinstance(max, Dual | Tensor):
        raise UnsupportedError("no rule for tensor bounds")
    inside = torch.ones_like(x.primal, dtype=torch.bool)
    if min is not None:
        inside = inside & (x.primal >= min)
    if max is not None:
        inside = inside & (x.primal <= max)
    return Dual(torch.clamp(x.primal, min, max), torch.where(inside, x.tangent, 0.0))


def _abs(x: Dual) -> Dual:
    value = x.primal.abs()
    if x.primal.is_complex():
        return Dual(value, (x.tangent * x.primal.sgn().conj()).real)
    return Dual(value, x.tangent * x.primal.sign())


def _unary(function: Callable[[Tensor], Tensor], slope: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """A function of each element, given its derivative from argument and value."""

    def rule(x: Dual, inplace: bool = False) -> Dual:
        if inplace:
            raise UnsupportedError("no rule for writing in place")
        value = function(x.primal)
        return Dual(value, x.tangent * slope(x.primal, value))

    return rule


def _linear_unary(function: Callable[..., Tensor]) -> Rule:
    """A function that is linear and looks at no axis."""
    return lambda x, *args, **kwargs: Dual(function(x.primal, *args, **kwargs), function(x.tangent, *args, **kwargs))


def _softplus(x: Dual, beta: float = 1.0, threshold: float = 20.0) -> Dual:
    if beta != 1:
        raise UnsupportedError("no rule for this softplus")
    return Dual(torch.nn.functional.softplus(x.primal, beta, threshold), x.tangent * torch.sigmoid(x.primal))


def _axis(dim: int) -> int:
    return dim + 1 if dim >= 0 else dim


def _unbind(x: Dual, dim: int = 0) -> tuple[Dual, ...]:
    return tuple(map(Dual, x.primal.unbind(dim), x.tangent.unbind(_axis(dim))))


def _split(x: Dual, size: Any, dim: int = 0) -> tuple[Dual, ...]:
    return tuple(map(Dual, x.primal.split(size, dim), x.tangent.split(size, _axis(dim))))


def _chunk(x: Dual, chunks: int, dim: int = 0) -> tuple[Dual, ...]:
    return tuple(map(Dual, x.primal.chunk(chunks, dim), x.tangent.chunk(chunks, _axis(dim))))


def _joined(function: Callable[..., Tensor]) -> Rule:
    """``torch.stack`` or ``torch.cat``."""

    def rule(tensors: Sequence[Any], dim: int = 0) -> Dual:
        count = next(x.tangent.shape[0] for x in tensors if isinstance(x, Dual))
        value = function([_value(x) for x in tensors], dim)
        tangents = [x.tangent if isinstance(x, Dual) else x.new_zeros(()).expand(count, *x.shape) for x in tensors]
        return Dual(value, function(tangents, _axis(dim)))

    return rule


def _sizes(shape: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape


def _reshape(x: Dual, *shape: Any) -> Dual:
    value = x.primal.reshape(_sizes(shape))
    return Dual(value, x.tangent.reshape(x.tangent.shape[0], *value.shape))


def _flatten(x: Dual, start_dim: int = 0, end_dim: int = -1) -> Dual:
    return _reshape(x, x.primal.flatten(start_dim, end_dim).shape)


def _expand(x: Dual, *shape: Any) -> Dual:
    value = x.primal.expand(_sizes(shape))
    return Dual(value, _fit(x.tangent, value))


def _squeeze(x: Dual, *dim: Any) -> Dual:
    return _reshape(x, x.primal.squeeze(*dim).shape)


def _unsqueeze(x: Dual, dim: int) -> Dual:
    return Dual(x.primal.unsqueeze(dim), x.tangent.unsqueeze(_axis(dim)))


def _swap(x: Dual, dim0: int, dim1: int) -> Dual:
    return Dual(x.primal.transpose(dim0, dim1), x.tangent.transpose(_axis(dim0), _axis(dim1)))


def _permute(x: Dual, *dims: Any) -> Dual:
    order = _sizes(dims)
    axes = [axis % x.primal.ndim + 1 for axis in order]
    return Dual(x.primal.permute(order), x.tangent.permute(0, *axes))


def _reduce(function: Callable[..., Tensor]) -> Rule:
    """A sum or mean over axes."""

    def rule(x: Dual, dim: Any = None, keepdim: bool = False) -> Dual:
        value = function(x.primal) if dim is None else function(x.primal, dim, keepdim)
        places = range(x.primal.ndim) if dim is None else ([dim] if isinstance(dim, int) else dim)
        axes = [place % x.primal.ndim + 1 for place in places]
        return Dual(value, function(x.tangent, axes, keepdim) if axes else x.tangent)

    return rule


def _roll(x: Dual, shifts: Any, dims: Any = None) -> Dual:
    if dims is None:
        raise UnsupportedError("no rule for a roll of the flattened tensor")
    places = [dims] if isinstance(dims, int) else dims
    return Dual(torch.roll(x.primal, shifts, dims), torch.roll(x.tangent, shifts, [_axis(place) for place in places]))


def _cast(x: Dual, *args: Any, **kwargs: Any) -> Dual:
    return Dual(x.primal.to(*args, **kwargs), x.tangent.to(*args, **kwargs))


def _constant(function: Callable[..., Any]) -> Rule:
    """A function that PyTorch gives no derivative."""
    return lambda *args, **kwargs: function(*map(_value, args), **kwargs)


_SMOOTH: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "exp": lambda x, y: y,
    "expm1": lambda x, y: y + 1,
    "log": lambda x, y: x.reciprocal(),
    "log1p": lambda x, y: (x + 1).reciprocal(),
    "sqrt": lambda x, y: 0.5 / y,
    "rsqrt": lambda x, y: -0.5 * y / x,
    "square": lambda x, y: 2 * x,
    "reciprocal": lambda x, y: -y * y,
    "sin": lambda x, y: x.cos(),
    "cos": lambda x, y: -x.sin(),
    "tan": lambda x, y: 1 + y * y,
    "sinh": lambda x, y: x.cosh(),
    "cosh": lambda x, y: x.sinh(),
    "tanh": lambda x, y: 1 - y * y,
    "atan": lambda x, y: (1 + x * x).reciprocal(),
    "erf": lambda x, y: (-x * x).exp() * (2 / math.sqrt(math.pi)),
    "sigmoid": lambda x, y: y * (1 - y),
    "relu": lambda x, y: (x > 0).to(x.dtype),
}

_NAMED: dict[str, Rule] = {
    **{name: _unary(getattr(torch, name), slope) for name, slope in _SMOOTH.items()},
    "neg": lambda x: -x,
    "abs": _abs,
    "add": _add,
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "matmul": _matmul,
    "where": _where,
    "maximum": _larger,
    "minimum": _smaller,
    "clamp": _clamp,
    "unbind": _unbind,
    "split": _split,
    "chunk": _chunk,
    "reshape": _reshape,
    "flatten": _flatten,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "transpose": _swap,
    "permute": _permute,
    "sum": _reduce(torch.sum),
    "mean": _reduce(torch.mean),
    "roll": _roll,
    "clone": _linear_unary(torch.clone),
    "conj": _linear_unary(torch.conj),
    # A solver wants the derivative of the function, wherever its author cut the graph for training.
    "detach": _linear_unary(torch.detach),
    "sign": _constant(torch.sign),
    "isfinite": _constant(torch.isfinite),
    "zeros_like": _constant(torch.zeros_like),
    "ones_like": _constant(torch.ones_like),
    "lt": _constant(torch.lt),
    "le": _constant(torch.le),
    "gt": _constant(torch.gt),
    "ge": _constant(torch.ge),
}

_METHODS: dict[str, Rule] = {
    **_NAMED,
    "view": _reshape,
    "expand": _expand,
    "to": _cast,
    "float": lambda x: _cast(x, torch.float32),
    "double": lambda x: _cast(x, torch.float64),
    "contiguous": lambda x: x,
    **{name: _constant(getattr(Tensor, name)) for name in ("size", "dim", "numel", "is_complex", "is_floating_point")},
    **{name: _constant(getattr(Tensor, name)) for name in ("new_zeros", "new_ones", "new_tensor", "new_full")},
}

_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device", "layout", "is_cuda"})

_PARTS = frozenset({"real", "imag"})

_silu = _unary(torch.nn.functional.silu, lambda x, y: y + torch.sigmoid(x) * (1 - y))

_RULES: dict[Any, Rule] = {
    **{getattr(torch, name): rule for name, rule in _NAMED.items()},
    **{getattr(Tensor, name): rule for name, rule in _METHODS.items() if hasattr(Tensor, name)},
    torch.stack: _joined(torch.stack),
    torch.cat: _joined(torch.cat),
    torch.concat: _joined(torch.cat),
    torch.einsum: _einsum,
    torch.real: _linear_unary(torch.real),
    torch.imag: _linear_unary(torch.imag),
    Tensor.__rsub__: lambda a, b: _sub(b, a),
    Tensor.__rtruediv__: lambda a, b: _div(b, a),
    Tensor.__rpow__: lambda a, b: _pow(b, a),
    Tensor.__rmatmul__: lambda a, b: _matmul(b, a),
    torch.nn.functional.linear: _linear,
    torch.nn.functional.tanh: _NAMED["tanh"],
    torch.nn.functional.sigmoid: _NAMED["sigmoid"],
    torch.nn.functional.relu: _NAMED["relu"],
    torch.nn.functional.silu: _silu,
    torch.nn.functional.softplus: _softplus,
    torch.concatenate: _joined(torch.cat),
    torch.multiply: _mul,
    torch.subtract: _sub,
    torch.rsub: lambda a, b: _sub(b, a),
    torch.divide: _div,
    Tensor.__pow__: _pow,
}
