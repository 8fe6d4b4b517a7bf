"""dvc.lock read and written one stage's block at a time, to the bytes that DVC writes.

After each stage DVC parses the whole of dvc.lock and prints it again, with a parser in Python that would keep comments.
With seventy stages that is 1.7 s of a core a stage, more than many stages take. Here only the stage's own block is
parsed and printed, by DVC's own functions, and put in its place. A file in any other layout than the one that DVC
writes is left to DVC.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dvc.utils.serialize import dumps_yaml, loads_yaml, modify_yaml

from isocline.tracking.spool import write_atomically

__all__ = ["HEAD", "LOCK", "LockedStages", "arrange", "locked_names", "modify_lock", "split_lock"]

LOCK = "dvc.lock"
HEAD = "schema: '2.0'\nstages:\n"
_STAGE = re.compile(r"  ([\w@.-]+):\n")
_SHARED = re.compile(r"(?:^|\s)[&*]id\d", re.MULTILINE)  # an anchor may be referred to from another stage's block


def split_lock(text: str) -> dict[str, str] | None:
    """Cut the text of dvc.lock into one block a stage, in order.

    Returns:
        Name to block, first line ``  name:`` included; None for another layout than DVC's, to be left to DVC.
    """
    if not text.startswith(HEAD) or not text.endswith("\n") or _SHARED.search(text):
        return None
    first, *cut = re.split(r"^(?=  \S)", text.removeprefix(HEAD), flags=re.MULTILINE)
    blocks = {match[1]: block for block in cut if (match := _STAGE.match(block))}
    plain = all(line.startswith("    ") or not line for block in cut for line in block.splitlines()[1:])
    if first or not plain or len(blocks) != len(cut):
        return None  # a key at another depth, a remark, a quoted name or a name twice
    return blocks


class LockedStages(dict[str, Any]):
    """The stages of dvc.lock, each parsed when it is asked for and printed when it was changed.

    Args:
        blocks: the text of each stage.
    """

    def __init__(self, blocks: Mapping[str, str]) -> None:
        super().__init__()
        self._blocks = dict(blocks)

    def get(self, key: str, default: Any = None) -> Any:
        """Return a stage's entry."""
        if key not in self and key in self._blocks:
            return loads_yaml(self._blocks[key], typ="rt")[key]
        return super().get(key, default)

    def text(self) -> str:
        """Return the file's new text: changed blocks in their places, new ones at the end."""
        return HEAD + "".join({**self._blocks, **{name: self._printed(name) for name in self}}.values())

    def _printed(self, name: str) -> str:
        return str(dumps_yaml({"stages": {name: self[name]}})).removeprefix("stages:\n")


@contextlib.contextmanager
def modify_lock(path: str | os.PathLike[str], fs: Any = None) -> Iterator[Any]:
    """Stand in for DVC's ``modify_yaml``: hand out a file's content and write what became of it.

    Args:
        path: of the file; only dvc.lock is treated differently.
        fs: DVC's file system.

    Yields:
        A mapping to be changed in place.
    """
    file = Path(path)
    blocks = split_lock(file.read_text("utf-8")) if file.name == LOCK and file.exists() else None
    if not blocks:
        with modify_yaml(path, fs=fs) as data:
            yield data
        return
    stages = LockedStages(blocks)
    content = {"schema": "2.0", "stages": stages}
    yield content
    more = {key: value for key, value in content.items() if key not in ("schema", "stages")}
    file.write_text(stages.text() + (str(dumps_yaml(more)) if more else ""), "utf-8")


def locked_names(path: Path) -> list[str]:
    """Names of the stages in a dvc.lock in order, empty for none and for another layout than DVC's."""
    return list(split_lock(path.read_text("utf-8")) or ()) if path.exists() else []


def arrange(path: Path, before: Collection[str], plan: Sequence[str]) -> None:
    """Put the stages that are new in dvc.lock in the order in which a run of one after another would have added them.

    Args:
        path: of dvc.lock; a missing one and another layout than DVC's are left alone.
        before: names that were in it before the run: they keep their places.
        plan: names in the order of a run of one after another.
    """
    blocks = split_lock(path.read_text("utf-8")) if path.exists() else None
    if not blocks:
        return
    place, known = {name: number for number, name in enumerate(plan)}, set(before)
    old = [name for name in blocks if name in known]
    new = sorted((name for name in blocks if name not in known), key=lambda name: place.get(name, len(place)))
    if list(blocks) != [*old, *new]:
        write_atomically(path, HEAD + "".join(blocks[name] for name in [*old, *new]))
