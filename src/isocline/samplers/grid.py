"""A sampler's choice of steps, under the name that a configuration uses (defined beside the processes)."""

from isocline.processes.grid import (
    AbstractTimeGrid,
    GivenGrid,
    PowerGrid,
    QuadraticTimeGrid,
    UniformLogRatioGrid,
    UniformTimeGrid,
)

__all__ = [
    "AbstractTimeGrid",
    "GivenGrid",
    "PowerGrid",
    "QuadraticTimeGrid",
    "UniformLogRatioGrid",
    "UniformTimeGrid",
]
