"""The regularisers of a model's section: built for training, and recorded beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isocline.training.regularisation.base import AbstractRegulariser

__all__ = ["average_misfit", "built", "recorded"]


def built(section: Mapping[str, Any]) -> dict[str, AbstractRegulariser]:
    """Build the regularisers of a model's section, by name, in their order."""
    from hydra.utils import instantiate

    chosen = section.get("regularisers") or {}
    return {name: instantiate(dict(node), _convert_="all") for name, node in chosen.items()}


def recorded(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a model's artefact says of its regularisers: nothing where there were none."""
    chosen = section.get("regularisers")
    return {"regularisers": chosen} if chosen else {}


def average_misfit(regularisers: Mapping[str, AbstractRegulariser], ema: Mapping[str, Any]) -> str | None:
    """Tell why the averages that a section keeps would not fit its network; None if they do."""
    changed = [name for name, regulariser in regularisers.items() if regulariser.reparametrises]
    if not changed or not str(ema.get("_target_")).endswith("PowerFunctionAverage"):
        return None
    return (
        f"regularisers.{changed[0]} trains other parameters than the network is built with, and the averages that "
        "ema: power keeps are of these; take the classic average, or lipschitz_cap or parameter_smoothness instead"
    )
