"""Labels and guidance that ``isocline sample`` asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from isocline.app.errors import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from isocline.app.generate import ImageRequest

__all__ = ["guided", "labels"]


def labels(name: str, classes: int, request: ImageRequest) -> Tensor | None:
    """Return the images' classes ``(B,)``: the one that is asked for, else all in turn; None without classes.

    Raises:
        ValueError: if there is no such class, or the model knows none.
    """
    import torch

    if not classes:
        asked = next(
            (o for o, v in (("--class", request.label), ("--guidance", request.guidance)) if v is not None), ""
        )
        if asked:
            raise ValueError(
                f"{asked}: {name} is not class-conditional; train one, `isocline compose experiment=conditional`"
            )
        return None
    if request.label is None:
        return torch.arange(request.count) % classes
    if not 0 <= request.label < classes:
        raise ValueError(f"--class {request.label}: {name} knows the classes 0 to {classes - 1}")
    return torch.full((request.count,), request.label)


def guided(sampler: Any, request: ImageRequest, root: Path) -> Any:
    """Return the sampler with the guidance that is asked for instead of its own, if any.

    Raises:
        ValueError: if there is no such guidance, or it cannot be built.
        FileNotFoundError: if a model that it needs is missing.
    """
    from hydra.errors import InstantiationException

    from isocline.app.artifacts import build
    from isocline.app.catalog import find
    from isocline.samplers.latent import LatentSampler

    if request.guidance is None:
        if request.scale is not None:
            raise ValueError(f"--scale {request.scale} needs --guidance NAME (isocline list guidance)")
        return sampler
    entry = find("guidance", request.guidance, root / "conf")
    section = yaml.safe_load(entry.path.read_text(encoding="utf-8"))
    if request.scale is not None and not _rescale(section, request.scale):
        raise ValueError(f"--scale {request.scale}: {entry.path} has no key scale")
    try:
        guidance = build(section)
    except InstantiationException as error:
        raise ValueError(
            f"--guidance {entry.name} cannot be built ({one_line(error.__cause__ or error, 200)})"
        ) from error
    if isinstance(sampler, LatentSampler):
        return LatentSampler(_guide(sampler.sampler, guidance), sampler.decode)
    return _guide(sampler, guidance)


def _guide(sampler: Any, guidance: Any) -> Any:
    from isocline.samplers.guided import GuidedSampler

    return GuidedSampler(sampler.sampler if isinstance(sampler, GuidedSampler) else sampler, guidance)


def _rescale(section: dict[str, Any], scale: float) -> bool:
    """Set the scale of a guidance or of the one that it limits; tell whether there is one."""
    if "scale" in section:
        section["scale"] = scale
        return True
    return any(_rescale(child, scale) for child in section.values() if isinstance(child, dict))
