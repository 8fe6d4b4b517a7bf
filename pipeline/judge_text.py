"""Make the text judges on their own split: an n-gram model and a small autoregressive network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import nn

from isocline.app.artifacts import build, device_of, load_tensors
from isocline.app.judge_files import save_judge
from isocline.datasets.storage import write_json
from isocline.metrics.judge_text import negative_log_likelihood, train_judge_ar
from isocline.metrics.ngram import KneserNey
from isocline.metrics.perplexity import bits_per_character
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun

DATA = Path("data/text")


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Write ``data/judges/text`` and ``metrics/judge-text.json``."""
    section = params["judge"]["text"]
    seed = derive_seed(params["seed"], "judge", "text")
    train, test = (load_tensors(DATA / f"{name}.safetensors") for name in ("judge", "test"))
    run.dataset_file(DATA / "judge.safetensors", context="train")
    run.dataset_file(DATA / "test.safetensors", context="test")
    print(f"text judge: counting {section['order']}-grams of {len(train['tokens'])} rows", flush=True)
    ngram = KneserNey.fit(train["tokens"], section["network"]["vocab_size"], section["order"])
    torch.manual_seed(derive_seed(seed, "weights"))
    network: nn.Module = build(section["network"]).to(device_of(params["accelerator"]))
    began, every = time.perf_counter(), max(1, section["training"]["steps"] // 50)
    with Progress() as progress:
        task = progress.add_task("text judge", total=section["training"]["steps"])

        def show(step: int, loss: float) -> None:
            progress.update(task, completed=step)
            if step % every == 0:
                run.metric("train_loss", loss, step)

        losses = train_judge_ar(network, train["tokens"], seed, progress=show, **section["training"])
    run.timing("train_seconds", time.perf_counter() - began)
    tokens, characters = (test[key][: section["test_rows"]] for key in ("tokens", "characters"))
    neural = bits_per_character(negative_log_likelihood(network, tokens), characters)
    counted = bits_per_character(ngram.negative_log_likelihood(tokens), characters)
    save_judge(Path("data/judges/text"), network, section["network"], ngram.state_dict())
    document = {
        "bits_per_char": {**neural.as_dict(), "kind": "exact"},
        "bits_per_char_ngram": {**counted.as_dict(), "kind": "exact"},
        "train_loss": losses[-1],
        "train_rows": len(train["tokens"]),
        "parameters": sum(p.numel() for p in network.parameters()),
        "order": ngram.order,
    }
    write_json(Path("metrics/judge-text.json"), document)
    run.metrics({"bits_per_char": neural.mean, "bits_per_char_ngram": counted.mean})
    run.model("judge-text", Path("data/judges/text"))
    print(f"text judge: {neural.mean:.3f} bits/char, {ngram.order}-gram {counted.mean:.3f}", flush=True)
