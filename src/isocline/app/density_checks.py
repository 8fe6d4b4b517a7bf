"""What the parts of the densities must agree on: point sets with networks, networks with objectives."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from isocline.app.sections import section_of

__all__ = ["Finding", "density_findings"]

_NEEDED_SPLITS = ("train", "test")


class Finding(NamedTuple):
    """A key and what is wrong with it."""

    key: str
    message: str


def density_findings(config: Mapping[str, Any], locate: Callable[[Any], Any]) -> Iterator[Finding]:
    """Yield what does not fit together among ``data.points`` and ``densities``.

    Args:
        config: the composition.
        locate: imports what a ``_target_`` names, or raises a ValueError.
    """
    points = section_of(config, "data", "points")
    for name, section in points.items():
        splits = section_of(section, "splits")
        for split in _NEEDED_SPLITS if splits else ():
            if split not in splits:
                yield Finding(f"data.points.{name}.splits.{split}", "is missing; every point set needs train and test")
    densities = section_of(config, "densities")
    for name, section in densities.items():
        if not isinstance(section, Mapping):
            continue
        for side in ("models", "students"):
            if name in section_of(config, side):
                clash = f"{side}.{name} has the same name and writes data/models/{name}; rename"
                yield Finding(f"densities.{name}", clash)
        yield from _density(f"densities.{name}", section, points, locate)


def _density(
    key: str, section: Mapping[str, Any], points: Mapping[str, Any], locate: Callable[[Any], Any]
) -> Iterator[Finding]:
    from isocline.networks.normalizing_flow import AbstractNormalizingFlow
    from isocline.objectives.maximum_likelihood import ContinuousMaximumLikelihood, MaximumLikelihood
    from isocline.objectives.speed_penalty import SpeedPenalty

    data, network = section.get("data"), section_of(section, "network")
    if isinstance(data, str) and data != "???" and data not in points:
        yield Finding(f"{key}.data", f"no point set {data!r}; data.points has {', '.join(points)}")
    wanted = section_of(points, str(data)).get("dim")
    if isinstance(wanted, int) and isinstance(network.get("dim"), int) and network["dim"] != wanted:
        cure = f"{network['dim']}, but data.points.{data}.dim is {wanted}; make them equal"
        yield Finding(f"{key}.network.dim", cure)
    kind, chosen = _class(network, locate), section_of(section, "objective")
    objective = _class(chosen, locate)
    if objective is SpeedPenalty:
        if kind is not None and issubclass(kind, AbstractNormalizingFlow):
            cure = f"SpeedPenalty needs paths, and {kind.__name__} has none; set objective@{key}.objective=likelihood"
            yield Finding(f"{key}.objective", cure)
            return
        objective = _class(section_of(chosen, "objective"), locate)
    if kind is None or objective is None:
        return
    if not issubclass(objective, MaximumLikelihood | ContinuousMaximumLikelihood):
        cure = "choose likelihood or continuous_likelihood"
        yield Finding(f"{key}.objective", f"{objective.__name__} is no likelihood of points; {cure}")
    elif issubclass(objective, MaximumLikelihood) != issubclass(kind, AbstractNormalizingFlow):
        right = "likelihood" if issubclass(kind, AbstractNormalizingFlow) else "continuous_likelihood"
        what = "an invertible network" if right == "likelihood" else "a field"
        cure = f"set objective@{key}.objective={right}"
        yield Finding(f"{key}.objective", f"{objective.__name__} does not read {kind.__name__}, {what}; {cure}")


def _class(node: Mapping[str, Any], locate: Callable[[Any], Any]) -> type | None:
    try:
        found = locate(node.get("_target_"))
    except ValueError:
        return None
    return found if inspect.isclass(found) else None
