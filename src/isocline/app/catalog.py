"""What can be chosen: every option of every configuration group, with the one line that its file begins with.

There is no registry: the groups that Hydra composes are the list, so that an option cannot be listed without being
usable, nor usable without being listed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["GROUPS", "Entry", "describe", "entries", "targets"]

GROUPS: dict[str, tuple[str, ...]] = {
    "datasets": ("data/images", "data/text", "data/points"),
    "processes": ("process",),
    "couplings": ("coupling",),
    "kernels": ("kernel",),
    "objectives": ("objective",),
    "networks": ("network",),
    "autoencoders": ("autoencoder",),
    "optimizers": ("optimizer",),
    "averages": ("ema",),
    "solvers": ("solver",),
    "controllers": ("controller",),
    "gradients": ("gradient",),
    "samplers": ("sampler",),
    "guidance": ("guidance",),
    "distillers": ("distillation",),
    "plugins": ("plugin",),
    "metrics": ("metrics",),
    "traces": ("trace",),
    "models": ("model", "density"),
    "trainers": ("trainer",),
    "experiments": ("experiment",),
    "profiles": ("profile",),
}
"""Kind, as users say it, to the groups under ``conf/`` that hold it."""


@dataclass(frozen=True)
class Entry:
    """One option of a kind.

    Attributes:
        name: what to write after ``group=``.
        group: folder under ``conf/``, which is also the override's key where the defaults list uses it as such.
        description: the file's first comment line.
        path: the file.
    """

    name: str
    group: str
    description: str
    path: Path


def describe(path: Path) -> str:
    """Return the first comment line of a configuration file, Hydra's ``@package`` line apart.

    Raises:
        ValueError: if the file does not begin with one.
    """
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package") or not line.strip():
            continue
        if line.startswith("# "):
            return line[2:].strip()
        break
    raise ValueError(f"{path} does not begin with a comment line; begin it with `# one line of description`")


def entries(kind: str, conf: Path) -> list[Entry]:
    """List the options of a kind, by group and name.

    Args:
        kind: a key of `GROUPS`.
        conf: the configuration folder.

    Raises:
        ValueError: if the kind is unknown.
        FileNotFoundError: if there is no configuration folder.
    """
    if kind not in GROUPS:
        near = difflib.get_close_matches(kind, GROUPS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no kind {kind!r}: {hint}kinds are {', '.join(GROUPS)}")
    if not conf.is_dir():
        raise FileNotFoundError(f"no folder {conf}; run isocline in the project's directory")
    return [
        Entry(path.stem, group, describe(path), path)
        for group in GROUPS[kind]
        for path in sorted((conf / group).glob("*.yaml"))
    ]


def targets(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield ``(key path, dotted name)`` for every ``_target_`` below a plain configuration node."""
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield key, node["_target_"]
        for name, child in node.items():
            yield from targets(child, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from targets(child, f"{key}[{index}]")
