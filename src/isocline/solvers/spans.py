"""Times of samples that each have their own: where they start, stop on the way and end."""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.solvers.controller import AbstractAdaptiveController
from isocline.solvers.problem import AbstractProblem, Time
from isocline.solvers.solution import Status

__all__ = ["end_times", "per_sample", "stops"]


def per_sample(time: Time, y0: Tensor) -> Tensor:
    """A time of every sample, float64, shape (B,), in memory of its own.

    Args:
        time: one for all, or one for each.
        y0: shape (B, *event).

    Raises:
        ValueError: if there are neither one nor B.
    """
    if isinstance(time, int | float):
        return torch.full((len(y0),), time, dtype=torch.float64, device=y0.device)
    value = torch.as_tensor(time, dtype=torch.float64, device=y0.device)
    if value.ndim > 1 or (value.ndim and value.shape[0] != len(y0)):
        raise ValueError(f"a time has shape {tuple(value.shape)}; expected a float or ({len(y0)},), one per sample")
    return value.detach().expand(len(y0)).clone(memory_format=torch.contiguous_format)


def stops(controller: AbstractAdaptiveController, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
    """The times at which a step has to end, sorted, and those of them at which the field jumps; None for none."""
    if not len(controller.jump_ts) and not len(controller.step_ts):
        return None, None
    jumps = torch.as_tensor(controller.jump_ts, dtype=torch.float64, device=device).reshape(-1)
    every = torch.cat([jumps, torch.as_tensor(controller.step_ts, dtype=torch.float64, device=device).reshape(-1)])
    return torch.unique(every), jumps if len(jumps) else None


def end_times(problem: AbstractProblem, stopped: Tensor, code: Tensor | None) -> Tensor:
    """Where the span ends, shape (1,) or (1, B); given the statuses, where an event ended it.

    Args:
        problem: what was integrated.
        stopped: where each sample stopped, shape (B,).
        code: status of each, shape (B,), or None if nothing but the span could end it.
    """
    t1 = torch.as_tensor(problem.t1, dtype=torch.float64).detach().to(stopped.device)
    if code is None:
        return t1[None] if t1.ndim else t1.reshape(1)
    return torch.where(code == int(Status.EVENT), stopped, t1)[None]
