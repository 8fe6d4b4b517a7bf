"""Students by their configuration: who taught whom, and which network follows from it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["merged_network", "network_of", "root_model", "teachers", "unknown_keys"]


def teachers(config: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield a student's teacher, that one's teacher, and so on; a model has none.

    Args:
        config: the composition.
        name: of a model or a student.

    Raises:
        ValueError: if the chain comes back to where it was.
    """
    seen, models = [name], _section(config, "models")
    while name not in models and isinstance(teacher := _section(config, "students", name).get("teacher"), str):
        if teacher in seen:
            raise ValueError(f"{' is taught by '.join([*seen, teacher])}; a chain of teachers must end at a model")
        seen.append(teacher)
        yield teacher
        name = teacher


def root_model(config: Mapping[str, Any], name: str) -> str:
    """Return the model at which a chain of teachers ends: its process and modality are those of all its students."""
    return [name, *teachers(config, name)][-1]


def network_of(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the network section of a model, or of a student with all that it inherits."""
    *chain, root = [name, *teachers(config, name)]
    network = dict(_section(config, "models", root, "network"))
    for student in reversed(chain):
        network = merged_network(network, _section(config, "students", student, "network"))
    return network


def merged_network(network: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``network`` with ``changes`` laid over it, sections within sections key by key."""
    merged = dict(network)
    for key, value in changes.items():
        old = merged.get(key)
        # Another class takes other arguments: its section replaces the old one.
        if isinstance(old, Mapping) and isinstance(value, Mapping) and "_target_" not in value:
            merged[key] = merged_network(old, value)
        else:
            merged[key] = value
    return merged


def unknown_keys(target: Callable[..., Any], changes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the keys of ``changes`` that a network's class takes no argument for, each with what is wrong."""
    parameters = inspect.signature(target).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in changes:
        if name not in parameters and name != "_target_":
            near = difflib.get_close_matches(name, parameters, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(parameters)}"
            yield name, f"{target.__name__} has no such argument; {hint}"


def _section(config: Any, *path: str) -> Mapping[str, Any]:
    for part in path:
        config = config.get(part) if isinstance(config, Mapping) else None
    return config if isinstance(config, Mapping) else {}
