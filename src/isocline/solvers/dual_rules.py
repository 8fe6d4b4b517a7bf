"""Derivative rules of `isocline.solvers.dual.Dual` for the functions of PyTorch that vector fields are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.dual import (
    METHODS,
    RULES,
    Dual,
    Rule,
    UnsupportedError,
    absolute,
    add,
    apply_linear,
    divide,
    fit_tangent,
    matmul,
    multiply,
    power,
    subtract,
    tangent_axis,
    unbind,
    value_of,
)

__all__: list[str] = []


def _einsum(equation: str, *operands: Any) -> Dual:
    if "->" not in equation or "." in equation or not isinstance(equation, str):
        raise UnsupportedError("no rule for an einsum without an explicit result")
    inputs, result = equation.replace(" ", "").split("->")
    names = inputs.split(",")
    fresh = next(letter for letter in "PQRSTUVWXYZ" if letter not in equation)
    values = [value_of(operand) for operand in operands]
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
    value = torch.where(value_of(mask), value_of(a), value_of(b))
    left, right = (fit_tangent(x.tangent, value) if isinstance(x, Dual) else 0.0 for x in (a, b))
    return Dual(value, torch.where(value_of(mask), left, right))


def _larger(a: Any, b: Any) -> Dual:
    left, right = (x if isinstance(x, Tensor) else torch.as_tensor(x) for x in (value_of(a), value_of(b)))
    return _where(left >= right, a, b)


def _smaller(a: Any, b: Any) -> Dual:
    left, right = (x if isinstance(x, Tensor) else torch.as_tensor(x) for x in (value_of(a), value_of(b)))
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


def _unary(function: Callable[[Tensor], Tensor], slope: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """A function of each element, given its derivative from argument and value."""

    def rule(x: Dual, inplace: bool = False) -> Dual:
        if inplace:
            raise UnsupportedError("no rule for writing in place")
        value = function(x.primal)
        return Dual(value, x.tangent * slope(x.primal, value))

    return rule


def _softplus(x: Dual, beta: float = 1.0, threshold: float = 20.0) -> Dual:
    if beta != 1:
        raise UnsupportedError("no rule for this softplus")
    return Dual(torch.nn.functional.softplus(x.primal, beta, threshold), x.tangent * torch.sigmoid(x.primal))


def _split(x: Dual, size: Any, dim: int = 0) -> tuple[Dual, ...]:
    return tuple(map(Dual, torch.split(x.primal, size, dim), torch.split(x.tangent, size, tangent_axis(dim))))


def _chunk(x: Dual, chunks: int, dim: int = 0) -> tuple[Dual, ...]:
    return tuple(map(Dual, x.primal.chunk(chunks, dim), x.tangent.chunk(chunks, tangent_axis(dim))))


def _joined(function: Callable[..., Tensor]) -> Rule:
    """``torch.stack`` or ``torch.cat``."""

    def rule(tensors: Sequence[Any], dim: int = 0) -> Dual:
        count = next(x.tangent.shape[0] for x in tensors if isinstance(x, Dual))
        value = function([value_of(x) for x in tensors], dim)
        tangents = [x.tangent if isinstance(x, Dual) else x.new_zeros(()).expand(count, *x.shape) for x in tensors]
        return Dual(value, function(tangents, tangent_axis(dim)))

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
    return Dual(value, fit_tangent(x.tangent, value))


def _squeeze(x: Dual, *dim: Any) -> Dual:
    return _reshape(x, x.primal.squeeze(*dim).shape)


def _unsqueeze(x: Dual, dim: int) -> Dual:
    return Dual(x.primal.unsqueeze(dim), x.tangent.unsqueeze(tangent_axis(dim)))


def _swap(x: Dual, dim0: int, dim1: int) -> Dual:
    return Dual(x.primal.transpose(dim0, dim1), x.tangent.transpose(tangent_axis(dim0), tangent_axis(dim1)))


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
    return Dual(
        torch.roll(x.primal, shifts, dims), torch.roll(x.tangent, shifts, [tangent_axis(place) for place in places])
    )


def _cast(x: Dual, *args: Any, **kwargs: Any) -> Dual:
    return Dual(x.primal.to(*args, **kwargs), x.tangent.to(*args, **kwargs))


def _constant(function: Callable[..., Any]) -> Rule:
    """A function that PyTorch gives no derivative."""
    return lambda *args, **kwargs: function(*map(value_of, args), **kwargs)


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
    "abs": absolute,
    "add": add,
    "sub": subtract,
    "mul": multiply,
    "div": divide,
    "pow": power,
    "matmul": matmul,
    "where": _where,
    "maximum": _larger,
    "minimum": _smaller,
    "clamp": _clamp,
    "unbind": unbind,
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
    "clone": apply_linear(torch.clone),
    "conj": apply_linear(torch.conj),
    # A solver wants the derivative of the function, wherever its author cut the graph for training.
    "detach": apply_linear(torch.detach),
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

_silu = _unary(torch.nn.functional.silu, lambda x, y: y + torch.sigmoid(x) * (1 - y))

_RULES: dict[Any, Rule] = {
    **{getattr(torch, name): rule for name, rule in _NAMED.items()},
    **{getattr(Tensor, name): rule for name, rule in _METHODS.items() if hasattr(Tensor, name)},
    torch.stack: _joined(torch.stack),
    torch.cat: _joined(torch.cat),
    torch.concat: _joined(torch.cat),
    torch.einsum: _einsum,
    torch.real: apply_linear(torch.real),
    torch.imag: apply_linear(torch.imag),
    Tensor.__rsub__: lambda a, b: subtract(b, a),
    Tensor.__rtruediv__: lambda a, b: divide(b, a),
    Tensor.__rpow__: lambda a, b: power(b, a),
    Tensor.__rmatmul__: lambda a, b: matmul(b, a),
    torch.nn.functional.linear: _linear,
    torch.nn.functional.tanh: _NAMED["tanh"],
    torch.nn.functional.sigmoid: _NAMED["sigmoid"],
    torch.nn.functional.relu: _NAMED["relu"],
    torch.nn.functional.silu: _silu,
    torch.nn.functional.softplus: _softplus,
    torch.concatenate: _joined(torch.cat),
    torch.multiply: multiply,
    torch.subtract: subtract,
    torch.rsub: lambda a, b: subtract(b, a),
    torch.divide: divide,
    Tensor.__pow__: power,
}

METHODS.update(_METHODS)
RULES.update(_RULES)
