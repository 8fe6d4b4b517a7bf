"""What depends on a grid's positions alone, found once: the batches of a run, and a step's stages, share it.

Schedules and conversions are float64 numbers, some tens of operations on one number each; beside a small network they
are the larger part of a step. Looked up they are the same numbers to the bit. Times that a derivative is wanted of,
that differ between samples, or that live on a device (where reading one would wait for it) are not looked up.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from isocline.processes.denoiser import AbstractDenoiser, Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import AbstractPrediction, conversion
from isocline.processes.probability_flow import AbstractVariable, LinearPathVariable
from isocline.processes.schedule import AbstractSchedule
from isocline.samplers.wrapped_denoiser import AbstractWrappedDenoiser

__all__ = ["tabulated_denoiser", "tabulated_variable"]

_SIZE = 4096


def tabulated_denoiser(denoiser: AbstractDenoiser) -> AbstractDenoiser:
    """Return a denoiser that looks its conversions up; the same one if it is more than a network under a process."""
    return _TabulatedDenoiser(denoiser) if type(denoiser) is Denoiser else denoiser


def tabulated_variable(variable: AbstractVariable) -> AbstractVariable:
    """Return a variable that looks its times and scales up; the same one if it is not the straight path's."""
    return _TABULATED if type(variable) is LinearPathVariable else variable


class _TabulatedDenoiser(AbstractWrappedDenoiser):
    """`Denoiser` with conversions from a table."""

    def predict(self, t: Tensor, x: Tensor, cond: Any, to: AbstractPrediction) -> Tensor:
        own = self.process.prediction
        if to == own or not _is_number(t):
            return self.denoiser.predict(t, x, cond, to)
        p = self.denoiser.predict(t, x, cond, own)
        from_x, from_p = _factors(self.process.schedule, own, to, float(t), x.dtype)
        return from_x * x + from_p * p


class _TabulatedPath(LinearPathVariable):
    """`LinearPathVariable` with times and scales from a table."""

    def question(self, process: GaussianProcess, s: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if not _is_number(s):
            return super().question(process, s, y)
        t, scale = _place(process, float(s), y.dtype)
        return t, y * scale


_TABULATED = _TabulatedPath()


def _is_number(t: Tensor) -> bool:
    return t.ndim == 0 and t.device.type == "cpu" and t.dtype == torch.float64 and not t.requires_grad


# A tensor made in inference mode could not be used outside of it.


@functools.lru_cache(maxsize=_SIZE)
@torch.inference_mode(False)
def _factors(
    schedule: AbstractSchedule, source: AbstractPrediction, target: AbstractPrediction, t: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    from_x, from_p = conversion(schedule(torch.tensor(t, dtype=torch.float64)), source, target)
    return from_x.to(dtype), from_p.to(dtype)


@functools.lru_cache(maxsize=_SIZE)
@torch.inference_mode(False)
def _place(process: GaussianProcess, s: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return LinearPathVariable().question(process, torch.tensor(s, dtype=torch.float64), torch.ones((), dtype=dtype))
