"""What the stages of images need: a small network that was hardly trained, a judge, and the digits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch

from isocline.app.artifacts import build, save_model
from isocline.app.judge_files import save_judge
from isocline.datasets.images import Digits
from isocline.datasets.storage import write_tensors

ROOT = Path(__file__).parents[2]


def stage(name: str) -> Callable[..., None]:
    """The entry point of a stage, `pipeline/NAME.py`."""
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "pipeline" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def prepare_images(section: dict) -> None:
    """Write an image model, a judge and images as the earlier stages would."""
    shape = {"channels": 1, "size": 8}
    torch.manual_seed(0)
    network = {"_target_": "isocline.networks.unet.UNet", **shape, "width": 8, "multipliers": [1, 1]}
    made = build(network)
    torch.nn.init.normal_(made.last[-1].weight, std=0.05)
    config = {"name": "flow", "modality": "images", "process": section["process"], "network": network}
    save_model(
        Path("data/models/flow"), made, {**config, "objective": section["objective"]}, [{"step": 1, "loss": 1.0}]
    )
    judge = {
        "_target_": "isocline.metrics.judge_image.ImageJudge",
        **shape,
        "classes": 10,
        "width": 4,
        "num_features": 6,
    }
    save_judge(Path("data/judges/images"), build(judge), judge)
    arrays = Digits().load().pool
    for split, rows in (("train", slice(0, 60)), ("test", slice(60, 120))):
        images = {"images": arrays.images[rows], "labels": arrays.labels[rows]}
        write_tensors(Path(f"data/images/{split}.safetensors"), images)
