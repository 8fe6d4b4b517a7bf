"""Whether regularisers suit the network, the objective and the average beside which they stand, before training."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from isocline.app.fitting import locate
from isocline.app.regularisers import average_misfit, built
from isocline.app.sections import section_of
from isocline.app.students import network_of, root_model

__all__ = ["findings"]

_SIDES = ("models", "students", "densities", "autoencoders")


def findings(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the keys of regularisers that do not suit their network, objective or average, and why.

    Networks are built on the meta device. Parts that cannot be built are passed over: they are reported by their keys.
    """
    for side in _SIDES:
        for name in section_of(config, side):
            section = section_of(config, side, name)
            key, chosen = f"{side}.{name}.regularisers", section_of(section, "regularisers")
            bare = [part for part, node in chosen.items() if not section_of(chosen, part).get("_target_")]
            for part in bare:
                yield f"{key}.{part}", f"names no regulariser; choose one with `+regulariser@{key}.{part}=…`"
            if chosen and not bare:
                yield from _unsuited(key, side, name, section, config)


def _unsuited(
    key: str, side: str, name: str, section: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    import torch
    from hydra.errors import InstantiationException

    from isocline.training.regularisation.regularised import Regularised, RegulariserError

    try:
        regularisers = built(section)
        with torch.device("meta"):
            network, objective = _parts(side, name, section, config)
    except (InstantiationException, ValueError, TypeError, RuntimeError):
        return
    if reason := average_misfit(regularisers, section_of(section, "ema")):
        yield key, reason
    try:
        with contextlib.suppress(NotImplementedError, RuntimeError):  # what the meta device cannot do
            Regularised(objective, regularisers).fit_network(network)
    except RegulariserError as error:
        yield f"{key}.{error.name}", error.reason


def _parts(side: str, name: str, section: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Build network and objective; a student's teacher, which no regulariser looks at, is a placeholder."""
    from hydra.utils import instantiate
    from torch import nn

    student = side == "students"
    process = section_of(config, "models", root_model(config, name), "process") if student else section.get("process")
    network = network_of(config, name) if student else section_of(section, "network")
    node = section_of(section, "objective")
    late = {"process": instantiate(dict(process), _convert_="all")} if process else {}
    wanted = inspect.signature(locate(node["_target_"])).parameters
    late = {key: part for key, part in {**late, "teacher": nn.Identity()}.items() if key in wanted}
    return instantiate(dict(network), _convert_="all"), instantiate(dict(node), **late, _convert_="all")
