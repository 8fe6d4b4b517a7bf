"""The solve once more, along the recorded steps, with a graph: for derivatives of derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from isocline.solvers.gradient.steps import (
    Course,
    Needs,
    State,
    Step,
    Taken,
    advance,
    begin,
    state_before,
    states_within,
)

__all__ = ["replay", "take_segment"]

Segment: TypeAlias = tuple[State, list[tuple[Tensor, Tensor]]]
"""The state after some steps, and the states kept from them with their places."""

TakeSegment: TypeAlias = Callable[[Course, Sequence[Step], Needs, int, State], Segment]


def replay(
    course: Course,
    y0: Tensor,
    steps: Sequence[Step],
    needs: Needs,
    shape: torch.Size,
    segments: Sequence[tuple[int, int]],
    take: TakeSegment,
) -> Tensor:
    """Take all steps again.

    Args:
        course: the solve, the ``cond`` of its problem not detached.
        y0: its start, not detached.
        steps: its steps.
        needs: which samples matter.
        shape: of the output, (K, B, *event).
        segments: ranges of steps.
        take: takes the steps of one range.

    Returns:
        The saved states; NaN where nothing was saved.
    """
    state = begin(course, y0, needs.at(0))
    found = []
    for saved in course.saved:
        samples = torch.arange(len(y0), device=y0.device) if saved.local is None else saved.local
        found.append(((saved.save.to(y0.device) * len(y0)) + samples, y0[samples]))
    for first, end in segments:
        state, kept = take(course, steps[first:end], needs, first, state)
        found += kept
    flat = y0.new_full((shape[0] * shape[1], *shape[2:]), torch.nan)
    if found:
        places, values = zip(*found, strict=True)
        flat = flat.index_copy(0, torch.cat(places), torch.cat(values))
    return flat.reshape(shape)


def take_segment(course: Course, steps: Sequence[Step], needs: Needs, first: int, state: State) -> Segment:
    """Take some steps again; ``first`` is the number of the first."""
    found: list[tuple[Tensor, Tensor]] = []
    for index, step in enumerate(steps, first):
        taken = Taken.of(step, course.choose, needs.at(index))
        if taken is not None:
            state, result = advance(course, taken, state, state_before(course, taken, state))
            found += states_within(taken, result)
    return state, found
