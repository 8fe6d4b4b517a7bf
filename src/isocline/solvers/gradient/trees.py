"""Tensors inside nested structures: listed, replaced, detached.

A structure is what `isocline.solvers.rows` allows; here tensors without axes count as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

__all__ = ["batched", "detach", "flatten", "replace", "replace_batched"]


def flatten(tree: Any) -> list[Tensor]:
    """All tensors, in order."""
    found: list[Tensor] = []

    def note(value: Tensor) -> Tensor:
        found.append(value)
        return value

    _map(note, tree)
    return found


def replace(tree: Any, tensors: Iterable[Tensor]) -> Any:
    """The same structure with other tensors, given in the order of `flatten`."""
    following = iter(tensors)
    return _map(lambda _: next(following), tree)


def detach(tree: Any) -> Any:
    """The same structure, its tensors detached."""
    return _map(Tensor.detach, tree)


def batched(tree: Any) -> list[Tensor]:
    """The tensors that lead with the batch and can carry a gradient, in order."""
    return [value for value in flatten(tree) if _is_batched(value)]


def replace_batched(tree: Any, tensors: Iterable[Tensor]) -> Any:
    """The same structure with other tensors in place of those that `batched` lists."""
    following: Iterator[Tensor] = iter(tensors)
    return _map(lambda value: next(following) if _is_batched(value) else value, tree)


def _is_batched(value: Tensor) -> bool:
    return value.ndim > 0 and (value.is_floating_point() or value.is_complex())


def _map(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple | list):
        items = [_map(function, item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, dict):
        return {key: _map(function, value) for key, value in tree.items()}
    return tree
