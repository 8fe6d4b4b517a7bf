"""What depends on a grid's positions alone, found once: the batches of a run, and a step's stages, share it.

Schedules and conversions are float64 numbers, some tens of operations on one number each; beside a small network they
are the larger part of a step. Kept as numbers of the host they also join: scale and conversion are one factor of the
state, so that the slope costs two passes over it. Results agree with those of untabulated fields to rounding. Times
that a derivative is wanted of, that differ between samples, or that live on a device (where reading one would wait for
it) are not looked up.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser, Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DifferencePrediction, conversion
from isocline.processes.probability_flow import AbstractVariable, LinearPathVariable
from isocline.solvers.kept import kept
from isocline.solvers.problem import VectorField

__all__ = ["tabulated_variable"]

_SIZE = 4096


def tabulated_variable(variable: AbstractVariable) -> AbstractVariable:
    """Return a variable that looks its numbers up; the same one if it is not the straight path's."""
    return _TABULATED if type(variable) is LinearPathVariable else variable


class _TabulatedPath(LinearPathVariable):
    """`LinearPathVariable` with times, scales and a plain network's conversions from tables."""

    def field(self, denoiser: AbstractDenoiser) -> VectorField:
        usual = super().field(denoiser)
        if type(denoiser) is not Denoiser:
            return usual
        process, own = denoiser.process, denoiser.process.prediction

        def difference(s: Tensor, y: Tensor, cond: Any) -> Tensor:
            if not _is_number(s):
                return usual(s, y, cond)
            place = float(s)
            asked, gains = _question(process, place), _gains(process, place)
            p = denoiser.predict(asked.t, _times(y, asked.scale), cond, own)
            if gains.of_state == 0:
                return _times(p, gains.of_prediction)
            return (y * gains.of_state).add_(p, alpha=gains.of_prediction)

        return difference

    def question(self, process: GaussianProcess, s: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if not _is_number(s):
            return super().question(process, s, y)
        asked = _question(process, float(s))
        return asked.t, _times(y, asked.scale)

    def to_state(self, process: GaussianProcess, s: Tensor, y: Tensor) -> Tensor:
        return _times(y, _scale(process, float(s))) if _is_number(s) else super().to_state(process, s, y)

    def from_state(self, process: GaussianProcess, s: Tensor, x: Tensor) -> Tensor:
        return _times(x, 1 / _scale(process, float(s))) if _is_number(s) else super().from_state(process, s, x)


_TABULATED = _TabulatedPath()


class _Question(NamedTuple):
    """When and where a denoiser is asked: the time ``()``, and the factor of y that gives x."""

    t: Tensor
    scale: float


class _Gains(NamedTuple):
    """The slope ε − x_0 as a combination of the state y and a network's own prediction."""

    of_state: float
    of_prediction: float


def _is_number(t: Tensor) -> bool:
    return t.ndim == 0 and t.device.type == "cpu" and t.dtype == torch.float64 and not t.requires_grad


def _times(y: Tensor, factor: float) -> Tensor:
    return y if factor == 1 else y * factor


@kept(maxsize=_SIZE)
def _question(process: GaussianProcess, s: float) -> _Question:
    one = torch.ones((), dtype=torch.float64)
    t, scale = LinearPathVariable().question(process, torch.tensor(s, dtype=torch.float64), one)
    return _Question(t, float(scale))


@functools.lru_cache(maxsize=_SIZE)
def _gains(process: GaussianProcess, s: float) -> _Gains:
    t, scale = _question(process, s)
    of_x, of_prediction = conversion(process.schedule(t), process.prediction, DifferencePrediction())
    return _Gains(float(of_x) * scale, float(of_prediction))


@functools.lru_cache(maxsize=_SIZE)
def _scale(process: GaussianProcess, s: float) -> float:
    return float(LinearPathVariable().scale(process, torch.tensor(s, dtype=torch.float64)))
