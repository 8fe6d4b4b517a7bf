"""ω-limit sets of flows by long integration and the return map of a section."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.attractors import LimitKind, LimitSets
from isocline.dynamics.distinct import spread
from isocline.dynamics.system import Flow, check_states, row_rms
from isocline.solvers import Dopri8, Event, ODEProblem, PIDController, SaveAt, Solution, Status, solve
from isocline.solvers.controller import AbstractAdaptiveController
from isocline.solvers.rows import select_rows
from isocline.solvers.stepper import AbstractStepper

__all__ = ["FlowLimits"]


class _Section(NamedTuple):
    """What travels with each sample: the law's condition, and a plane ``normal · (y - anchor) = 0``."""

    cond: Any
    normal: Tensor
    anchor: Tensor


class _Scaled(NamedTuple):
    """The law's condition, and the length of each sample's unit of time."""

    cond: Any
    length: Tensor


@dataclass(frozen=True)
class FlowLimits:
    """Follows an autonomous flow to what it settles on.

    After ``horizon`` the trajectory is watched for another quarter of it. At rest, all states seen are within the
    tolerance. Otherwise a plane through the last state, across the flow, is the section of a return map: a trajectory
    whose return comes within ``closure`` of the amplitude is on a cycle, and the time until then is its period; after
    ``returns`` of them, or a horizon without one, it has not settled. A spiral whose turns shrink by less than the
    closure cannot be told from a cycle: its residual says how far a turn came in.

    Source: Parker, Chua, Practical Numerical Algorithms for Chaotic Systems (1989), chapters 2 and 5.

    Attributes:
        horizon: time to settle, above 0.
        tolerance: largest movement at rest, in units of the starts' spread.
        closure: distance of a return that closes a cycle, in units of its amplitude.
        returns: most crossings of the section that one period may have.
        samples: S, states kept of each cycle.
        stepper: `isocline.solvers.Dopri8` by default.
        controller: with steps for each sample; ``PIDController(rtol=1e-8, atol=1e-10)`` by default.

    Raises:
        ValueError: if a value is not positive.
    """

    horizon: float
    tolerance: float = 1e-4
    closure: float = 1e-3
    returns: int = 8
    samples: int = 64
    stepper: AbstractStepper = dataclasses.field(default_factory=Dopri8)
    controller: AbstractAdaptiveController = dataclasses.field(
        default_factory=lambda: PIDController(rtol=1e-8, atol=1e-10)
    )

    def __post_init__(self) -> None:
        for key in ("horizon", "tolerance", "closure", "returns", "samples"):
            if getattr(self, key) <= 0:
                raise ValueError(f"{key}={getattr(self, key)}; expected a positive number")

    def find(self, system: Flow, starts: Tensor) -> LimitSets:
        """Follow every start.

        Args:
            system: the flow, whose time is frozen.
            starts: shape (B, *event).

        Raises:
            TypeError, ValueError: if the starts are no batch of finite states.
        """
        check_states(starts, "starts")
        with torch.no_grad():
            return self._find(system, starts)

    def _find(self, system: Flow, starts: Tensor) -> LimitSets:
        law, frozen, watch = system.law, system.time(starts), self.horizon / 4

        def field(t: Tensor, x: Tensor, cond: Any) -> Tensor:
            return law(frozen, x, cond)

        first = self._solve(ODEProblem(field, starts, 0.0, self.horizon, system.cond))
        safe = torch.where(_column(first.succeeded, starts), first.final, starts)
        times = torch.linspace(0, watch, 33, dtype=torch.float64)
        second = self._solve(ODEProblem(field, safe, 0.0, watch, system.cond), SaveAt(times))
        alive = first.succeeded & second.succeeded
        x = torch.where(_column(alive, starts), second.final, starts)
        amplitude = _amplitude(second.ys)
        rests = alive & (amplitude <= self.tolerance * spread(starts))
        kinds = torch.where(rests, int(LimitKind.FIXED_POINT), int(LimitKind.UNSETTLED))
        kinds = torch.where(alive, kinds, int(LimitKind.ESCAPED))
        evaluations = first.stats.nfe + second.stats.nfe
        limits = LimitSets(
            kinds,
            torch.where(_column(alive, x), x, first.final),
            torch.where(rests, 0.0, torch.nan).double(),
            torch.where(rests, amplitude, torch.nan),
            x[None].repeat(self.samples, *[1] * x.ndim),
            evaluations,
        )
        rows = torch.nonzero(alive & ~rests).flatten()
        if len(rows):
            self._close(field, system.at_rows(rows).cond, limits, rows, amplitude[rows])
        return limits

    def _close(self, field: Any, cond: Any, limits: LimitSets, rows: Tensor, amplitude: Tensor) -> None:
        """Look for a return of the samples ``rows`` and write down the cycles found."""
        start = limits.points[rows]
        normal = field(None, start, cond)
        period = torch.zeros(len(rows), dtype=torch.float64, device=start.device)
        here, open_ = start, torch.arange(len(rows), device=start.device)
        event = Event(lambda t, y, section: ((y - section.anchor) * section.normal).flatten(1).sum(1), direction=1)
        for _ in range(self.returns):
            section = _Section(select_rows(cond, open_), normal[open_], here)
            problem = ODEProblem(lambda t, y, s: field(t, y, s.cond), here, 0.0, self.horizon, section)
            solution = self._solve(problem, event=event)
            limits.evaluations[rows[open_]] += solution.stats.nfe
            crossed = solution.status == int(Status.EVENT)
            period[open_] += solution.stopped_at
            distance = row_rms(solution.final - start[open_])
            closed = crossed & (distance <= self.closure * amplitude[open_])
            found = rows[open_[closed]]
            limits.kinds[found] = int(LimitKind.CYCLE)
            limits.periods[found], limits.residuals[found] = period[open_[closed]], distance[closed]
            going = crossed & ~closed
            here, open_ = solution.final[going], open_[going]
            if not len(open_):
                break
        self._trace(field, cond, limits, rows)

    def _trace(self, field: Any, cond: Any, limits: LimitSets, rows: Tensor) -> None:
        """Sample the cycles evenly in time."""
        local = torch.nonzero(limits.kinds[rows] == int(LimitKind.CYCLE)).flatten()
        if not len(local):
            return
        found = rows[local]
        scaled = _Scaled(select_rows(cond, local), limits.periods[found])

        def phase_field(s: Tensor, y: Tensor, pair: _Scaled) -> Tensor:
            return _column(pair.length.to(y.dtype), y) * field(s, y, pair.cond)

        phases = torch.arange(self.samples, dtype=torch.float64) / self.samples
        solution = self._solve(ODEProblem(phase_field, limits.points[found], 0.0, 1.0, scaled), SaveAt(phases))
        limits.orbits[:, found] = solution.ys
        limits.evaluations[found] += solution.stats.nfe

    def _solve(self, problem: ODEProblem, saveat: SaveAt | None = None, event: Event | None = None) -> Solution:
        return solve(problem, self.stepper, self.controller, saveat or SaveAt(), event=event)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _amplitude(states: Tensor) -> Tensor:
    """Largest distance from the mean of states (K, B, *event), root mean square per entry, float64, shape (B,)."""
    centred = states - states.mean(0, keepdim=True)
    return torch.stack([row_rms(one) for one in centred]).amax(0)
