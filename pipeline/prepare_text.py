"""Prepare the text: read it, split it by sections, train the tokenizer, pack rows, write them with a data card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isocline.app.artifacts import build
from isocline.datasets.packing import PackedText, SplitText, pack, row_labels, split_text
from isocline.datasets.storage import write_json, write_tensors
from isocline.datasets.text import TextDataset
from isocline.datasets.tokenizer import TokenizerTrainer
from isocline.randomness import generator
from isocline.tracking.stage import StageRun

DIRECTORY = Path("data/text")


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Write ``data/text/{train,judge,valid,test}.safetensors``, ``tokenizer.json`` and ``card.json``."""
    section = params["data"]["text"]
    dataset: TextDataset = build(section["dataset"])
    print(f"text: reading {dataset.name} ({dataset.source})", flush=True)
    draws = generator(params["seed"], "split", "text")
    normalise = build(section["normalise"])
    splits = split_text(dataset.load(), section["splits"], normalise, dataset.separator, draws)
    trainer: TokenizerTrainer = build(section["tokenizer"])
    print(f"text: training {type(trainer).__name__}, {trainer.vocab_size} tokens", flush=True)
    alphabet = sorted({character for split in splits.values() for character in split.text})
    tokenizer = trainer.train([splits["train"].text], alphabet)
    digests = {"tokenizer.json": tokenizer.save(DIRECTORY / "tokenizer.json")}
    cards = {}
    for name, split in splits.items():
        packed, file = pack(split.text, tokenizer, section["length"]), f"{name}.safetensors"
        tensors = {"tokens": packed.tokens, "characters": packed.characters}
        if dataset.classes:
            tensors["labels"] = row_labels(split, packed, [dataset.label(section) for section in split.sections])
        digests[file] = write_tensors(DIRECTORY / file, tensors)
        cards[name] = describe(split, packed)
        run.dataset(f"{dataset.name}-{name}", digests[file], dataset.source, name)
        run.metrics({f"rows_{name}": float(len(packed.tokens))})
        print(f"text: {name} {cards[name]['rows']} rows, {cards[name]['characters']} characters", flush=True)
    rate = cards["train"]["characters"] / cards["train"]["tokens"]
    run.metrics({"characters_per_token": rate})
    card = {
        "name": dataset.name,
        "source": dataset.source,
        "licence": dataset.licence,
        "normalise": section["normalise"],
        "tokenizer": section["tokenizer"],
        "vocab_size": tokenizer.vocab_size,
        "mask_index": tokenizer.mask_index,
        "length": section["length"],
        "packing": "one stream, no padding, no end-of-text token, the incomplete last row left out",
        "characters_per_token": rate,
        "splits": cards,
        "sha256": digests,
        **({"classes": list(dataset.classes)} if dataset.classes else {}),
    }
    write_json(DIRECTORY / "card.json", card)


def describe(split: SplitText, packed: PackedText) -> dict[str, Any]:
    """Return a split's part of the data card."""
    return {
        "sections": len(split.sections),
        "rows": len(packed.tokens),
        "tokens": packed.tokens.numel(),
        "characters": int(packed.characters.sum()),
        "characters_left_out": packed.dropped,
        "text_sha256": split.digest,
    }
