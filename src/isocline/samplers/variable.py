"""A sampler's choice of variable, under the name that a configuration uses (defined beside the processes)."""

from isocline.processes.probability_flow import (
    AbstractVariable,
    AngleVariable,
    LinearPathVariable,
    NoiseRatioVariable,
    TimeVariable,
)

__all__ = ["AbstractVariable", "AngleVariable", "LinearPathVariable", "NoiseRatioVariable", "TimeVariable"]
