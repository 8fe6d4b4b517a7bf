"""A denoiser of tokens as a denoiser of one-hot vectors: what Gaussian samplers and flow maps work with."""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.onehot_path import OneHotGaussianPath
from isocline.processes.prediction import AbstractPrediction, DataPrediction, convert

__all__ = ["OneHotDenoiser"]

_DATA = DataPrediction()


class OneHotDenoiser(AbstractDenoiser):
    """x̂_0 = s p(·|x_t), the mean one-hot vector under the law of the token, and every other prediction by conversion.

    Args:
        network: ``network(t, view, cond) -> (B, L, S)`` logits, see `isocline.processes.token_path`; called with
            ``s=`` towards s if it has a true attribute ``takes_end``.
        path: the relaxation.
    """

    def __init__(self, network: nn.Module, path: OneHotGaussianPath) -> None:
        self.network = network
        self.path = path
        self._end: dict[str, Tensor] = {}

    @property
    def process(self) -> GaussianProcess:
        """The path as a process on vectors."""
        return self.path.gaussian

    @property
    def evaluations(self) -> int:
        """One."""
        return 1

    def towards(self, s: Tensor | float) -> Self:
        """Bind s if the network takes it; see the base class."""
        if not getattr(self.network, "takes_end", False):
            return self
        other = copy.copy(self)
        other._end = {"s": torch.as_tensor(s, dtype=torch.float64)}
        return other

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Call the network once and convert; see the base class."""
        probs = self.path.log_probs(self.network, t, x, cond, **self._end).exp()
        data = (self.path.scale * probs).to(x.dtype)
        return data if to == _DATA else convert(data, x, self.process.schedule(t), _DATA, to)
