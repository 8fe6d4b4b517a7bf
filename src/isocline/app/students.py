"""Students by their configuration: who taught whom, and which network follows from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from isocline.app.sections import section_of

__all__ = ["merged_network", "network_of", "root_model", "teachers"]


def teachers(config: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yield a student's teacher, that one's teacher, and so on; a model has none.

    Args:
        config: the composition.
        name: of a model or a student.

    Raises:
        ValueError: if the chain comes back to where it was.
    """
    seen, models = [name], section_of(config, "models")
    while name not in models and isinstance(teacher := section_of(config, "students", name).get("teacher"), str):
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
    network = dict(section_of(config, "models", root, "network"))
    for student in reversed(chain):
        network = merged_network(network, section_of(config, "students", student, "network"))
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
