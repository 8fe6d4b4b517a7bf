"""Tensors that are the same in every solve, made once in a process."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["kept", "ones"]

P = ParamSpec("P")
T = TypeVar("T")


def kept(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Keep what a function returns, as `functools.lru_cache` does, in tensors that may be used anywhere.

    A tensor that is made in inference mode could not be used outside of it.

    Args:
        maxsize: how many results are kept.
    """

    def wrap(make: Callable[P, T]) -> Callable[P, T]:
        @functools.lru_cache(maxsize)
        def made(*args: P.args, **kwargs: P.kwargs) -> T:
            with torch.inference_mode(False):
                return make(*args, **kwargs)

        @functools.wraps(make)
        def keep(*args: P.args, **kwargs: P.kwargs) -> T:
            # A compiler would look through the cache, and warn of it.
            return make(*args, **kwargs) if torch.compiler.is_compiling() else made(*args, **kwargs)  # type: ignore[arg-type]

        return keep

    return wrap


@kept(maxsize=64)
def ones(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Ones, shape (size,)."""
    return torch.ones(size, dtype=dtype, device=device)
