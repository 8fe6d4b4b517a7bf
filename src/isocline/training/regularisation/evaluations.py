"""Evaluations of a network as an objective makes them, recorded by hooks: penalties on them need no second pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

__all__ = ["Evaluation", "mean_square", "recorded", "usable"]


class Evaluation(NamedTuple):
    """One call.

    Attributes:
        time: t ``()`` or ``(B,)``; None if the network takes none.
        state: x ``(B, *event)``.
        output: the first tensor that came out.
    """

    time: Tensor | None
    state: Tensor
    output: Tensor


def usable(output: Any) -> bool:
    """Whether an output leads to the parameters, and outlives the transform that it was made in.

    Evaluations without gradients are those of a target. Those in forward mode are given up: they end with it.
    """
    if not isinstance(output, Tensor) or not (torch.is_grad_enabled() and output.requires_grad):
        return False
    return forward_ad.unpack_dual(output).tangent is None  # type: ignore[no-untyped-call]


def mean_square(x: Tensor) -> Tensor:
    """Mean over all elements of their squares, in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).square().mean()


@contextlib.contextmanager
def recorded(
    module: nn.Module, into: list[Evaluation], *, first: bool = False, differentiable: bool = False
) -> Iterator[None]:
    """Record the usable evaluations of a module on floating states.

    Args:
        module: called as ``module(t, x, …)`` or ``module(x)``.
        into: where they go.
        first: whether the state is the first argument even of several.
        differentiable: whether the states shall require a gradient.
    """

    def place(args: tuple[Any, ...]) -> int:
        return 0 if first or len(args) == 1 else 1

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        state = args[place(args)]
        if not state.is_floating_point() or state.requires_grad or not torch.is_grad_enabled():
            return None
        if forward_ad.unpack_dual(state).tangent is not None:  # type: ignore[no-untyped-call]
            return None
        index = place(args)
        return (*args[:index], state.detach().requires_grad_(), *args[index + 1 :])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        found = output[0] if isinstance(output, tuple) else output
        index = place(args)
        if usable(found) and args[index].is_floating_point():
            into.append(Evaluation(args[0] if index else None, args[index], found))

    with contextlib.ExitStack() as stack:
        if differentiable:
            stack.callback(module.register_forward_pre_hook(before).remove)
        stack.callback(module.register_forward_hook(after).remove)
        yield
