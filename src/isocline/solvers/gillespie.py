"""Exact simulation of Markov chains with general rates, one jump at a time: the direct method, and by thinning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from isocline.solvers.markov import clean_rates, draw_symbols
from isocline.solvers.markov_clock import AbstractClock, UniformClock
from isocline.solvers.markov_jumps import AbstractJumpStepper, Jump, Walk, exponentials

__all__ = ["Gillespie", "RateBound", "ThinnedGillespie"]

RateBound: TypeAlias = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
"""``bound(t, end, z, cond) -> (n,)``: at least the rate of leaving ``z`` (n, L) at any time from t (n,) to end (n,)."""


class _Known(NamedTuple):
    """Rates that were evaluated already, which hold until the sample jumps.

    Attributes:
        rates: shape (B, L, V), float64.
        holds: for which samples, bool, shape (B,).
        valid: whether they are rates, bool, shape (B,).
    """

    rates: Tensor
    holds: Tensor
    valid: Tensor


class _Memory:
    """The rates of every sample, found when first asked for."""

    def __init__(self, known: _Known | None) -> None:
        self.known = known

    def at(self, walk: Walk, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rates (n, L, V) of some samples, and whether they are valid (n,); evaluates those that are not known."""
        missing = rows if self.known is None else rows[~self.known.holds[rows]]
        if len(missing):
            rates, valid = clean_rates(walk.evaluate(missing, walk.t[missing]), walk.z[missing])
            if self.known is None:
                nothing = torch.zeros(len(walk.z), dtype=torch.bool, device=rates.device)
                empty = rates.new_zeros(len(walk.z), *rates.shape[1:])
                self.known = _Known(empty, nothing, nothing.clone())
            self.known.rates[missing], self.known.valid[missing], self.known.holds[missing] = rates, valid, True
        assert self.known is not None
        return self.known.rates[rows], self.known.valid[rows]


@dataclass(frozen=True)
class Gillespie(AbstractJumpStepper):
    """The direct method: an exponential waiting time at the total rate, then one position's jump, by its rate.

    For rates ``β(t) R(z)``: the problem's ``rate`` is R, which does not depend on t, and the clock integrates β.
    Waiting times are found by inverting that integral (exactly; piecewise constant, or in closed form). For rates
    that depend on t in another way see `ThinnedGillespie`: the direct method would hold them constant between jumps.

    A sample with N jumps costs N + 1 evaluations, whatever the grid: the rates of its last state are carried along.

    Source: Gillespie, Exact stochastic simulation of coupled chemical reactions (1977).

    Attributes:
        clock: ∫ β; by default β = 1.
        max_jumps: jumps of one sample that a step may take.
    """

    clock: AbstractClock = field(default_factory=UniformClock)
    max_jumps: int = 1_000_000

    def begin(self, walk: Walk, carry: Any) -> _Memory:
        """The rates that the step before found for its last states."""
        return _Memory(None if carry is None else _Known(*(value.clone() for value in carry)))

    def finish(self, memory: _Memory) -> _Known | None:
        """The rates of the last states."""
        return memory.known

    def jump(self, walk: Walk, rows: Tensor, memory: _Memory) -> Jump:
        """See the base class."""
        rates, valid = memory.at(walk, rows)
        generator, flat = walk.problem.generator, rates.flatten(1)
        total = torch.where(valid, flat.sum(1), 0.0)
        amount = exponentials(len(rows), generator, flat.device) / total
        time, happens = self.clock.arrivals(walk.t[rows], walk.end[rows], amount)
        place, symbol = _drawn(flat, happens, rates.shape[-1], generator)
        assert memory.known is not None
        memory.known.holds[rows[happens]] = False
        return Jump(time, happens, place, symbol, ~happens, ~valid)


@dataclass(frozen=True)
class ThinnedGillespie(AbstractJumpStepper):
    """Exact for any rates ``R(t, z)`` whose total has a known bound: candidates at the bound's rate, some turned down.

    A candidate at time τ is a jump with probability ``Σ R(τ, z) / bound``, and then chosen by ``R(τ, z)``. Every
    candidate costs an evaluation, so a tight bound is a fast one. The bound need hold from the present time to the end
    of the grid's step only, for the present tokens: finer grids allow tighter bounds where rates change in time. A
    sample whose rates exceed the bound stops, and its status says so.

    Thinning rather than integrating the hazard numerically: it is exact without an error to control, and asks for the
    network at random times, never at a quadrature's nodes.

    Source: Lewis and Shedler, Simulation of nonhomogeneous Poisson processes by thinning (1979); with the same bound
    for all states it is uniformisation: Chen and Ying, Convergence analysis of discrete diffusion model: exact
    implementation through uniformization (2024).

    Attributes:
        bound: a number for all states and times, or see `RateBound`; per unit of ``|dt|``; no evaluation is counted.
        max_jumps: candidates of one sample that a step may take.

    Raises:
        ValueError: if the bound is a number that is not positive and finite.
    """

    bound: float | RateBound
    max_jumps: int = 1_000_000

    def __post_init__(self) -> None:
        if not callable(self.bound) and not 0 < self.bound < float("inf"):
            raise ValueError(f"bound={self.bound}; expected a positive number, at least the total rate of any state")

    def jump(self, walk: Walk, rows: Tensor, memory: Any) -> Jump:
        """See the base class."""
        generator, t, end = walk.problem.generator, walk.t[rows], walk.end[rows]
        bound = self._bound(walk, rows)
        valid = (bound >= 0) & bound.isfinite()
        wait = exponentials(len(rows), generator, t.device) / torch.where(valid, bound, 0.0)
        arrives = wait < (end - t).abs()
        time = torch.where(arrives, torch.addcmul(t, walk.sign[rows], wait), t)
        happens, place, symbol = arrives.clone(), torch.zeros_like(rows), torch.zeros_like(rows)
        if bool(arrives.any()):
            asked = rows[arrives]
            rates, sound = clean_rates(walk.evaluate(asked, time[arrives]), walk.z[asked])
            flat = rates.flatten(1)
            total = torch.where(sound, flat.sum(1), 0.0)
            share = torch.rand(len(asked), generator=generator, dtype=torch.float64, device=generator.device)
            happens[arrives] = share.to(t.device) * bound[arrives] < total
            valid[arrives] = sound & (total <= bound[arrives] * (1 + 1e-9))
            place[arrives], symbol[arrives] = _drawn(flat, happens[arrives], rates.shape[-1], generator)
        return Jump(time, happens, place, symbol, ~arrives, ~valid)

    def _bound(self, walk: Walk, rows: Tensor) -> Tensor:
        bound = self.bound
        if not callable(bound):
            return torch.full_like(walk.t[rows], bound)
        whole = len(rows) != len(walk.z) and not walk.problem.separable
        end = walk.end if whole else walk.end[rows]
        return walk.ask(lambda problem, t, z: bound(t, end, z, problem.cond).double(), rows, walk.t[rows])


def _drawn(flat: Tensor, happens: Tensor, symbols: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Position and symbol of the jump by rates (n, L·V), each (n,), drawn where one happens, zero elsewhere."""
    entry = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    entry[happens] = draw_symbols(flat[happens], generator)
    return entry // symbols, entry % symbols
