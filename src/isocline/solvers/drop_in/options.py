"""The ``options`` dictionary of a method: which keys it knows, their defaults, and what is wrong with a value."""

from __future__ import annotations

import dataclasses
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from isocline.solvers.drop_in.errors import InvalidArgumentError

__all__ = ["AdaptiveOptions", "GridOptions", "ScipyOptions", "parse_options"]

_STOPS = ("step_t", "jump_t")

OptionsT = TypeVar("OptionsT", "AdaptiveOptions", "GridOptions", "ScipyOptions")


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptiveOptions:
    """Options of methods with error control.

    Attributes:
        first_step: size of the first step; None finds one with one or two evaluations.
        safety: share of the predicted step that is taken.
        ifactor: strongest growth of a step.
        dfactor: strongest reduction.
        max_num_steps: trial steps that a solve may use.
        min_step: steps of this size are taken whatever their error.
        max_step: largest step, and no smaller than min_step.
        step_t: times at which a step has to end (kinks of the field).
        jump_t: likewise, where the field jumps: it is evaluated just before, and again just after.
        norm: of a scaled error, a state in and a number out; None is the root mean square, its largest over a tuple.
        dtype: accepted, without effect: times are float64 always.
        pcoeff: proportional coefficient of the step controller.
        icoeff: integral coefficient.
        dcoeff: derivative coefficient.

    Raises:
        InvalidArgumentError: if a value is out of range.
    """

    first_step: float | Tensor | None = None
    safety: float = 0.9
    ifactor: float = 10.0
    dfactor: float = 0.2
    max_num_steps: int = 2**31 - 1
    min_step: float = 0.0
    max_step: float = math.inf
    step_t: Tensor | None = None
    jump_t: Tensor | None = None
    norm: Callable[[Any], Any] | None = None
    dtype: torch.dtype = torch.float64
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0

    def __post_init__(self) -> None:
        in_range = {
            "first_step": self.first_step is None or float(self.first_step) > 0,
            "safety": 0 < float(self.safety) <= 1,
            "ifactor": float(self.ifactor) >= 1,
            "dfactor": 0 < float(self.dfactor) < 1,
            "max_num_steps": int(self.max_num_steps) >= 1,
            "min_step": float(self.min_step) >= 0,
            "max_step": float(self.max_step) > 0 and float(self.max_step) >= float(self.min_step),
            "norm": self.norm is None or callable(self.norm),
            "dtype": isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point,
        }
        _check(self, in_range)

    def check_stops(self, t0: float, sign: float) -> None:
        """Look for times that are named twice, but before the start, where none matters.

        Args:
            t0: the start.
            sign: direction of time.

        Raises:
            InvalidArgumentError: if there are any.
        """
        step_t, jump_t = ([time for time in self.stops(name) if sign * time >= sign * t0] for name in _STOPS)
        if len(set(step_t + jump_t)) < len(step_t) + len(jump_t):
            raise InvalidArgumentError(
                f"step_t={step_t} and jump_t={jump_t} name a time twice, on their own or between them; drop one"
            )

    def stops(self, name: str) -> list[float]:
        """``step_t`` or ``jump_t`` as numbers, sorted."""
        value = getattr(self, name)
        if value is None:
            return []
        times = torch.as_tensor(value, dtype=torch.float64).detach().reshape(-1)
        return sorted(times.tolist())


@dataclass(frozen=True, kw_only=True, eq=False)
class GridOptions:
    """Options of methods on a fixed grid; without a step size or a grid, steps lead from one output time to the next.

    Attributes:
        step_size: length of every step but the last.
        grid_constructor: ``grid_constructor(func, y0, t) -> grid``, the times of the steps, from ``t[0]`` to ``t[-1]``.
            The components of a tuple are handed to it end to end, as one tensor, and ``func`` takes and gives such.
        interp: "linear" or "cubic", how states at times within a step are found.
        perturb: evaluate the field just inside a step instead of at its ends.
        max_iters: of the iteration for an implicit step; None is the method's own default (20, Adams: 2).
        max_order: of Adams methods; None is 6 (explicit ones take one order less).
        norm: accepted, without effect.

    Raises:
        InvalidArgumentError: if a value is out of range, or ``step_size`` and ``grid_constructor`` are both given.
    """

    step_size: float | Tensor | None = None
    grid_constructor: Callable[[Any, Any, Tensor], Tensor] | None = None
    interp: str = "linear"
    perturb: bool = False
    max_iters: int | None = None
    max_order: int | None = None
    norm: Any = None

    def __post_init__(self) -> None:
        if self.step_size is not None and self.grid_constructor is not None:
            raise InvalidArgumentError("step_size and grid_constructor are mutually exclusive; give one of them")
        in_range = {
            "step_size": self.step_size is None or float(self.step_size) > 0,
            "interp": self.interp in ("linear", "cubic"),
            "max_iters": self.max_iters is None or int(self.max_iters) >= 1,
            "max_order": self.max_order is None or 1 <= int(self.max_order) <= 12,
        }
        _check(self, in_range)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScipyOptions:
    """Options of ``scipy_solver``.

    Attributes:
        solver: method of `scipy.integrate.solve_ivp`.
        min_step: smallest step (LSODA only).
        max_step: largest step.
        norm: accepted, without effect, as the two below.
        grid_points: see above.
        eps: see above.
    """

    solver: str = "LSODA"
    min_step: float = 0.0
    max_step: float = math.inf
    norm: Any = None
    grid_points: Any = None
    eps: Any = None


def parse_options(
    kind: type[OptionsT], method: str, options: Mapping[str, Any] | None, extra: frozenset[str]
) -> OptionsT:
    """Read a method's options; keys that it does not know are named in a warning and ignored.

    Args:
        kind: the dataclass of the method's family.
        method: its name.
        options: what the caller gave.
        extra: keys of the family that only some of its methods know, and this one does.
    """
    given = dict(options or {})
    special = frozenset({"max_iters", "max_order"})
    known = [name for name in inspect.signature(kind).parameters if name not in special or name in extra]
    unknown = {key: given.pop(key) for key in list(given) if key not in known}
    if unknown:
        message = f"{method}: Unexpected arguments {unknown} are ignored; its options are {', '.join(known)}"
        warnings.warn(message, stacklevel=4)
    for field in dataclasses.fields(kind):
        if given.get(field.name, field.default) is None and field.default is not None:
            del given[field.name]
    return kind(**given)


def _check(options: Any, in_range: Mapping[str, bool]) -> None:
    for key, is_fine in in_range.items():
        if not is_fine:
            doc = " ".join((type(options).__doc__ or "").split(f"{key}: ", 1)[1].split("\n", 1)[0].split())
            raise InvalidArgumentError(f"options['{key}']={getattr(options, key)!r} is out of range; it is {doc}")
