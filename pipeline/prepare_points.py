"""Prepare the point sets: draw or read each, split it, scale it by its training split, write it with a data card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from isocline.app.artifacts import build
from isocline.datasets.points import PointDataset
from isocline.datasets.splits import split_rows
from isocline.datasets.storage import write_json, write_tensors
from isocline.randomness import generator
from isocline.tracking.stage import StageRun

DIRECTORY = Path("data/points")


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Write ``data/points/<name>/{train,test}.safetensors`` and ``card.json`` for every set."""
    for name, section in params["data"]["points"].items():
        _prepare(run, name, section, params["seed"])


def _prepare(run: StageRun, key: str, section: Mapping[str, Any], seed: int) -> None:
    dataset: PointDataset = build(section["dataset"])
    raw = dataset.load(generator(seed, "points", key))
    rows = split_rows(len(raw), section["splits"], generator(seed, "split", "points", key))
    scale = dataset.fit(raw[rows["train"]])
    dim = scale.matrix.shape[1]
    if dim != section["dim"]:
        raise ValueError(f"data.points.{key}.dim = {section['dim']}, but {dataset.name} has {dim}; set it to {dim}")
    counts, digests = {}, {}
    for name, index in rows.items():
        file = f"{name}.safetensors"
        points = scale(raw[index]).to(torch.float32)
        digests[file] = write_tensors(DIRECTORY / key / file, {"points": points})
        counts[name] = {"rows": len(points)}
        run.dataset(f"{dataset.name}-{name}", digests[file], dataset.source, name)
        run.metrics({f"points_{key}_{name}": float(len(points))})
    card = {
        "name": dataset.name,
        "source": dataset.source,
        "licence": dataset.licence,
        "dimension": dim,
        "raw_dimension": raw.shape[1],
        "scaling": "each coordinate has mean 0 and variance 1 on the training split",
        "splits": counts,
        "sha256": digests,
    }
    write_json(DIRECTORY / key / "card.json", card)
    listed = ", ".join(f"{name} {count['rows']}" for name, count in counts.items())
    print(f"points: {key} ({dataset.source}), {dim} dimensions: {listed}", flush=True)
