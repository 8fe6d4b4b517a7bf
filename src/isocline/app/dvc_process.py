"""``python -m isocline.app.dvc_process ARGS``: DVC, without parsing the same text again and again.

After each stage DVC parses the whole of dvc.lock and prints it again, with a parser in Python that would keep comments.
With seventy stages that is 1.7 s of a core a stage, more than many stages take. Here only the stage's own block is
parsed and printed, by DVC's own functions, and put in its place: the bytes are the same. A file in any other layout
than the one that DVC writes is left to DVC. And params.yaml, which it reads three times a stage, is parsed once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dvc import dvcfile
from dvc.utils.serialize import _yaml, dumps_yaml, loads_yaml, modify_yaml, parse_yaml

__all__ = ["LockedStages", "main", "modify_lock", "parse_once", "split_lock"]

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


def parse_once(text: str, path: str, typ: str = "safe") -> Any:
    """Stand in for DVC's ``parse_yaml``: a text that was parsed before is not parsed again.

    Args:
        text: YAML.
        path: named in errors.
        typ: ``safe`` for plain containers; others are left to DVC.

    Returns:
        Containers of the caller's own, which may be changed.
    """
    return pickle.loads(_parsed(text, path)) if typ == "safe" else parse_yaml(text, path, typ)


@functools.lru_cache(maxsize=4)
def _parsed(text: str, path: str) -> bytes:
    return pickle.dumps(parse_yaml(text, path))


def main(argv: list[str]) -> int:
    """Run ``dvc argv`` in this process and return its exit code."""
    from dvc.cli import main as dvc_main

    for module, name, ours in ((dvcfile, "modify_yaml", modify_lock), (_yaml, "parse_yaml", parse_once)):
        if hasattr(module, name):  # not an interface: a release that moves it is only slower
            setattr(module, name, ours)
    return int(dvc_main(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
