"""What the training stages share: reading training tensors, writing the curve and the summary."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from isocline.app.artifacts import load_tensors, write_history
from isocline.datasets.storage import write_json
from isocline.tracking.stage import StageRun
from isocline.training.fit import FitResult

__all__ = ["finish", "training_tensors"]


def training_tensors(run: StageRun, directory: Path, classes: int = 0) -> dict[str, Tensor]:
    """Read the training data of a stage by role and record it as the run's dataset.

    Args:
        run: the stage's run.
        directory: ``data/images``, ``data/text`` or ``data/pairs/<teacher>``.
        classes: whether labels are wanted (> 0).

    Returns:
        ``x0`` and, where there are, ``cond`` (labels) and ``x1`` (paired noise); first axis the sample.
    """
    pairs = directory / "pairs.safetensors"
    path = pairs if pairs.exists() else directory / "train.safetensors"
    tensors = load_tensors(path)
    run.dataset_file(path, context="train")
    if path == pairs:
        return {role: tensors[role] for role in ("x0", "x1", "cond") if role in tensors}
    if "tokens" in tensors:
        return {"x0": tensors["tokens"]}
    return {"x0": tensors["images"], **({"cond": tensors["labels"]} if classes else {})}


def finish(run: StageRun, name: str, result: FitResult) -> None:
    """Write the curve and the summary for DVC, the throughput for the tracker alone, and the model entry."""
    last = result.history[-1]
    parameters = sum(p.numel() for p in result.network.parameters())
    summary = {"train_loss": last["loss"], "steps": int(last["step"]), "parameters": parameters}
    write_json(Path(f"metrics/train-{name}.json"), summary)
    write_history(Path(f"plots/train-{name}.csv"), result.history)
    run.metrics({"parameters": float(parameters)})
    run.timing("train_seconds", result.seconds)
    run.timing("train_samples_per_second", result.samples_per_second)
    run.model(name, Path("data/models") / name)
