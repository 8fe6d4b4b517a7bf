"""What every training objective is: a loss of a network on a batch, with all randomness handed in."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch

__all__ = ["Distiller", "Loss", "Objective"]


class Loss(NamedTuple):
    """Result of an objective.

    Attributes:
        total: scalar to differentiate.
        terms: detached scalars, logged by name.
    """

    total: Tensor
    terms: dict[str, Tensor]


class Objective(nn.Module, ABC):
    """A training objective: ``objective(network, batch, generator) -> Loss``.

    It is a module so that what it carries (targets, counters) moves between devices and enters ``state_dict``:
    the latter holds all that a resumed run needs. Its parameters are trained beside the network's if they require a
    gradient, as those of a learned schedule do; all else that it carries does not.
    """

    @abstractmethod
    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate the loss.

        Args:
            network: the network in training, called as ``network(t, x, cond)``.
            batch: data ``x0 (B, *event)``, optional condition and paired noise.
            generator: source of every random draw, on the batch's device.

        Returns:
            The scalar loss and its logged terms.
        """

    def prepare(self, network: nn.Module) -> None:
        """Make what is kept of the network in training; called once, before a checkpoint is loaded.

        Args:
            network: the network as training begins.
        """

    def after_step(self, network: nn.Module, step: int) -> None:
        """Update internal state after an optimiser step.

        Args:
            network: the network just updated.
            step: number of optimiser steps done so far (1 after the first).
        """


@dataclass
class _Tally:
    """Rows seen since the buffer was last brought up to date."""

    rows: int = 0


class Distiller(Objective):
    """An objective that also holds a frozen teacher.

    The teacher follows ``.to(device)`` but is hidden from ``state_dict``, ``parameters`` and ``train``: it is an
    input of the run, restored from its own artefact and always in evaluation mode.

    What is asked of the teacher is counted, one evaluation per sample and forward; a call under `torch.func.jvp`
    counts as one too, though its tangent costs about another. The count is in the state, so a resumed run goes on.

    Args:
        teacher: network under the same process as the student, called as ``teacher(t, x, cond)``.
    """

    teacher_evaluations: Tensor

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        # A tuple keeps the module out of nn.Module's registry.
        self._frozen = (teacher.requires_grad_(False).eval(),)
        self.register_buffer("teacher_evaluations", torch.zeros((), dtype=torch.int64))
        self._tally = _Tally()
        self.count_as_teacher(teacher)

    @property
    def teacher(self) -> nn.Module:
        """The frozen teacher network."""
        return self._frozen[0]

    def count_as_teacher(self, module: nn.Module) -> None:
        """Count the calls of a module that stands in for the teacher, such as the student of an earlier round."""
        tally, watched = self._tally, weakref.ref(module)

        def count(called: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if called is watched():  # copies of the module carry the hook along
                tally.rows += len(args[1])

        module.register_forward_hook(count)

    def evaluations(self) -> int:
        """Bring `teacher_evaluations` up to date and return it: samples times forwards, since the run began."""
        # Counted in a plain integer between times: transforms of torch.func forbid writing to a buffer.
        self.teacher_evaluations += self._tally.rows
        self._tally.rows = 0
        return int(self.teacher_evaluations)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.evaluations()
        super()._save_to_state_dict(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._tally.rows = 0
        super()._load_from_state_dict(*args, **kwargs)  # type: ignore[no-untyped-call]

    # The one hook that .to(), .cuda() and .float() all pass through.
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.teacher._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
