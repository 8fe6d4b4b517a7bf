"""Settings of the study of depth integrators."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DepthStudySettings"]


@dataclass(frozen=True)
class DepthStudySettings:
    """What every variant is measured by.

    Attributes:
        depth: blocks of the ordinary Transformer that all are compared with.
        seeds: trainings of each network; the same seeds for all, so that differences are paired.
        sequences: validation sequences scored, evenly spaced.
        batch_size: sequences scored at once.
        stability_sequences: sequences on which stability is measured, the first of those.
        iterations: power iterations for singular values.
        krylov_steps: size of the Krylov space of eigenvalues.
        pruning: a fixed-point iteration that moves the state by a smaller share is left out.

    Raises:
        ValueError: if a number is out of range.
    """

    depth: int = 4
    seeds: int = 3
    sequences: int = 512
    batch_size: int = 64
    stability_sequences: int = 4
    iterations: int = 10
    krylov_steps: int = 20
    pruning: float = 0.1

    def __post_init__(self) -> None:
        names = ("depth", "seeds", "sequences", "batch_size", "stability_sequences", "iterations", "krylov_steps")
        for name in names:
            if getattr(self, name) < 1:
                raise ValueError(f"depth.study.settings.{name} = {getattr(self, name)}: give a whole number above zero")
        if self.pruning < 0:
            raise ValueError(f"depth.study.settings.pruning = {self.pruning}: give a share of the state, zero or more")
