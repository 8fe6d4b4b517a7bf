"""Prepare the images: read the data set, draw its splits, write them with a data card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isocline.app.artifacts import build
from isocline.datasets.images import ImageDataset
from isocline.datasets.splits import split_images
from isocline.datasets.storage import write_json, write_tensors
from isocline.randomness import generator
from isocline.tracking.stage import StageRun

DIRECTORY = Path("data/images")


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Write ``data/images/{train,judge,test}.safetensors`` and ``card.json``."""
    section = params["data"]["images"]
    dataset: ImageDataset = build(section["dataset"])
    print(f"images: reading {dataset.name} ({dataset.source})", flush=True)
    splits = split_images(dataset.load(), section["splits"], generator(params["seed"], "split", "images"))
    shape = (section["channels"], section["size"], section["size"])
    found = tuple(splits["train"].images.shape[1:])
    if found != shape or len(dataset.classes) != section["classes"]:
        raise ValueError(
            f"data.images says channels, size, classes = {shape[0]}, {shape[1]}, {section['classes']}; {dataset.name} "
            f"has {found[0]}, {found[1]}, {len(dataset.classes)}: set these"
        )
    counts, digests = {}, {}
    for name, part in splits.items():
        file = f"{name}.safetensors"
        digests[file] = write_tensors(DIRECTORY / file, {"images": part.images, "labels": part.labels})
        counts[name] = {
            "images": len(part.images),
            "by_class": part.labels.bincount(minlength=len(dataset.classes)).tolist(),
        }
        run.dataset(f"{dataset.name}-{name}", digests[file], dataset.source, name)
        run.metrics({f"images_{name}": float(len(part.images))})
    card = {
        "name": dataset.name,
        "source": dataset.source,
        "licence": dataset.licence,
        "shape": list(shape),
        "classes": list(dataset.classes),
        "splits": counts,
        "sha256": digests,
    }
    write_json(DIRECTORY / "card.json", card)
    print("images: " + ", ".join(f"{name} {count['images']}" for name, count in counts.items()), flush=True)
