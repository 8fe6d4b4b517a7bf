"""What the training stages share: reading training tensors, writing the curve and the summary."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isocline.app.artifacts import build, load_tensors, save_model, write_history
from isocline.app.latent_space import carry_autoencoder
from isocline.app.regularisers import average_misfit, built, recorded
from isocline.datasets.storage import write_json
from isocline.objectives.base import Distiller, Objective
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun
from isocline.training.fit import FitResult, fit
from isocline.training.module import GenerativeModule
from isocline.training.regularisation.regularised import Regularised
from isocline.training.settings import FitSettings

__all__ = ["finish", "teacher_costs", "train", "train_model", "training_tensors"]


def train(
    run: StageRun,
    label: str,
    network: nn.Module,
    objective: Objective,
    section: Mapping[str, Any],
    tensors: dict[str, Tensor],
    seed: int,
) -> FitResult:
    """Train a network by an objective with the optimiser, average and trainer of a section of params.yaml.

    Args:
        run: the stage's run; the training curve goes to its tracker, checkpoints to its folder.
        label: name shown with the progress.
        network: what is trained, as it starts.
        objective: turns a batch into a loss.
        section: holds ``optimizer``, ``ema`` and ``trainer``, and ``regularisers`` if there are any.
        tensors: the training data by role.
        seed: specific to what is trained.

    Returns:
        The averaged network, of the parameters that its section builds, whatever regularisers made of them.

    Raises:
        ValueError: if a regulariser does not suit.
    """
    settings: FitSettings = build(section["trainer"])
    regularisers = built(section)
    if reason := average_misfit(regularisers, section["ema"]):
        raise ValueError(f"{label}: {reason}")
    regularised = Regularised(objective, regularisers)
    if settings.compile and regularised.hooked:
        print(f"{label}: not compiled, for the hooks of {', '.join(regularised.hooked)}", flush=True)
        settings = dataclasses.replace(settings, compile=False)
    module = GenerativeModule(
        network,
        regularised if regularisers else objective,
        build(section["optimizer"]),
        build(section["ema"]),
        seed=seed,
        steps=settings.steps,
        warmup=settings.warmup,
        final_lr=settings.final_lr,
    )
    result = fit(module, tensors, settings, run.directory, label=label, log=run.metrics)
    regularised.release(result.network)
    return result


def train_model(
    run: StageRun, name: str, modality: str, section: Mapping[str, Any], directory: Path, seed: int
) -> None:
    """Build network, process, objective, optimiser and average, train them and write ``data/models/<name>``.

    Args:
        run: the stage's run.
        name: of the model.
        modality: ``images``, ``text`` or ``points``.
        section: the model's section of params.yaml.
        directory: the prepared data.
        seed: the run's seed.
    """
    seed = derive_seed(seed, "train", name)
    torch.manual_seed(derive_seed(seed, "weights"))
    process = build(section.get("process"))
    given = {} if process is None else {"process": process}
    network, objective = build(section["network"]), build(section["objective"], **given)
    tensors = training_tensors(run, directory, section["network"].get("classes", 0))
    result = train(run, f"train {name}", network, objective, section, tensors, seed)
    config = {
        "name": name,
        "modality": modality,
        "teacher": None,
        "process": section.get("process"),
        "network": section["network"],
        "objective": section["objective"],
        **recorded(section),
    }
    save_model(Path("data/models") / name, result.network, config, result.history, result.averages, process)
    carry_autoencoder(directory, Path("data/models") / name)
    finish(run, name, result)


def training_tensors(run: StageRun, directory: Path, classes: int = 0) -> dict[str, Tensor]:
    """Read the training data of a stage by role and record it as the run's dataset.

    Args:
        run: the stage's run.
        directory: ``data/images``, ``data/text``, ``data/points/<set>`` or ``data/pairs/<teacher>``.
        classes: whether labels are wanted (> 0).

    Returns:
        ``x0`` and, where there are, ``cond`` (labels) and ``x1`` (paired noise); first axis the sample.

    Raises:
        ValueError: if labels are wanted of text that has none.
    """
    pairs = directory / "pairs.safetensors"
    path = pairs if pairs.exists() else directory / "train.safetensors"
    tensors = load_tensors(path)
    run.dataset_file(path, context="train")
    if path == pairs:
        return {role: tensors[role] for role in ("x0", "x1", "cond") if role in tensors}
    if "points" in tensors:
        return {"x0": tensors["points"]}
    x0 = next(tensors[name] for name in ("tokens", "latents", "images") if name in tensors)
    if classes and "labels" not in tensors:
        raise ValueError(f"network.classes = {classes}, but {path} has no labels; set data/text=kjv_groups")
    return {"x0": x0, **({"cond": tensors["labels"]} if classes else {})}


def teacher_costs(distiller: Distiller, data: Path) -> dict[str, int]:
    """What a student cost in evaluations of its teacher: in training, and for the pairs that it was trained on.

    Args:
        distiller: the objective at the end of training.
        data: the folder of the training data; pairs have a card that says what they took.
    """
    costs, card = {"teacher_evaluations": distiller.evaluations()}, data / "card.json"
    spent = json.loads(card.read_text("utf-8")).get("teacher_evaluations") if card.exists() else None
    return costs if spent is None else {**costs, "pairs_evaluations": int(spent)}


def finish(run: StageRun, name: str, result: FitResult, costs: Mapping[str, int] | None = None) -> None:
    """Write the curve and the summary for DVC, the throughput for the tracker alone, and the model entry.

    Args:
        run: the stage's run.
        name: of the model.
        result: of the training.
        costs: further whole numbers of the summary, such as `teacher_costs`.
    """
    last = result.history[-1]
    parameters = sum(p.numel() for p in result.network.parameters())
    costs = {} if costs is None else costs
    summary = {"train_loss": last["loss"], "steps": int(last["step"]), "parameters": parameters, **costs}
    write_json(Path(f"metrics/train-{name}.json"), summary)
    write_history(Path(f"plots/train-{name}.csv"), result.history)
    run.metrics({"parameters": float(parameters), **{key: float(cost) for key, cost in costs.items()}})
    run.timing("train_seconds", result.seconds)
    run.timing("train_samples_per_second", result.samples_per_second)
    run.model(name, Path("data/models") / name)
