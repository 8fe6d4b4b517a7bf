"""What a study leaves behind for its chapter: a metrics document, tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from isocline.report.reader import Reader

__all__ = ["KINDS", "Kind", "Study", "read_studies"]


class Kind(NamedTuple):
    """Where the studies of a kind are.

    Attributes:
        prefix: of the metrics file: ``metrics/<prefix>-<name>.json``, or ``metrics/<prefix>.json`` of a lone study.
        folder: holds a folder per study, or the files of a lone one.
        names: dotted key of params.yaml that names the studies; empty for a lone one.
    """

    prefix: str
    folder: str
    names: str = ""


KINDS: Mapping[str, Kind] = {
    "depth": Kind("depth", "data/depth", "depth.variants"),
    "stability": Kind("stability", "data/stability", "matrix.stability"),
    "dynamics": Kind("analyse", "data/analyses", "matrix.analysis"),
    "optimisation": Kind("optimisation", "data/optimisation"),
}


@dataclass(frozen=True)
class Study:
    """The files of one study.

    Attributes:
        name: of the model or variant that was studied; of the kind for a lone study.
        document: content of its metrics file.
        tables: rows of text by column, by the CSV file's stem.
        pictures: bytes by the PNG file's stem.
    """

    name: str
    document: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, tuple[Mapping[str, str], ...]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    def column(self, table: str, name: str) -> tuple[float, ...]:
        """One column of a table as numbers; NaN where a cell is blank.

        Raises:
            ValueError: if a cell is neither blank nor a number.
        """
        return tuple(float(row.get(name) or "nan") for row in self.tables.get(table, ()))


def read_studies(reader: Reader, params: Mapping[str, Any]) -> dict[str, dict[str, Study]]:
    """Read the studies that params.yaml names; one that has not run is left out."""
    found = {kind: _of_kind(reader, kind, where, params) for kind, where in KINDS.items()}
    return {kind: studies for kind, studies in found.items() if studies}


def _of_kind(reader: Reader, kind: str, where: Kind, params: Mapping[str, Any]) -> dict[str, Study]:
    if not where.names:
        studies = {kind: _read(reader, kind, f"metrics/{where.prefix}.json", where.folder)}
    else:
        named: Any = params
        for key in where.names.split("."):
            named = named.get(key) if isinstance(named, Mapping) else None
        studies = {
            name: _read(reader, name, f"metrics/{where.prefix}-{name}.json", f"{where.folder}/{name}")
            for name in named or {}
        }
    return {name: study for name, study in studies.items() if study.document}


def _read(reader: Reader, name: str, metrics: str, folder: str) -> Study:
    def files(suffix: str) -> list[Path]:
        return sorted((reader.root / folder).glob(f"*{suffix}"))

    return Study(
        name,
        reader.json(metrics),
        {path.stem: reader.rows(f"{folder}/{path.name}") for path in files(".csv")},
        {path.stem: reader.bytes(f"{folder}/{path.name}") for path in files(".png")},
    )
