"""Fit a module: data, checkpoints, progress and resumption around Lightning's Trainer."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from torch import Tensor, nn
from torch.utils.data import DataLoader

from isocline.datasets.datamodule import StepBatches
from isocline.training.callbacks import AtomicCheckpoint, History, LineProgress, latest_checkpoint
from isocline.training.module import GenerativeModule
from isocline.training.settings import FitSettings

__all__ = ["FitResult", "fit"]


@dataclass(frozen=True)
class FitResult:
    """What training gives back.

    Attributes:
        network: the averaged network, on the CPU, in evaluation mode.
        history: rows of the training curve.
        seconds: wall-clock time of this process's part.
        samples_per_second: throughput of this process's part.
        resumed_from: step that the run resumed at, 0 for a fresh run.
        averages: what the average keeps beside its network (see `isocline.networks.power_ema`).
    """

    network: nn.Module
    history: list[dict[str, float]]
    seconds: float
    samples_per_second: float
    resumed_from: int
    averages: dict[str, Tensor]


def fit(
    module: GenerativeModule,
    tensors: dict[str, Tensor],
    settings: FitSettings,
    directory: Path,
    *,
    label: str,
    log: Callable[[dict[str, float], int], None] | None = None,
    extra: tuple[Callback, ...] = (),
) -> FitResult:
    """Train ``module``, resuming from ``directory`` if an interrupted run left a checkpoint there.

    Args:
        module: what to train.
        tensors: the training data by role (``x0``, optionally ``cond`` and ``x1``), first axis the sample.
        settings: how long and how.
        directory: run folder for checkpoints.
        label: name shown with the progress.
        log: called with the metrics and the step of each point of the training curve.
        extra: further callbacks.

    Returns:
        The averaged network and the training curve; identical, bit for bit, whether or not it was interrupted.
    """
    _quiet()
    checkpoint = latest_checkpoint(directory)
    start = int(torch.load(checkpoint, weights_only=True, map_location="cpu")["global_step"]) if checkpoint else 0
    if start:
        print(f"{label}: resuming at step {start} of {settings.steps}", flush=True)
    history = History(settings.log_every, log)
    if settings.compile:
        module.network.compile()
    trainer = Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        accelerator=settings.accelerator,
        devices=settings.devices,
        precision=settings.precision,  # type: ignore[arg-type]
        gradient_clip_val=settings.gradient_clip or None,
        callbacks=[history, AtomicCheckpoint(directory, settings.checkpoint_seconds), _progress(label), *extra],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stdout.isatty(),
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    batches = StepBatches(tensors, settings.batch_size, module.seed, settings.steps, start_step=start)
    loader: DataLoader[Any] = DataLoader(batches, batch_size=None, num_workers=0)
    began = time.perf_counter()
    if start < settings.steps:
        trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True if checkpoint else None)
        module.check_finite()
    seconds = time.perf_counter() - began
    if trainer.interrupted:
        raise KeyboardInterrupt
    rate = (settings.steps - start) * settings.batch_size / max(seconds, 1e-9)
    network = module.average.network.to("cpu").eval()  # type: ignore[union-attr,operator]
    averages = module.average.kept()  # type: ignore[operator]
    return FitResult(network, history.rows, seconds, rate, start, averages)


def _progress(label: str) -> Callback:
    return RichProgressBar() if sys.stdout.isatty() else LineProgress(label)


def _quiet() -> None:
    """Silence what is right here: no workers (data are in memory), data that restart at the checkpoint's step, a
    teacher and an average in evaluation mode.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    expected = (
        "does not have many workers",
        "resuming from a checkpoint",
        "GPU available",
        "in eval mode at the start",
    )
    lightning = ("`IterableDataset` has `__len__` defined", "isinstance.treespec, LeafSpec")
    for message in (f".*{text}.*" for text in (*expected, *lightning)):
        warnings.filterwarnings("ignore", message=message)
