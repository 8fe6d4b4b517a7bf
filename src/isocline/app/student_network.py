"""The network of a student before its first step: its teacher's, with changes, from its teacher's weights or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import get_object
from torch import nn

from isocline.app.artifacts import LoadedModel, build
from isocline.app.sections import unknown_arguments
from isocline.app.students import merged_network
from isocline.randomness import derive_seed

__all__ = ["start_network"]


def start_network(teacher: LoadedModel, section: Mapping[str, Any], key: str, seed: int) -> tuple[nn.Module, Any]:
    """Build a student's network.

    With ``start: teacher`` every weight that fits by name and shape is the teacher's; the others, and with ``start:
    scratch`` all of them, keep their initialisation, which the seed determines.

    Args:
        teacher: the loaded teacher.
        section: the student's section of params.yaml; its ``network`` is laid over the teacher's.
        key: where the section stands, for messages.
        seed: the student's.

    Returns:
        The network, in training mode, and the section that rebuilds it.

    Raises:
        ValueError: if the network takes no such key, ``start`` is neither, or no weight of the teacher fits.
    """
    changes, start = section["network"] or {}, section["start"]
    if start not in ("teacher", "scratch"):
        raise ValueError(f"{key}.start: {start!r} is not one of teacher, scratch")
    merged = merged_network(teacher.config["network"], changes)
    added = [name for name in changes if name != "_target_"]
    for name, reason in unknown_arguments(get_object(merged["_target_"]), added):
        raise ValueError(f"{key}.network.{name}: {reason}")
    torch.manual_seed(derive_seed(seed, "weights"))
    network: nn.Module = build(merged).requires_grad_(True).train()
    if start == "teacher":
        own, given = network.state_dict(), teacher.network.state_dict()
        fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
        if not fitting:
            raise ValueError(f"{key}.start: no weight of {teacher.name} fits {key}.network; set {key}.start=scratch")
        network.load_state_dict(fitting, strict=False)
    return network, merged
