"""A field for continuous normalising flows: smooth in time, so that an adaptive solver may take long steps."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

__all__ = ["ConcatSquashMLP"]


class _ConcatSquash(nn.Module):
    """(W x + b) · sigmoid(w t + c) + v t."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.gate = nn.Linear(1, outputs)
        self.shift = nn.Linear(1, outputs, bias=False)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.linear(x) * self.gate(t).sigmoid() + self.shift(t)


class ConcatSquashMLP(nn.Module):
    """Vector field on R^d whose every layer is gated and shifted by t itself, with tanh between the layers.

    Unlike sinusoidal features of 1000 t, its derivative in t is moderate, and it has all derivatives in x.

    Source: *FFJORD*, Grathwohl et al., 2019, App. B.1 (the "concatsquash" layer).

    Args:
        dim: dimension d of the state.
        width: hidden width.
        depth: number of hidden layers.

    Raises:
        ValueError: if a size is not positive.
    """

    def __init__(self, dim: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        for name, value in (("dim", dim), ("width", width), ("depth", depth)):
            if value < 1:
                raise ValueError(f"{name} = {value}: must be a positive integer")
        sizes = [dim, *[width] * depth, dim]
        self.layers = nn.ModuleList(_ConcatSquash(a, b) for a, b in pairwise(sizes))

    def forward(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """Evaluate at ``t`` ``()`` or ``(B,)`` and ``x`` ``(B, d)``; ``(B, d)`` out."""
        time = t.to(x.dtype).reshape(-1, 1)
        for index, layer in enumerate(self.layers):
            x = layer(time, x.tanh() if index else x)
        return x
