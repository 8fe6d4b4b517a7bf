"""How long and how to train. Apart from `isocline.training.fit`: a composition is checked without loading Lightning."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRECISIONS", "FitSettings"]

PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "64-true")


@dataclass(frozen=True)
class FitSettings:
    """How long and how to train.

    Attributes:
        steps: optimiser steps.
        batch_size: samples per step.
        warmup: steps of learning-rate warm-up.
        final_lr: learning-rate factor at the end of the cosine.
        gradient_clip: largest gradient norm, 0 for none.
        precision: Lightning's precision, one of `PRECISIONS`; none of them scales the loss.
        accelerator: Lightning's accelerator, ``auto`` picks a GPU where there is one.
        devices: Lightning's number of devices; 1, since draws and checkpoints know one process.
        compile: whether the network is compiled.
        log_every: steps per point of the training curve.
        checkpoint_seconds: least time between checkpoints.

    Raises:
        ValueError: if a value is out of range.
    """

    steps: int
    batch_size: int
    warmup: int = 50
    final_lr: float = 0.1
    gradient_clip: float = 1.0
    precision: str = "32-true"
    accelerator: str = "cpu"
    devices: int = 1
    compile: bool = False
    log_every: int = 25
    checkpoint_seconds: float = 10.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "devices"):
            if getattr(self, name) < 1:
                raise ValueError(f"trainer.{name} = {getattr(self, name)}: must be at least 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"trainer.precision = {self.precision!r}: must be one of {', '.join(PRECISIONS)}")
        if self.devices > 1:
            raise ValueError(f"trainer.devices = {self.devices}: isocline trains on one device; set trainer.devices=1")
        for name in ("warmup", "gradient_clip", "checkpoint_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"trainer.{name} = {getattr(self, name)}: must not be negative")
        if not 0.0 <= self.final_lr <= 1.0:
            raise ValueError(f"trainer.final_lr = {self.final_lr}: must be in [0, 1]")
