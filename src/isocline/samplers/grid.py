"""A sampler's choice of steps, under the name that a configuration uses (defined beside the processes)."""

from isocline.processes.grid import AbstractTimeGrid, PowerGrid, UniformLogRatioGrid, UniformTimeGrid

__all__ = ["AbstractTimeGrid", "PowerGrid", "UniformLogRatioGrid", "UniformTimeGrid"]
