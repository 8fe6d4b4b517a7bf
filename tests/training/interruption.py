"""A run that is interrupted after its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isocline.training.callbacks import AtomicCheckpoint


class Stop(Exception):
    """The interruption."""


class StopAt(AtomicCheckpoint):
    """Saves after step ``saved`` and interrupts after step ``stopped``."""

    def __init__(self, directory: Path, saved: int, stopped: int) -> None:
        super().__init__(directory)
        self.saved, self.stopped = saved, stopped

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == self.saved:
            self.save(trainer)
        if trainer.global_step == self.stopped:
            raise Stop
