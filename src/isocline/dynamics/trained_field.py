"""A trained network as what it is everywhere here: a vector field, integrated from a start to an end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isocline.processes.denoiser import AbstractDenoiser
from isocline.solvers.problem import VectorField

__all__ = ["KINDS", "TrainedField"]

KINDS = ("image", "text", "density", "classifier", "depth")


@dataclass(frozen=True)
class TrainedField:
    """A field ``f(t, x, cond) -> dx`` with the span and the states that it is used on.

    The time is the one that the model's own flow runs in, and goes either way: an image flow is integrated from noise
    (`start`, at most 1) to data (`end`), a classifier from 0 to 1, a network's depth from 0 to the number of its
    layers L, where one Euler step of length 1 is one layer.

    The field works in the precision of the weights and returns the dtype of its state; attention is computed by the
    plain formula, which alone has derivatives of all kinds.

    Attributes:
        name: of the model.
        kind: one of ``image``, ``text``, ``density``, ``classifier``, ``depth``.
        network: its weights.
        make: makes the field of a network with these weights in any precision.
        start: where integration begins.
        end: where it ends.
        starts: ``starts(count, seed)``, typical states at `start`, ``(count, *event)`` in the network's dtype; row i
            depends on the seed and i alone.
        labels: ``labels(count, seed)``, int64 classes of those states ``(count,)``: the condition of a conditional
            network, the true class of a classifier's images; None where there are none.
        conditional: whether `labels` are a condition, to be handed to the field.
        denoiser: the network under its Gaussian process, where it has one.
        readout: logits of a classifier from a state at `end`; None for others.
    """

    name: str
    kind: str
    network: nn.Module
    make: Callable[[nn.Module], VectorField]
    start: float
    end: float
    starts: Callable[[int, int], Tensor]
    labels: Callable[[int, int], Tensor] | None = None
    conditional: bool = False
    denoiser: AbstractDenoiser | None = None
    readout: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind = {self.kind!r}: there are {', '.join(KINDS)}")
        object.__setattr__(self, "_field", _plain(self.make(self.network), _precision(self.network)))

    @property
    def field(self) -> VectorField:
        """The field, at times ``()`` or ``(B,)`` and states ``(B, *event)``."""
        made: VectorField = self._field  # type: ignore[attr-defined]
        return made

    def in_dtype(self, dtype: torch.dtype) -> VectorField:
        """Return the same field with weights, and all that it computes, in another precision.

        Args:
            dtype: ``torch.float64`` for references, ``torch.bfloat16`` to see what is lost.
        """
        return _plain(self.make(_cast(self.network, dtype)), dtype)

    def condition(self, count: int, seed: int) -> Tensor | None:
        """Return what is handed to the field as ``cond`` with ``starts(count, seed)``."""
        return self.labels(count, seed) if self.conditional and self.labels is not None else None


def _precision(network: nn.Module) -> torch.dtype:
    return next(weight.dtype for weight in network.parameters() if weight.is_floating_point())


def _cast(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    return copy.deepcopy(network).to(dtype)


def _plain(field: VectorField, dtype: torch.dtype) -> VectorField:
    """Put states into the weights' precision and back, and attention into its plain formula."""

    def plain(t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return field(t, x.to(dtype), cond).to(x.dtype)

    return plain
