"""Counter-based randomness: numbers that are a function of their address, not of the order they are asked in.

The 64-bit finaliser of SplitMix64 turns an address (seed, sample, element, counter) into bits. Everything is integer
arithmetic on int64 tensors that wraps around, the same on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["GOLDEN", "combine", "mix64", "normal_pair", "seed_key", "uniform"]

_LIMIT = 1 << 64


def _signed(value: int) -> int:
    value %= _LIMIT
    return value - _LIMIT if value >= _LIMIT // 2 else value


GOLDEN = _signed(0x9E3779B97F4A7C15)
"""The odd number nearest to 2^64 over the golden ratio: SplitMix64's step from one state to the next."""

# Torch shifts int64 arithmetically; (shift, mask, factor) of each round restores the logical shift.
_ROUNDS = (
    (30, (1 << 34) - 1, _signed(0xBF58476D1CE4E5B9)),
    (27, (1 << 37) - 1, _signed(0x94D049BB133111EB)),
)
_LAST_SHIFT, _LAST_MASK = 31, (1 << 33) - 1


def mix64(z: Tensor) -> Tensor:
    """Scramble 64 bits; a bijection in which every input bit flips every output bit with probability near one half.

    Args:
        z: int64 of any shape.

    Returns:
        int64 of the same shape.

    Source: Steele, Lea, Flood, Fast splittable pseudorandom number generators (2014), section 4, with the constants of
    Stafford's variant 13.
    """
    for shift, mask, factor in _ROUNDS:
        z = (z >> shift).bitwise_and_(mask).bitwise_xor_(z).mul_(factor)
    return (z >> _LAST_SHIFT).bitwise_and_(_LAST_MASK).bitwise_xor_(z)


def seed_key(seed: int, device: torch.device) -> Tensor:
    """The key of a seed (any integer; its low 64 bits count), int64, shape ()."""
    return mix64(torch.tensor(_signed(seed), dtype=torch.int64, device=device))


def combine(key: Tensor, counter: Tensor) -> Tensor:
    """The key of a sub-stream: the number at place ``counter`` of SplitMix64's sequence from state ``key``.

    Args:
        key: int64.
        counter: int64, at least 0, broadcastable against ``key``.

    Returns:
        int64 of the common shape.
    """
    return mix64(key + (counter + 1) * GOLDEN)


def uniform(bits: Tensor) -> Tensor:
    """Random bits as float64 in (0, 1]: 53 bits, moved to the middle of their cells, so that never 0."""
    return ((bits >> 11).bitwise_and_((1 << 53) - 1).double() + 0.5) * 2.0**-53


def normal_pair(bits: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent standard normal numbers from one word, float64; half of the bits are the radius, half the angle.

    Source: Box and Muller, A note on the generation of random normal deviates (1958).
    """
    radius = (bits >> 32).double().add_(2.0**31 + 0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    angle = (bits & 0xFFFFFFFF).double().mul_(2 * math.pi * 2.0**-32)
    return angle.cos().mul_(radius), angle.sin_().mul_(radius)
