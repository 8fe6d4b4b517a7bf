"""The same dropout masks for two networks: the global random streams are set back for the second.

Dropout draws from the global stream of the device that the network is on, which no generator that is handed in
reaches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["SharedDropout"]


class SharedDropout:
    """Remembers where the global random streams stand, the device's included, and runs something from there.

    Source: *Consistency Models*, Song et al., 2023, App. C, and *Improved Techniques for Training Consistency
    Models*, Song & Dhariwal, 2024, §3.1: masks that differ between student and target add noise to the loss.

    Args:
        device: of the networks.
    """

    def __init__(self, device: torch.device) -> None:
        self.accelerator = None if device.type == "cpu" else torch.get_device_module(device)
        self.states = self._read()

    def _read(self) -> tuple[Tensor, ...]:
        host = torch.get_rng_state()
        return (host,) if self.accelerator is None else (host, self.accelerator.get_rng_state())

    def _write(self, states: tuple[Tensor, ...]) -> None:
        torch.set_rng_state(states[0])
        if self.accelerator is not None:
            self.accelerator.set_rng_state(states[1])

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Run the body from the remembered place; afterwards the streams are where they were before it."""
        now = self._read()
        self._write(self.states)
        try:
            yield
        finally:
            self._write(now)
