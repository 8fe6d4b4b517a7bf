"""Where a result came from: digests of inputs and outputs as DVC computes them, the git commit, final metrics."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "GitState",
    "digest",
    "digest_tags",
    "digests",
    "document_metrics",
    "fingerprint",
    "flatten",
    "git_state",
    "plain",
]

_BLOCK = 2**20
_IGNORED = ("__pycache__",)

GitState = dict[str, str]


def digest(path: Path) -> str | None:
    """MD5 of a file, or of a directory's listing, exactly as DVC writes it to ``dvc.lock``.

    A directory's digest is the MD5 of the JSON list of ``{"md5", "relpath"}`` sorted by path, with ``.dir``
    appended. Bytecode is left out, as ``.dvcignore`` does.

    Returns:
        The digest, or None if there is no such path.
    """
    if path.is_file():
        return _file_digest(path)
    if not path.is_dir():
        return None
    entries = [{"md5": _file_digest(file), "relpath": name} for name, file in _files(path)]
    listing = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _file_digest(path: Path) -> str:
    state = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if path.is_file() and path.suffix != ".pyc" and not set(relative.parts) & set(_IGNORED):
            yield relative.as_posix(), path


def digests(paths: Iterable[str], root: Path | None = None) -> dict[str, str]:
    """Digests by path, of those paths that exist."""
    root = root or Path()
    found = {path: digest(root / path) for path in paths}
    return {path: value for path, value in found.items() if value is not None}


def digest_tags(deps: Mapping[str, str], outs: Mapping[str, str]) -> dict[str, str]:
    """What a run read and wrote, by which others find it: ``dep.<path>`` and ``out.<path>`` to MD5."""
    return {
        **{f"dep.{path}": md5 for path, md5 in deps.items()},
        **{f"out.{path}": md5 for path, md5 in outs.items()},
    }


def fingerprint(stage: str, params: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """What an interrupted stage is recognised by: a hash of its name, parameters and input digests.

    A checkpoint is taken up again only under the same fingerprint, so a stale one never is.
    """
    content = json.dumps([stage, params, inputs], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings and lists into dotted names: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        elif isinstance(value, list | tuple) and any(isinstance(v, Mapping) for v in value):
            flat.update(flatten({str(i): v for i, v in enumerate(value)}, f"{name}."))
        else:
            flat[name] = value
    return flat


def plain(value: Any) -> str:
    """A parameter as the tracker stores it: strings as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def document_metrics(document: Mapping[str, Any]) -> list[tuple[str, float, int | None]]:
    """Read a metrics file as tracked metrics.

    A component of the path that is a whole number is the step (the NFE of a curve), a last component ``mean`` is
    left out: ``{"frechet": {"4": {"mean": 2.0, "sd": 0.1}}}`` is ``frechet`` = 2.0 and ``frechet/sd`` = 0.1, both at
    step 4. Strings, lists, None and non-finite numbers are no metrics.

    Returns:
        Triples of name, value and step (None without one).
    """
    found: list[tuple[str, float, int | None]] = []

    def walk(node: Any, names: tuple[str, ...], step: int | None) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                whole = str(key).isdecimal()
                walk(value, names if whole else (*names, str(key)), int(key) if whole else step)
        elif isinstance(node, int | float) and not isinstance(node, bool) and abs(node) < float("inf"):
            short = names[:-1] if len(names) > 1 and names[-1] == "mean" else names
            found.append(("/".join(short), float(node), step))

    walk(document, (), None)
    return found


def git_state(root: Path | None = None) -> GitState:
    """The commit and whether the tree differs from it, as tags; empty outside a git repository."""
    commit = _git(["rev-parse", "HEAD"], root)
    if commit is None:
        return {}
    status = _git(["status", "--porcelain", "--untracked-files=no"], root)
    return {"mlflow.source.git.commit": commit, "git.dirty": "true" if status else "false"}


def _git(arguments: list[str], root: Path | None) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
