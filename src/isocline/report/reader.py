"""Reads files below a folder; what cannot be read becomes a note for the page instead of an error."""

from __future__ import annotations

import csv
import json
import math
import struct
from pathlib import Path
from typing import Any

import yaml
from numpy.typing import NDArray
from safetensors import safe_open

__all__ = ["Reader"]


class Reader:
    """Reads files below a root; what cannot be read is noted by its relative path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.problems: list[str] = []

    def rows(self, path: str) -> tuple[dict[str, str], ...]:
        """A CSV as rows of text by column; empty if it is not there."""
        return tuple(self._attempt(path, _read_rows, ()))

    def bytes(self, path: str) -> bytes:
        """A file's bytes; empty if it is not there."""
        return bytes(self._attempt(path, Path.read_bytes, b""))

    def _attempt(self, path: str, read: Any, empty: Any) -> Any:
        file = self.root / path
        if not file.is_file():
            return empty
        try:
            return read(file)
        except Exception as error:  # any parser's error becomes a visible note on the page
            self.problems.append(f"{path} could not be read ({type(error).__name__})")
            return empty

    def json(self, path: str) -> dict[str, Any]:
        """A JSON object; empty if it is not there."""
        value = self._attempt(path, lambda file: json.loads(file.read_text("utf-8")), {})
        return value if isinstance(value, dict) else {}

    def yaml(self, path: str) -> dict[str, Any]:
        """A YAML mapping; empty if it is not there."""
        value = self._attempt(path, lambda file: yaml.safe_load(file.read_text("utf-8")), {})
        return value if isinstance(value, dict) else {}

    def columns(self, path: str) -> dict[str, tuple[float, ...]]:
        """A CSV as columns of floats; columns with a cell that is no number are left out."""
        return dict(self._attempt(path, _read_columns, {}))

    def tensors(self, path: str, limit: int | None = None) -> dict[str, NDArray[Any]]:
        """The tensors of a safetensors file, of each at most ``limit`` leading rows; empty if it is not there."""
        return dict(self._attempt(path, lambda file: _read_tensors(file, limit), {}))

    def parameter_count(self, path: str) -> int | None:
        """Number of weights in a safetensors file, or None if it is not there."""
        count = self._attempt(path, _count_parameters, None)
        return int(count) if count is not None else None


def _read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return [{name: cell or "" for name, cell in row.items()} for row in csv.DictReader(stream)]


def _read_columns(file: Path) -> dict[str, tuple[float, ...]]:
    rows = _read_rows(file)
    columns: dict[str, tuple[float, ...]] = {}
    for name in rows[0] if rows else ():
        cells = [row.get(name) for row in rows]
        try:
            columns[name] = tuple(float(cell) if cell else math.nan for cell in cells)
        except ValueError:
            continue
    return columns


def _read_tensors(file: Path, limit: int | None) -> dict[str, NDArray[Any]]:
    """All tensors of a safetensors file, of each at most `limit` leading rows."""
    with safe_open(str(file), framework="numpy") as archive:  # type: ignore[no-untyped-call]
        found = {}
        for name in sorted(archive.keys()):
            rows = archive.get_slice(name)
            size = rows.get_shape()[0] if rows.get_shape() else 0
            # A slice of a tensor without rows is refused, so a whole one is not asked for by slices.
            found[name] = archive.get_tensor(name) if limit is None or size <= limit else rows[:limit]
        return found


def _count_parameters(file: Path) -> int:
    """Number of weights in a safetensors file, from its header alone (8-byte length, then JSON)."""
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(min(length, 1 << 26)))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
