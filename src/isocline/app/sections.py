"""Plain sections of a configuration: reading them at a path, and comparing their keys with what a callable takes."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

__all__ = ["section_of", "unknown_arguments"]


def section_of(config: Any, *path: str) -> Mapping[str, Any]:
    """Return the section at a path of keys; an empty one where there is none."""
    for part in path:
        config = config.get(part) if isinstance(config, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def unknown_arguments(target: Callable[..., Any], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the names that a callable takes no argument for, each with what is wrong.

    Raises:
        TypeError: if its signature cannot be told.
        ValueError: likewise.
    """
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in names:
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(parameters) or 'nothing'}"
            yield name, f"{target.__name__} has no such argument; {hint}"
