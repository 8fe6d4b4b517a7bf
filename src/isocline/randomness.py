"""Named random streams: every consumer derives its own seed, so that adding one never shifts another's draws."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

__all__ = ["Streams", "derive_seed", "generator", "normal", "sample_noise"]

Streams = torch.Generator | Sequence[torch.Generator]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derive a 63-bit seed from a run seed and a purpose by a stable hash (BLAKE2b).

    Args:
        seed: the run's seed.
        purpose: any mixture of names and counters, for instance ``("train", "flow", step)``.

    Returns:
        An integer in ``[0, 2**63)``, the same on every platform and Python version.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (int(seed), *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *purpose: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a fresh generator seeded for one purpose (see `derive_seed`)."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


def sample_noise(seed: int, purpose: str, indices: Iterable[int], shape: Sequence[int]) -> Tensor:
    """Draw standard normal noise that depends on the sample's index alone, not on the batch it is drawn in.

    Args:
        seed: the run's seed.
        purpose: name of the stream.
        indices: global sample indices.
        shape: event shape of one sample.

    Returns:
        float32 noise of shape ``(len(indices), *shape)`` on the CPU.
    """
    return torch.stack([torch.randn(*shape, generator=generator(seed, purpose, index)) for index in indices])


def normal(shape: Sequence[int], streams: Streams, like: Tensor) -> Tensor:
    """Draw standard normal noise from one generator, or each sample's from its own.

    Args:
        shape: ``(B, *event)``.
        streams: a generator, or B of them; with one per sample the draws do not depend on the batch.
        like: gives dtype and device; the draw itself happens where the generator is.

    Raises:
        ValueError: if there are several generators, but not B.
    """
    if isinstance(streams, torch.Generator):
        return torch.randn(*shape, generator=streams, dtype=like.dtype, device=streams.device).to(like.device)
    if len(streams) != shape[0]:
        raise ValueError(f"{len(streams)} generators for {shape[0]} samples; pass one, or one per sample")
    draws = [torch.randn(*shape[1:], generator=one, dtype=like.dtype, device=one.device) for one in streams]
    return torch.stack(draws).to(like.device)
