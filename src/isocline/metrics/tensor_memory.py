"""Bytes of tensors alive: what a computation keeps and what it needs at most, the same on every machine."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["TensorMemory"]


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of the storages that operations make while it is entered, until they are freed.

    A count, not a measurement: scratch space inside an operation and the allocator's rounding are not in it. Tensors
    that were there before are not either. The backward pass counts if it runs while the mode is entered.

    Attributes:
        alive: bytes alive now.
        most: bytes alive at the same time at most.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.most = 0
        self._known: dict[int, weakref.ref[UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and take note of what it made."""
        before = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in before:
                    self._note(storage)
        return result

    def _note(self, storage: UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = weakref.ref(storage, functools.partial(self._forget, key, size))
        self.alive += size
        self.most = max(self.most, self.alive)

    def _forget(self, key: int, size: int, reference: weakref.ref[UntypedStorage]) -> None:
        del self._known[key]
        self.alive -= size
