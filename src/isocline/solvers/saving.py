"""Which states a solve keeps: recorders for one clock and for samples that each have their own."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from isocline.solvers.solution import SaveAt
from isocline.solvers.stepper import StepResult
from isocline.solvers.tape import Saved

__all__ = ["Recorded", "SampleRecorder", "SharedRecorder"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a step left behind.

    Attributes:
        saved: the states kept.
        cost: evaluations that dense output cost each sample, a count or one per sample.
    """

    saved: tuple[Saved, ...] = ()
    cost: int | Tensor = 0


_NOTHING = Recorded()


class SharedRecorder:
    """Keeps states where one clock holds for the whole batch; everything about times is decided on the host."""

    def __init__(self, saveat: SaveAt, t0: Tensor, t1: Tensor, y0: Tensor, listens: bool = True) -> None:
        """Plan the saves and keep what is wanted at the start.

        Args:
            saveat: what is wanted.
            t0: start, on the CPU, shape () or (B,).
            t1: end, likewise.
            y0: start, shape (B, *event).
            listens: whether anybody wants to know which step left what behind; costs two tensors for every save.

        Raises:
            ValueError: if a save time lies outside the span, or times are asked for where samples have their own spans.
        """
        self._every, self._listens = saveat.steps, listens
        self._device = y0.device
        self._template = y0
        self._order: list[int] = []
        self._keys: list[float] = []
        self._next = 0
        if saveat.ts is not None:
            if t0.ndim or t1.ndim:
                raise ValueError(
                    "SaveAt.ts needs one span for all samples; use SaveAt(steps=True), or scalar t0 and t1"
                )
            ts = saveat.times
            _check_span(ts, t0[None], t1[None])
            self._sign = 1.0 if t1 >= t0 else -1.0
            signed = (self._sign * ts).tolist()
            self._order = sorted(range(len(signed)), key=signed.__getitem__)
            self._keys = [signed[index] for index in self._order]
            self._ts = ts
        self._wants_end = not saveat.steps and saveat.ts is None
        self._end = t1
        self._times: list[Tensor] = []
        self._states: list[Tensor | None] = [None] * (len(self._keys) or int(self._wants_end))
        self.start = self._begin(t0, y0)

    def _begin(self, t0: Tensor, y0: Tensor) -> tuple[Saved, ...]:
        if self._every:
            self._times, self._states = [t0], [y0]
            return self._saved(0, 0.0)
        if not self._keys:
            return ()
        self._next = bisect.bisect_right(self._keys, self._sign * float(t0))
        for place in self._order[: self._next]:
            self._states[place] = y0
        return tuple(saved for place in self._order[: self._next] for saved in self._saved(place, 0.0))

    def stay(self) -> tuple[Saved, ...]:
        """Nothing is integrated: the start is the end."""
        if not self._wants_end:
            return ()
        self._states[0] = self._template
        return self._saved(0, 0.0)

    def step(self, t0: float, t1: float, result: StepResult, time: Callable[[], Tensor], is_last: bool) -> Recorded:
        """Offer an accepted step.

        Args:
            t0: start of the step, not used where samples have their own spans.
            t1: its end, likewise.
            result: the step.
            time: makes its end as a tensor on the CPU, for the list of times.
            is_last: whether the solve ends here.

        Raises:
            ValueError: if a save time lies within the step and the stepper has no dense output.
        """
        if self._every:
            self._times.append(time())
            self._states.append(result.y1)
            return Recorded(self._saved(len(self._states) - 1, 1.0))
        if self._wants_end:
            if not is_last:
                return _NOTHING
            self._states[0], self._times = result.y1, [time()]
            return Recorded(self._saved(0, 1.0))
        if self._next == len(self._keys) or self._keys[self._next] > self._sign * t1:
            return _NOTHING
        return self._crossed(t0, t1, result)

    def _crossed(self, t0: float, t1: float, result: StepResult) -> Recorded:
        saved: list[Saved] = []
        cost = 0
        while self._next < len(self._keys) and self._keys[self._next] <= self._sign * t1:
            time, place = self._sign * self._keys[self._next], self._order[self._next]
            self._next += 1
            theta = 1.0 if time == t1 else (time - t0) / (t1 - t0)
            if theta == 1.0:
                state = result.y1
            elif result.dense is None:
                raise ValueError(
                    f"SaveAt.ts has {time}, within a step of a stepper without dense output; put it on the grid"
                )
            else:
                state = result.dense.evaluate(torch.full((), theta, dtype=torch.float64, device=self._device))
                cost = result.dense.nfe
            self._states[place] = state
            saved.extend(self._saved(place, theta))
        return Recorded(tuple(saved), cost)

    def _saved(self, place: int, theta: float) -> tuple[Saved, ...]:
        if not self._listens:
            return ()
        share = torch.tensor(theta, dtype=torch.float64, device=self._device)
        return (Saved(torch.tensor([place]), None, share),)

    def ts(self) -> Tensor:
        """Save times on the CPU, shape (K,), or (K, B) where samples have their own spans."""
        return self._ts if self._keys else torch.stack(self._times or [self._end])

    def states(self) -> Tensor:
        """Saved states, shape (K, B, *event), NaN where the solve did not get."""
        if any(state is None for state in self._states):
            missing = torch.full_like(self._template, torch.nan)
            return torch.stack([missing if state is None else state for state in self._states])
        return torch.stack([state for state in self._states if state is not None])


class SampleRecorder:
    """Keeps states of samples that reach the save times at different steps."""

    def __init__(self, saveat: SaveAt, t0: Tensor, t1: Tensor, y0: Tensor) -> None:
        """Keep what is wanted at the start.

        Args:
            saveat: what is wanted.
            t0: start of each sample, shape (B,).
            t1: end of each sample, shape (B,).
            y0: start, shape (B, *event).

        Raises:
            ValueError: if a save time lies outside a sample's span, or steps are asked for.
        """
        if saveat.steps:
            raise ValueError(
                "SaveAt(steps=True) needs one clock, samples under their own control differ in their steps; give ts, "
                "or PIDController(joint=True)"
            )
        self._template = y0
        self._places: list[Tensor] = []
        self._values: list[Tensor] = []
        self._ts: Tensor | None = None
        self._ends: Tensor | None = None
        self.start: tuple[Saved, ...] = ()
        if saveat.ts is None:
            sample = torch.nonzero(t0 == t1).flatten()
            self._keep(torch.zeros_like(sample), sample, y0, 0.0)
            return
        self._sign = (t1 - t0).sign()
        ts = saveat.times.to(t0.device)
        _check_span(ts, t0, t1)
        self._ts = ts
        save, sample = torch.nonzero(ts[:, None] == t0, as_tuple=True)
        self._keep(save, sample, y0, 0.0)

    def _keep(self, save: Tensor, sample: Tensor, y0: Tensor, theta: float) -> None:
        if not len(sample):
            return
        self._store(save, sample, y0[sample])
        self.start = (Saved(save, sample, torch.full(save.shape, theta, dtype=torch.float64, device=y0.device)),)

    def step(self, rows: Tensor, t0: Tensor, t1: Tensor, accept: Tensor, ends: Tensor, result: StepResult) -> Recorded:
        """Offer a step of the samples ``rows``, taken where ``accept``; ``ends`` are those whose last step it is.

        Raises:
            ValueError: if a save time lies within the step and the stepper has no dense output.
        """
        if self._ts is None:
            local = torch.nonzero(accept & ends).flatten()
            if not len(local):
                return _NOTHING
            return self._save(torch.zeros_like(local), local, rows, torch.ones_like(t1[local]), result)
        sign, ts = self._sign[rows], self._ts[:, None]
        hit = accept & (sign * (ts - t0) > 0) & (sign * (t1 - ts) >= 0)
        save, local = torch.nonzero(hit, as_tuple=True)
        if not len(save):
            return _NOTHING
        time, start, end = self._ts[save], t0[local], t1[local]
        theta = torch.where(time == end, 1.0, (time - start) / (end - start))
        recorded = self._save(save, local, rows, theta, result)
        if result.dense is None or not result.dense.nfe:
            return recorded
        return Recorded(recorded.saved, result.dense.nfe * (hit & (ts != t1)).any(0).long())

    def _save(self, save: Tensor, local: Tensor, rows: Tensor, theta: Tensor, result: StepResult) -> Recorded:
        at_end = theta == 1
        if bool(at_end.all()):
            values = result.y1[local]
        elif result.dense is None:
            raise ValueError("SaveAt.ts has a time within a step of a stepper without dense output; use a fixed grid")
        else:
            values = result.dense.evaluate(theta, local)
            mask = at_end.reshape(-1, *([1] * (values.ndim - 1)))
            values = torch.where(mask, result.y1[local], values)
        self._store(save, rows[local], values)
        return Recorded((Saved(save, local, theta),))

    def store(self, sample: Tensor, values: Tensor) -> None:
        """Keep end states of samples, if ends are wanted."""
        if self._ts is None:
            self._places.append(sample)
            self._values.append(values)

    def store_all(self, values: Tensor) -> None:
        """Keep the end states of all samples in their order, if ends are wanted; nothing else was kept."""
        if self._ts is None:
            self._ends = values

    def _store(self, save: Tensor, sample: Tensor, values: Tensor) -> None:
        self._places.append(save * len(self._template) + sample)
        self._values.append(values)

    def states(self) -> Tensor:
        """Saved states, shape (K, B, *event), NaN where a sample did not get."""
        if self._ends is not None:
            return self._ends[None]
        count = 1 if self._ts is None else len(self._ts)
        shape = self._template.shape
        empty = self._template.new_full((count * shape[0], *shape[1:]), float("nan"))
        if not self._places:
            return empty.reshape(count, *shape)
        return empty.index_copy(0, torch.cat(self._places), torch.cat(self._values)).reshape(count, *shape)


def _check_span(ts: Tensor, t0: Tensor, t1: Tensor) -> None:
    outside = (ts[:, None] < torch.minimum(t0, t1)) | (ts[:, None] > torch.maximum(t0, t1))
    if bool(outside.any()):
        save, sample = torch.nonzero(outside)[0].tolist()
        span = f"from {t0[sample].item()} to {t1[sample].item()}"
        alike = bool((t0 == t0[0]).all() & (t1 == t1[0]).all())
        where = "" if alike else f" of sample {sample}"
        raise ValueError(f"SaveAt.ts has {ts[save].item()}, outside the span{where} {span}; drop it")
