"""Gradients of a solve: through its steps, by repeating them, or by the continuous adjoint."""

from isocline.solvers.gradient.adjoint import AdjointWarning
from isocline.solvers.gradient.backpropagation import Backpropagation
from isocline.solvers.gradient.backsolve import BacksolveAdjoint
from isocline.solvers.gradient.base import AbstractGradient, Integrate
from isocline.solvers.gradient.checkpointed import CheckpointedAdjoint
from isocline.solvers.gradient.discrete import DiscreteAdjoint
from isocline.solvers.gradient.interpolated import InterpolatedAdjoint

__all__ = [
    "AbstractGradient",
    "AdjointWarning",
    "Backpropagation",
    "BacksolveAdjoint",
    "CheckpointedAdjoint",
    "DiscreteAdjoint",
    "Integrate",
    "InterpolatedAdjoint",
]
