"""A denoiser of tokens as a denoiser of one-hot vectors: what Gaussian samplers and flow maps work with."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from isocline.processes.denoiser import Denoiser
from isocline.processes.onehot_path import OneHotGaussianPath
from isocline.processes.prediction import AbstractPrediction, DataPrediction, convert

__all__ = ["OneHotDenoiser"]

_DATA = DataPrediction()


class OneHotDenoiser(Denoiser):
    """x̂_0 = s p(·|x_t), the mean one-hot vector under the law of the token, and every other prediction by conversion.

    Args:
        network: ``network(t, view, cond) -> (B, L, S)`` logits, see `isocline.processes.token_path`; called with
            ``s=`` towards s if it has a true attribute ``takes_end``.
        path: the relaxation.
    """

    def __init__(self, network: nn.Module, path: OneHotGaussianPath) -> None:
        super().__init__(network, path.gaussian)
        self.path = path

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Call the network once and convert; see the base class."""
        end = dict(zip(("s",), self._end, strict=False))
        probs = self.path.log_probs(self.network, t, x, cond, **end).exp()
        data = (self.path.scale * probs).to(x.dtype)
        return data if to == _DATA else convert(data, x, self.process.schedule(t), _DATA, to)
