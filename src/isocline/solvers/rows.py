"""Row operations on nested structures: keep some samples of a batch, or merge two versions of one.

A structure is a tensor, None, a tuple or NamedTuple, a list, a dictionary, or any nesting of these. Tensors of rank at
least one lead with the batch axis; everything else is shared by all samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isocline.shapes import expand_like

__all__ = ["batch_size", "map_tensors", "merge_rows", "select_rows"]


def map_tensors(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply a function to the batched tensors of one or several structures of the same form."""
    if isinstance(tree, Tensor):
        return function(tree, *others) if tree.ndim else tree
    if tree is None:
        return None
    if isinstance(tree, (tuple, list)):
        items = [map_tensors(function, *group) for group in zip(tree, *others, strict=True)]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, dict):
        return {key: map_tensors(function, value, *(other[key] for other in others)) for key, value in tree.items()}
    return tree


def select_rows(tree: Any, rows: Tensor) -> Any:
    """Keep the samples ``rows`` (int64, shape (n,)) of every batched tensor."""
    return map_tensors(lambda value: value.index_select(0, rows), tree)


def merge_rows(mask: Tensor, new: Any, old: Any) -> Any:
    """Take the samples of ``new`` where ``mask`` (bool, shape (B,)) is set, those of ``old`` elsewhere."""
    columns = {1: mask}

    def merge(value: Tensor, other: Tensor) -> Tensor:
        column = columns.get(value.ndim)
        if column is None:
            column = columns[value.ndim] = expand_like(mask, value)
        return torch.where(column, value, other)

    return map_tensors(merge, new, old)


def batch_size(tree: Any) -> set[int]:
    """The leading sizes of all batched tensors in a structure."""
    sizes: set[int] = set()

    def note(value: Tensor) -> Tensor:
        sizes.add(value.shape[0])
        return value

    map_tensors(note, tree)
    return sizes
