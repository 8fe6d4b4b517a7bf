"""Distillation in rounds: at the end of each, the student so far becomes the next one's teacher."""

from __future__ import annotations

import copy
from typing import Self

import torch
from torch import Tensor, nn

from isocline.objectives.base import Distiller

__all__ = ["PromotingDistiller"]


class PromotingDistiller(Distiller):
    """A distiller whose student's step is worth several of its teacher's, and is promoted to teach the next round.

    Args:
        teacher: frozen network of the first round.
        teacher_steps: N of the first round; the student of the last round is made for N / factor^rounds steps.
        rounds: number of rounds.
        round_length: optimiser steps per round; needed if there are several.
        factor: steps of the teacher that one of the student's stands for, at least 2.

    Raises:
        ValueError: if N cannot be divided ``rounds`` times, or ``round_length`` is missing.
    """

    round: Tensor

    def __init__(
        self, teacher: nn.Module, teacher_steps: int, rounds: int, round_length: int | None, factor: int = 2
    ) -> None:
        super().__init__(teacher)
        if factor < 2:
            raise ValueError(f"factor = {factor}: a student's step must stand for at least 2 of its teacher's")
        if rounds < 1 or teacher_steps < factor**rounds or teacher_steps % factor**rounds:
            raise ValueError(
                f"teacher_steps = {teacher_steps}, rounds = {rounds}: teacher_steps must be a multiple of "
                f"{factor}^rounds, {factor ** max(rounds, 1)} here, with rounds >= 1"
            )
        if rounds > 1 and (round_length is None or round_length < 1):
            raise ValueError(f"round_length = {round_length}: give the optimiser steps per round when rounds > 1")
        self.teacher_steps = teacher_steps
        self.rounds = rounds
        self.round_length = round_length
        self.factor = factor
        self.register_buffer("round", torch.zeros((), dtype=torch.int64))
        # The teacher of later rounds is a product of this run, so a resumed run needs it: it enters the state.
        self.promoted: nn.Module | None = None

    def prepare(self, network: nn.Module) -> None:
        """Make room for a student of this architecture, which need not be its teacher's."""
        if self.rounds > 1:
            self.promoted = copy.deepcopy(network).requires_grad_(False).eval()
            self.count_as_teacher(self.promoted)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but keep the promoted teacher in evaluation mode."""
        super().train(mode)
        if self.promoted is not None:
            self.promoted.eval()
        return self

    @property
    def current_teacher(self) -> nn.Module:
        """The teacher of the round under way."""
        return self.teacher if self.promoted is None or int(self.round) == 0 else self.promoted

    @property
    def current_steps(self) -> int:
        """The steps that the teacher of the round under way takes, ``factor`` times the student's."""
        return self.teacher_steps // self.factor ** int(self.round)

    def candidate(self, network: nn.Module) -> nn.Module:
        """Return the module whose weights are promoted: the student as it is."""
        return network

    @torch.no_grad()
    def after_step(self, network: nn.Module, step: int) -> None:
        """At the end of a round, make the student the next teacher and divide the number of steps."""
        if self.round_length is None or step % self.round_length or step // self.round_length >= self.rounds:
            return
        if self.promoted is None:
            self.prepare(network)
        assert self.promoted is not None
        self.promoted.load_state_dict(self.candidate(network).state_dict())
        self.round.fill_(step // self.round_length)
