"""What can be chosen: every option of every configuration group, with the one line that its file begins with.

There is no registry: the groups that Hydra composes are the list, so that an option cannot be listed without being
usable, nor usable without being listed. Names are free of case and punctuation, and a description's title is a name as
well: ``DPM++ 2M`` and ``DPM-Solver++(2M)`` are ``dpmpp_2m``.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["GROUPS", "Entry", "describe", "entries", "find", "in_group", "like", "targets"]

GROUPS: dict[str, tuple[str, ...]] = {
    "datasets": ("data/images", "data/text", "data/points"),
    "processes": ("process",),
    "couplings": ("coupling",),
    "kernels": ("kernel",),
    "objectives": ("objective",),
    "regularisers": ("regulariser",),
    "networks": ("network",),
    "autoencoders": ("autoencoder",),
    "optimizers": ("optimizer",),
    "averages": ("ema",),
    "solvers": ("solver",),
    "controllers": ("controller",),
    "gradients": ("gradient",),
    "samplers": ("sampler",),
    "guidance": ("guidance",),
    "pairs": ("pairs",),
    "distillers": ("distillation",),
    "adversaries": ("adversary",),
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

    @property
    def title(self) -> str:
        """What the description begins with, up to a colon: the article's name where there is one."""
        return self.description.partition(":")[0]


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
    kind = next((known for known in GROUPS if _bare(known) == _bare(kind)), kind)
    if kind not in GROUPS:
        raise ValueError(_unknown(f"no kind {kind!r}", kind, GROUPS))
    if not conf.is_dir():
        raise FileNotFoundError(f"no folder {conf}; run isocline in the project's directory")
    return [entry for group in GROUPS[kind] for entry in in_group(group, conf)]


def in_group(group: str, conf: Path) -> list[Entry]:
    """List the options of one configuration group, by name."""
    return [Entry(path.stem, group, describe(path), path) for path in sorted((conf / group).glob("*.yaml"))]


def find(kind: str, name: str, conf: Path) -> Entry:
    """Return the option of a kind by its name or its title, whatever their case and punctuation.

    Args:
        kind: a key of `GROUPS`.
        name: the file's stem, with ``group=`` before it where groups share a stem, or what its description begins with.
        conf: the configuration folder.

    Raises:
        ValueError: if the kind is unknown, or no option or several have that name.
        FileNotFoundError: if there is no configuration folder.
    """
    options = entries(kind, conf)
    same = like(name, options)
    if len(same) == 1:
        return same[0]
    stems = Counter(entry.name for entry in options)
    labels = [f"{entry.group}={entry.name}" if stems[entry.name] > 1 else entry.name for entry in options]
    if same:
        which = ", ".join(label for label, entry in zip(labels, options, strict=True) if entry in same)
        raise ValueError(f"{kind}: {name!r} may be any of {which}; write one of them")
    raise ValueError(_unknown(f"{kind}: no option {name!r}", name, labels))


def like(name: str, options: Sequence[Entry]) -> list[Entry]:
    """Return the options called ``name`` but for case and punctuation: by name, else by title.

    The same name letter by letter goes before. A plus may be a sign, *plus* or *p*: ``CFG++`` is ``cfg_plus_plus``.
    """
    exact = [entry for entry in options if name in (entry.name, f"{entry.group}={entry.name}")]
    bare = _bare(name)
    named = exact or [entry for entry in options if bare and bare == _bare(entry.name)]
    return named or [entry for entry in options if bare and bare == _bare(entry.title)]


def _bare(name: str) -> str:
    spelt = name.casefold().replace("+", "plus").replace("plus", "p")
    return "".join(letter for letter in spelt if letter.isalnum())


def _unknown(problem: str, name: str, names: Iterable[str]) -> str:
    bare = {_bare(other): other for other in names}
    near = [repr(bare[key]) for key in difflib.get_close_matches(_bare(name), bare, 3)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{problem}; {hint}there are {', '.join(bare.values()) or 'none'}"


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
