"""Flows in t as fields: of Gaussian processes, of relaxed tokens, of embeddings, all without memory between calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.embedding import EmbeddingProcess
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import AbstractPrediction
from isocline.processes.probability_flow import LinearPathVariable
from isocline.processes.token_path import AbstractTokenPath
from isocline.samplers.embedding_denoiser import EmbeddingDenoiser
from isocline.samplers.prompt import Prompt
from isocline.samplers.token_law import Sharpening
from isocline.solvers.problem import VectorField

__all__ = ["VARIABLE", "MemorylessEmbeddingDenoiser", "flow_start", "gaussian_field", "token_path_field"]

VARIABLE = LinearPathVariable()
"""All Gaussian processes are read in y = x/(α + σ) at s = σ/(α + σ), in which each is the straight path (and a flow on
the straight path is itself). The field is finite at both ends, and spectra of different processes compare."""


def gaussian_field(denoiser: AbstractDenoiser) -> VectorField:
    """Return ``f(s, y, cond) = dy/ds``, the probability flow in `VARIABLE`; from `flow_start` to 0, which is data."""
    return VARIABLE.field(denoiser)


def flow_start(process: GaussianProcess, noise: Tensor) -> Tensor:
    """Return the state of `VARIABLE` at its start for unit-variance noise ``(B, *event)``."""
    position = torch.tensor(VARIABLE.start(process), dtype=torch.float64)
    return VARIABLE.from_state(process, position, process.prior(noise))


def token_path_field(network: nn.Module, path: AbstractTokenPath) -> VectorField:
    """Return the flow of relaxed tokens in the path's position; from that of t = 1 to that of t_min.

    A network that takes its earlier prediction is given none: a field has no memory.
    """

    def field(position: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        t = path.time(position).clamp(path.t_min, path.t_max)
        return path.velocity(position, x, path.log_probs(network, t, x, cond).exp())

    return field


class MemorylessEmbeddingDenoiser(AbstractDenoiser):
    """`EmbeddingDenoiser` that is told no earlier guess: what the network says at its first call.

    Args:
        network: see `isocline.processes.embedding.EmbeddingProcess`.
        process: its process.
    """

    def __init__(self, network: nn.Module, process: EmbeddingProcess) -> None:
        self.network = network
        self.embedding_process = process

    @property
    def process(self) -> GaussianProcess:
        """The process of the embeddings."""
        return self.embedding_process.gaussian

    @property
    def evaluations(self) -> int:
        """One."""
        return 1

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Ask the network once and convert; see the base class."""
        nothing = Prompt.parse(None, x.shape[:2], self.embedding_process.mask, x.device)
        asked = EmbeddingDenoiser(self.network, self.embedding_process, nothing, Sharpening())
        return asked.predict(t, x, cond, to)
