"""Denoisers that change what one other denoiser predicts."""

from __future__ import annotations

import copy
from typing import Self

from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess

__all__ = ["AbstractWrappedDenoiser"]


class AbstractWrappedDenoiser(AbstractDenoiser):
    """Another denoiser's process and cost; what is predicted, and what more it costs, is the subclass's.

    Args:
        denoiser: what is wrapped.
    """

    def __init__(self, denoiser: AbstractDenoiser) -> None:
        self.denoiser = denoiser

    @property
    def process(self) -> GaussianProcess:
        """The wrapped denoiser's process."""
        return self.denoiser.process

    @property
    def evaluations(self) -> int:
        """Those of the wrapped denoiser."""
        return self.denoiser.evaluations

    def forwards(self, t: Tensor) -> Tensor:
        """Those of the wrapped denoiser."""
        return self.denoiser.forwards(t)

    def towards(self, s: Tensor | float) -> Self:
        """The same around the wrapped denoiser towards s; see the base class."""
        bound = self.denoiser.towards(s)
        if bound is self.denoiser:
            return self
        other = copy.copy(self)
        other.denoiser = bound
        return other
