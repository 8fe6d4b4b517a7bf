"""A network under a process, asked for any prediction: what samplers, guidance and likelihoods work with."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor, nn

from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import (
    AbstractPrediction,
    DataPrediction,
    NoisePrediction,
    VelocityPrediction,
    convert,
)

__all__ = ["AbstractDenoiser", "Denoiser"]

_DATA, _NOISE, _VELOCITY = DataPrediction(), NoisePrediction(), VelocityPrediction()


class AbstractDenoiser(ABC):
    """Predicts, at time t and state x, any of data, noise, score, v, velocity. Guidance wraps one in another."""

    @property
    @abstractmethod
    def process(self) -> GaussianProcess:
        """The process that the network was trained under."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Network forwards per prediction, at most (2 under classifier-free guidance): what a budget is divided by."""

    def forwards(self, t: Tensor) -> Tensor:
        """Return the network forwards of a prediction at times t, int64, shape of t; `evaluations` unless they vary."""
        return torch.full(t.shape, self.evaluations, dtype=torch.int64, device=t.device)

    def towards(self, s: Tensor | float) -> Self:
        """Return the denoiser whose predictions are meant for a jump from t to s, see `isocline.processes.flow_map`.

        A network of one time answers as ever: this denoiser itself is returned. One of two times then predicts the
        average over [s, t], and without a jump in view what holds at t.

        Args:
            s: times ``()`` or ``(B,)``, at most t.
        """
        return self

    @abstractmethod
    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Return the prediction of kind ``to``.

        Args:
            t: times ``()`` or ``(B,)``.
            x: states ``(B, *event)``.
            cond: condition handed to the network, or None.
            to: what is wanted.

        Returns:
            Shape and dtype of x; non-finite where ``to`` cannot be had (see `isocline.processes.prediction`).
        """

    def data(self, t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        """Return the predicted x_0; equals x where σ = 0, unless the network predicts data itself."""
        return self.predict(t, x, cond, _DATA)

    def noise(self, t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        """Return the predicted ε."""
        return self.predict(t, x, cond, _NOISE)

    def velocity(self, t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        """Return the probability flow's velocity dx/dt = α̇ x_0 + σ̇ ε.

        Source: *Score-Based Generative Modeling through SDEs*, Song et al., 2021, Eq. 13, in the form that stays
        finite at t = 1 where the diffusion coefficient of the cosine and linear schedules diverges.
        """
        return self.predict(t, x, cond, _VELOCITY)


class Denoiser(AbstractDenoiser):
    """A network and the process it was trained under.

    Args:
        network: called as ``network(t, x, cond)``, or ``network(t, x, cond, s)`` towards s if it has a true attribute
            ``takes_end``; returns ``process.prediction``, same shape as x.
        process: the schedule and the meaning of the network's output.
    """

    def __init__(self, network: nn.Module, process: GaussianProcess) -> None:
        self.network = network
        self._process = process
        self._end: tuple[Tensor, ...] = ()

    @property
    def process(self) -> GaussianProcess:
        """The process."""
        return self._process

    @property
    def evaluations(self) -> int:
        """One."""
        return 1

    def towards(self, s: Tensor | float) -> Self:
        """Bind s if the network takes it; see the base class."""
        if not getattr(self.network, "takes_end", False):
            return self
        other = copy.copy(self)
        other._end = (torch.as_tensor(s, dtype=torch.float64),)
        return other

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Call the network once and convert; see the base class."""
        p = self.network(t, x, cond, *self._end)
        if to == self._process.prediction:
            return p.to(x.dtype)  # type: ignore[no-any-return]
        return convert(p, x, self._process.schedule(t), self._process.prediction, to)
