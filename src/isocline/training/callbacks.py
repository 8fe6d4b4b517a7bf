"""Callbacks: training curve, atomic checkpoints, progress in plain lines where there is no terminal."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from isocline.training.divergence import DivergenceRule
from isocline.training.module import GenerativeModule, NonFiniteLossError

__all__ = ["AtomicCheckpoint", "History", "LineProgress", "latest_checkpoint"]

CHECKPOINT = "last.ckpt"


def latest_checkpoint(directory: Path) -> Path | None:
    """Return the newest checkpoint in ``directory`` that loads, or None; a damaged newest one is passed over.

    Writing is atomic (temporary file, flush, rename), so a kill cannot leave half a checkpoint; a full disk or a
    damaged file system can. The one before the newest is kept for that case.
    """
    for name in (CHECKPOINT, f"{CHECKPOINT}.previous"):
        path = directory / name
        if not path.exists():
            continue
        try:
            torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        except Exception:
            continue
        return path
    return None


class AtomicCheckpoint(Callback):
    """Save everything that resuming needs every ``every_seconds`` (and never a non-finite state).

    When a checkpoint is taken cannot change the result: randomness and data order are functions of the step.

    Args:
        directory: where checkpoints go; outside what DVC manages.
        every_seconds: least time between two checkpoints.
        every_steps: take one at each multiple of this many steps instead (tests).
    """

    def __init__(self, directory: Path, every_seconds: float = 10.0, every_steps: int | None = None) -> None:
        self.directory = directory
        self.every_seconds = every_seconds
        self.every_steps = every_steps
        self.last = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save when one is due."""
        if self.every_steps is not None:
            due = trainer.global_step % self.every_steps == 0
        else:
            due = time.monotonic() - self.last >= self.every_seconds
        assert isinstance(pl_module, GenerativeModule)
        if due and trainer.global_step < pl_module.steps:
            pl_module.check_finite()
            self.save(trainer)
            self.last = time.monotonic()

    def save(self, trainer: Trainer) -> None:
        """Write to a temporary file, flush it to disk, keep the previous one, rename."""
        self.directory.mkdir(parents=True, exist_ok=True)
        final, temporary = self.directory / CHECKPOINT, self.directory / f"{CHECKPOINT}.{os.getpid()}.tmp"
        try:
            trainer.save_checkpoint(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if final.exists():
                os.replace(final, final.with_name(f"{CHECKPOINT}.previous"))
            os.replace(temporary, final)
        finally:
            temporary.unlink(missing_ok=True)


class History(Callback):
    """Mean of every loss term over windows of ``every`` steps: the training curve, the same after a resume.

    Args:
        every: window in steps.
        sink: called as ``sink(metrics, step)`` at the end of each window (Lightning itself sets ``log``).
        rule: when a loss that is still finite has diverged.

    Attributes:
        rows: one dictionary per window with ``step``, ``loss``, ``lr`` and the loss terms by name.
    """

    def __init__(
        self,
        every: int,
        sink: Callable[[dict[str, float], int], None] | None = None,
        rule: DivergenceRule | None = None,
    ) -> None:
        self.every = every
        self.sink = sink
        self.rule = DivergenceRule() if rule is None else rule
        self.rows: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}
        self.count = 0
        self._pending: dict[str, torch.Tensor] = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Accumulate; close the window when it is full or the run ends."""
        assert isinstance(pl_module, GenerativeModule)
        loss = pl_module.last_loss
        for name, value in {"loss": loss.total, **loss.terms}.items():
            value = value.detach().double()
            self._pending[name] = self._pending[name] + value if name in self._pending else value
        self.count += 1
        step = trainer.global_step
        if step % self.every == 0 or step == pl_module.steps:
            group = trainer.optimizers[0].param_groups[0]
            # Optimisers that control their step take no longer one than lr.
            self.close(step, group.get("step_size", group["lr"]))

    def collect(self) -> dict[str, float]:
        """Bring the sums to the host."""
        for name, value in self._pending.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self._pending = {}
        return self.sums

    def close(self, step: int, lr: float) -> None:
        """Append the window's row; raise if it is not finite (devices where each step is not checked) or diverged."""
        means = {name: total / self.count for name, total in self.collect().items()}
        if not all(map(math.isfinite, means.values())):
            raise NonFiniteLossError(f"the loss is not finite before step {step}; lower optimizer.lr")
        self.rows.append({"step": step, "lr": lr, **means})
        self.sums, self.count = {}, 0
        if self.sink is not None:
            self.sink({"train_loss" if name == "loss" else f"train_{name}": v for name, v in means.items()}, step)
        self.rule.check(self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"rows": [dict(row) for row in self.rows], "sums": dict(self.collect()), "count": self.count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore from a checkpoint."""
        self.rows, self.sums, self.count = state_dict["rows"], state_dict["sums"], state_dict["count"]


class LineProgress(Callback):
    """One line of progress every few seconds, for logs and pipes where a bar cannot be drawn.

    Args:
        label: what is being trained.
        every_seconds: time between lines.
    """

    def __init__(self, label: str, every_seconds: float = 15.0) -> None:
        self.label = label
        self.every_seconds = every_seconds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where this process started."""
        self.started = self.printed = time.monotonic()
        self.first = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Print when it is time."""
        now, step = time.monotonic(), trainer.global_step
        if now - self.printed < self.every_seconds:
            return
        assert isinstance(pl_module, GenerativeModule)
        self.printed = now
        left = (now - self.started) / max(1, step - self.first) * (pl_module.steps - step)
        loss = pl_module.last_loss.total.item()
        print(f"{self.label}: step {step}/{pl_module.steps}, loss {loss:.4f}, about {left:.0f} s left", flush=True)
