"""A network of relaxed tokens as a network of vectors, under the Gaussian process that the relaxation is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from isocline.processes.gaussian import GaussianProcess
from isocline.processes.onehot_denoiser import OneHotDenoiser
from isocline.processes.onehot_path import OneHotGaussianPath
from isocline.processes.prediction import DifferencePrediction

__all__ = ["VectorNetwork", "vector_process"]

_DIFFERENCE = DifferencePrediction()


def vector_process(path: OneHotGaussianPath, t_max: float = 0.99) -> GaussianProcess:
    """Return the process of a `VectorNetwork`: that of the path up to t_max, with ε − x_0 as its prediction.

    At t = 1 the noise says nothing of the data, and the view of `OneHotGaussianPath` shows nothing of the noise, on
    which a flow map depends all the more. At t_max a share 1 − t_max of the tokens is decided, which generation from
    pure noise gets wrong.
    """
    return GaussianProcess(path.gaussian.schedule, _DIFFERENCE, t_min=path.t_min, t_max=t_max)


class VectorNetwork(nn.Module):
    """Predicts ε − s p(·|x_t) at vectors x_t, which is what a flow on vectors asks for; see `vector_process`.

    A map made of it leads to a mixture of one-hot vectors, whatever the weights are.

    Args:
        network: ``network(t, view, cond) -> (B, L, S)`` logits, see `isocline.processes.token_path`; of two times if it
            has a true attribute ``takes_end``.
        path: the relaxation.
    """

    def __init__(self, network: nn.Module, path: OneHotGaussianPath) -> None:
        super().__init__()
        self.network = network
        self.path = path
        self.takes_end = bool(getattr(network, "takes_end", False))

    def forward(self, t: Tensor, x: Tensor, cond: Any = None, s: Tensor | None = None) -> Tensor:
        """Evaluate at ``t`` ``()`` or ``(B,)`` and ``x`` ``(B, L, S)``, towards ``s`` (t if None); same shape."""
        denoiser = OneHotDenoiser(self.network, self.path)
        return (denoiser if s is None else denoiser.towards(s)).predict(t, x, cond, _DIFFERENCE)
