"""Training batches out of memory, a pure function of (seed, step)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from isocline.datasets.batch import Batch
from isocline.datasets.quantisation import to_float
from isocline.randomness import generator

__all__ = ["StepBatches"]

ROLES = ("x0", "cond", "x1")


class StepBatches(IterableDataset[Batch]):
    """One `Batch` for each global step, the same whether or not training was interrupted in between.

    The samples form an endless stream, epoch after epoch, each epoch a fresh permutation of all samples; step s
    takes positions ``s B … (s+1) B - 1`` of that stream. So every sample is seen exactly once an epoch, no remainder
    is dropped (a batch may straddle two epochs), and step s does not depend on where training began.

    With several processes ``batch_size`` is the *global* batch and each rank takes its contiguous share.

    Args:
        tensors: data by role, first axis the sample: ``x0``, optionally ``cond`` and ``x1``. uint8 images become
            float32 in [-1, 1] (see `quantisation.to_float`); everything else is handed out as it is.
        batch_size: samples per step B, over all ranks.
        seed: seed of the permutations.
        steps: global number of steps; iteration ends there.
        start_step: first step handed out (resumption).
        rank: this process's rank; by default torch.distributed's, or 0.
        world_size: number of processes; by default torch.distributed's, or 1.

    Raises:
        ValueError: for an unknown role, missing ``x0``, lengths that differ, an empty set, or sizes out of range.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        batch_size: int,
        seed: int,
        steps: int,
        start_step: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        super().__init__()
        unknown = sorted(set(tensors) - set(ROLES))
        if unknown or "x0" not in tensors:
            raise ValueError(f"tensors has roles {sorted(tensors)}; expected x0 and optionally cond, x1")
        lengths = {name: int(tensor.shape[0]) for name, tensor in tensors.items()}
        if len(set(lengths.values())) != 1 or lengths["x0"] == 0:
            raise ValueError(f"tensors has lengths {lengths}; every role needs the same, positive number of samples")
        if batch_size < 1 or not 0 <= start_step <= steps:
            raise ValueError(
                f"batch_size = {batch_size}, start_step = {start_step}, steps = {steps}: "
                "need batch_size >= 1 and 0 <= start_step <= steps"
            )
        self.tensors = dict(tensors)
        self.size = lengths["x0"]
        self.batch_size = batch_size
        self.seed = seed
        self.steps = steps
        self.start_step = start_step
        self.rank = rank
        self.world_size = world_size
        self._orders: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Return all steps, also those before ``start_step``: Lightning goes on counting where it was interrupted."""
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.start_step, self.steps):
            yield self.batch(step)

    def batch(self, step: int) -> Batch:
        """Return this rank's part of the batch of a global step."""
        index = self.indices(step)
        x0, cond, x1 = (None if (t := self.tensors.get(role)) is None else t[index] for role in ROLES)
        assert x0 is not None
        return Batch(x0=to_float(x0) if x0.dtype == torch.uint8 else x0, cond=cond, x1=x1)

    def indices(self, step: int) -> Tensor:
        """Return the sample indices of this rank at a global step, shape ``(B / world_size,)`` int64."""
        rank, world_size = self._place()
        if self.batch_size % world_size:
            raise ValueError(
                f"batch_size = {self.batch_size} is not a multiple of the {world_size} processes; choose one that is"
            )
        share = self.batch_size // world_size
        position, parts = step * self.batch_size + rank * share, []
        while share:
            epoch, offset = divmod(position, self.size)
            part = self._order(epoch)[offset : offset + share]
            parts.append(part)
            position += len(part)
            share -= len(part)
        return torch.cat(parts)

    def _order(self, epoch: int) -> Tensor:
        """Return the permutation of an epoch; the two latest are kept."""
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = torch.randperm(self.size, generator=generator(self.seed, "epoch", epoch))
        return self._orders[epoch]

    def _place(self) -> tuple[int, int]:
        """Return (rank, world size): as given, else torch.distributed's, else a single process."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = self.rank if self.rank is not None else (torch.distributed.get_rank() if distributed else 0)
        size = self.world_size
        if size is None:
            size = torch.distributed.get_world_size() if distributed else 1
        return rank, size
