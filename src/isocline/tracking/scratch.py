"""What a finished stage leaves behind until dvc.lock records its outputs, so that a kill before that repeats nothing.

Beside the spools of ``.runs/<stage>/<fingerprint>`` lie the stage's checkpoints and, from its success on, a mark with
the digests of what it read and wrote. They go together, once DVC's entry for the stage holds the same digests.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from isocline.tracking.provenance import digest_tags
from isocline.tracking.spool import write_atomically
from isocline.tracking.yaml_text import load_yaml

__all__ = ["is_marked", "mark", "remove_scratch", "settle", "unmark"]

_MARK = "unrecorded.json"


def mark(directory: Path, made: Mapping[str, str]) -> None:
    """Note what a stage read and wrote (``dep.<path>``, ``out.<path>``: MD5), before it is called finished."""
    write_atomically(directory / _MARK, json.dumps(dict(made), indent=2) + "\n")


def is_marked(directory: Path) -> bool:
    """Whether a finished stage's results wait here to be recorded."""
    return (directory / _MARK).exists()


def unmark(directory: Path) -> None:
    """Forget that the stage was finished: it runs again."""
    (directory / _MARK).unlink(missing_ok=True)


def settle(directory: Path, recorded: Mapping[str, str] | None = None) -> bool:
    """Remove the scratch of a finished stage whose results are recorded; the caller holds the stage's lock.

    A stage without outputs, or outside a pipeline (no dvc.yaml), has nothing to wait for. Parameters are not compared:
    where they alone differ, the stage starts afresh, to the same result.

    Args:
        directory: ``.runs/<stage>/<fingerprint>``.
        recorded: the stage's digests in dvc.lock, as `mark` takes them; read from there if not given.

    Returns:
        Whether nothing waits to be recorded.
    """
    try:
        made = json.loads((directory / _MARK).read_text())
    except FileNotFoundError:
        return True
    except ValueError:  # torn by a power cut: start afresh
        made = {}
    project = directory.parents[2]
    if any(name.startswith("out.") for name in made) and (project / "dvc.yaml").exists():
        found = _locked(project, directory.parent.name) if recorded is None else recorded
        if not made.items() <= found.items():
            return False
    remove_scratch(directory)
    return True


def remove_scratch(directory: Path) -> None:
    """Remove everything but the spools, the mark last."""
    for path in sorted(directory.glob("*"), key=lambda path: path.name == _MARK):
        if not path.name.startswith("spool-"):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _locked(project: Path, stage: str) -> dict[str, str]:
    """A stage's digests in dvc.lock; empty without an entry, or while DVC writes the file."""
    try:
        entry = load_yaml((project / "dvc.lock").read_text())["stages"][stage]
        deps, outs = ({row["path"]: str(row["md5"]) for row in entry.get(key) or []} for key in ("deps", "outs"))
    except (FileNotFoundError, yaml.YAMLError, LookupError, TypeError, AttributeError):
        return {}
    return digest_tags(deps, outs)
