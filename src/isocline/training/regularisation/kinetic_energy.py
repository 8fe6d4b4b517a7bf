"""Kinetic energy of a vector field."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from isocline.networks.classifier import AbstractClassifier
from isocline.objectives.base import Objective
from isocline.objectives.maximum_likelihood import ContinuousMaximumLikelihood
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import VelocityPrediction, convert
from isocline.solvers.gradient import Backpropagation
from isocline.training.regularisation.base import AbstractPenalty
from isocline.training.regularisation.evaluations import Evaluation, mean_square, recorded

__all__ = ["KineticEnergy", "field_of"]


def field_of(network: nn.Module) -> nn.Module:
    """Return the part of a network that is a vector field: what a neural ODE integrates, or the network itself."""
    inner = getattr(network, "field", None)
    return inner if isinstance(inner, nn.Module) else network


def refuse_adjoint(network: nn.Module) -> None:
    """Refuse a neural ODE whose evaluations are not differentiated one by one.

    Raises:
        ValueError: if it is one.
    """
    if field_of(network) is not network:
        gradient = getattr(network, "gradient", None)
        if not (gradient is None or isinstance(gradient, Backpropagation)):
            raise ValueError(
                f"network.gradient = {type(gradient).__name__} records no evaluations of the field; set "
                "network.gradient to backpropagation, or remove it"
            )


class KineticEnergy(AbstractPenalty):
    """E ‖u(t, x)‖²/d of the velocity u, at the times and states at which the objective evaluates the network.

    What a network of a Gaussian process predicts is turned into the probability flow's velocity first. Of a neural ODE
    it is the field at every stage of its solver. Where the objective is matching with a velocity prediction, the two
    together have the minimiser u/(1 + λ): it shrinks the velocity, and does not straighten paths. Continuous flows
    have it integrated along their paths (`isocline.objectives.continuous_flow`, and higher derivatives in
    `isocline.objectives.speed_penalty`).

    Source: *How to Train Your Neural ODE*, Finlay et al., 2020, Eq. 7.

    Args:
        weight: λ.

    Raises:
        ValueError: if the weight is negative.
    """

    hooked = True

    def __init__(self, weight: float = 0.01) -> None:
        super().__init__(weight)
        self._process: GaussianProcess | None = None
        self._seen: list[Evaluation] = []

    def check(self, network: nn.Module, objective: Objective) -> None:
        """Refuse what is no vector field."""
        process = getattr(objective, "process", None)
        if isinstance(objective, ContinuousMaximumLikelihood):
            raise ValueError("the objective has this integral along its paths; set objective.kinetic instead")
        refuse_adjoint(network)
        classifier = isinstance(network, AbstractClassifier) and field_of(network) is network
        if isinstance(process, GaussianProcess):
            self._process = process
        elif process is not None or classifier or hasattr(network, "vocab_size"):
            raise ValueError(
                f"{type(network).__name__} under {type(objective).__name__} predicts no velocity; take state_smoothness"
            )

    @contextlib.contextmanager
    def watch(self, network: nn.Module, generator: torch.Generator) -> Iterator[None]:
        """Record the evaluations of the field."""
        self._seen = []
        with recorded(field_of(network), self._seen):
            yield

    def value(self, network: nn.Module) -> Tensor:
        """Return the mean over evaluations.

        Raises:
            ValueError: if there was none, or what came out has not the state's shape.
        """
        seen, self._seen = self._seen, []
        if not seen:
            raise ValueError(
                "the objective evaluates the field in forward mode or without gradients alone; remove it, or take "
                "parameter_smoothness or lipschitz_cap"
            )
        return torch.stack([mean_square(self._velocity(call)) for call in seen]).mean()

    def _velocity(self, call: Evaluation) -> Tensor:
        if call.output.shape != call.state.shape:
            raise ValueError(f"outputs of shape {tuple(call.output.shape)} are no velocities of the state; remove it")
        if self._process is None or call.time is None:
            return call.output
        values = self._process.schedule(call.time)
        return convert(call.output, call.state, values, self._process.prediction, VelocityPrediction())
