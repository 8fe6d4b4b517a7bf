"""Guidance: denoisers that wrap a denoiser, so that every sampler takes them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import AbstractPrediction

__all__ = ["ClassifierFreeGuidance"]


class ClassifierFreeGuidance(AbstractDenoiser):
    """u + s (c − u), with c the conditional and u the unconditional prediction; s = 1 is conditional, s = 0 not.

    The weights sum to one, so the rule commutes with every conversion of predictions. Others write (1 + w) c − w u:
    s = 1 + w.

    Source: *Classifier-Free Diffusion Guidance*, Ho & Salimans, 2022, Eq. 6.

    Args:
        denoiser: what is guided; its network takes ``cond=None`` as unconditional.
        scale: s.
    """

    def __init__(self, denoiser: AbstractDenoiser, scale: float) -> None:
        self.denoiser = denoiser
        self.scale = scale

    @property
    def process(self) -> GaussianProcess:
        """The wrapped denoiser's process."""
        return self.denoiser.process

    @property
    def evaluations(self) -> int:
        """Twice the wrapped denoiser's."""
        return 2 * self.denoiser.evaluations

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        """Return the guided prediction; two calls.

        Raises:
            ValueError: without a condition.
        """
        if cond is None:
            raise ValueError("cond=None under classifier-free guidance; pass the labels to guide towards")
        unconditional = self.denoiser.predict(t, x, None, to)
        return unconditional + self.scale * (self.denoiser.predict(t, x, cond, to) - unconditional)
