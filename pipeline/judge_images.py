"""Train the image judge on its own split and say how well it classifies the test split."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from isocline.app.artifacts import build, device_of, load_tensors
from isocline.app.judge_files import save_judge
from isocline.datasets.storage import write_json
from isocline.metrics.judge_image import ImageJudge, train_image_judge
from isocline.metrics.uncertainty import Estimate
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun

DATA = Path("data/images")


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Write ``data/judges/images`` and ``metrics/judge-images.json``."""
    section = params["judge"]["images"]
    seed = derive_seed(params["seed"], "judge", "images")
    train, test = (load_tensors(DATA / f"{name}.safetensors") for name in ("judge", "test"))
    run.dataset_file(DATA / "judge.safetensors", context="train")
    run.dataset_file(DATA / "test.safetensors", context="test")
    torch.manual_seed(derive_seed(seed, "weights"))
    judge: ImageJudge = build(section["network"]).to(device_of(params["accelerator"]))
    began, every = time.perf_counter(), max(1, section["training"]["steps"] // 50)
    with Progress() as progress:
        task = progress.add_task("image judge", total=section["training"]["steps"])

        def show(step: int, loss: float) -> None:
            progress.update(task, completed=step)
            if step % every == 0:
                run.metric("train_loss", loss, step)

        losses = train_image_judge(judge, train["images"], train["labels"], seed, progress=show, **section["training"])
    run.timing("train_seconds", time.perf_counter() - began)
    right = (judge.logits(test["images"]).argmax(dim=1) == test["labels"]).double()
    accuracy = Estimate.from_values(right.numpy())
    save_judge(Path("data/judges/images"), judge, section["network"])
    document = {
        "accuracy": accuracy.as_dict(),
        "train_loss": losses[-1],
        "train_images": len(train["images"]),
        "parameters": sum(p.numel() for p in judge.parameters()),
        "features": judge.num_features,
    }
    write_json(Path("metrics/judge-images.json"), document)
    run.metrics({"accuracy": accuracy.mean})
    run.model("judge-images", Path("data/judges/images"))
    print(f"image judge: test accuracy {accuracy.mean:.4f}", flush=True)
