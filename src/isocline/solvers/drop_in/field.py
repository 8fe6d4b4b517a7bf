"""The caller's function as a vector field of the solver core, and the problem it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.drop_in.states import AbstractStateForm, State, TensorForm, TupleForm
from isocline.solvers.dual import Dual
from isocline.solvers.problem import ODEProblem, Time

__all__ = ["Layout", "real_dtype"]


class Layout:
    """How a state is laid out in the batch that the solver core integrates.

    The whole state is a batch of one; with ``is_bare``, a tensor is its own batch under one clock, which saves two
    views in every evaluation; with ``per_sample``, its leading axis is the batch.
    """

    def __init__(self, form: AbstractStateForm, dtype: torch.dtype, is_bare: bool) -> None:
        """Choose a layout.

        Args:
            form: of the state.
            dtype: of the flat state; times are handed to the caller's function in its real part's.
            is_bare: see above; for a tensor with at least one axis and one element.
        """
        self.form, self.time_dtype = form, real_dtype(dtype)
        self.is_whole = not (form.per_sample or is_bare)

    def batch(self, state: State) -> Tensor:
        """The batch of a state."""
        flat = self.form.flatten(state)
        return flat[None] if self.is_whole else flat

    def state(self, batch: Tensor) -> State:
        """The state of a batch; axes in front of the batch (times) stay in front."""
        if not self.is_whole:
            return self.form.restore(batch)
        return self.form.restore(batch[0])

    def saved(self, ys: Tensor) -> State:
        """The states of saved batches, shape (K, B, *event)."""
        return self.form.restore(ys[:, 0] if self.is_whole else ys)

    def flat(self, batch: Tensor) -> Tensor:
        """The flat state of a batch."""
        return batch[0] if self.is_whole else batch

    def on_flat(self, func: Callable[[Tensor, Any], Any]) -> Callable[[Tensor, Any], Any]:
        """The caller's function on flat states; it itself, where the state is a tensor."""
        form = self.form
        return func if isinstance(form, TensorForm) else lambda t, y: form.slope(func(t, form.restore(y)), y)

    def time(self, t: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """A time as the caller's function expects it: of shape (), or per sample broadcastable to the state."""
        t = t.to(self.time_dtype if dtype is None else dtype)
        if self.form.per_sample:
            return t.reshape(-1, *[1] * (self.form.rank - 1)) if t.ndim else t
        return t if t.ndim == 0 else t.reshape(())

    def problem(self, func: Callable[[Tensor, Any], Any], start: Tensor, t0: Time, t1: Time) -> ODEProblem:
        """The equation ``dy/dt = func(t, y)`` from ``start``, a batch."""
        is_bare = isinstance(self.form, TensorForm) and not (self.is_whole or self.form.per_sample)
        field = _TensorField(func, self) if is_bare else _Field(func, self)
        return ODEProblem(field, start, t0, t1, is_separable=self.form.per_sample)


class _Field:
    """The slope of a batch."""

    def __init__(self, func: Callable[[Tensor, Any], Any], layout: Layout) -> None:
        self.func, self.layout = func, layout
        self._is_tuple = isinstance(layout.form, TupleForm)

    def __call__(self, t: Tensor, y: Tensor, cond: Any) -> Tensor:
        layout = self.layout
        flat = y[0] if layout.is_whole else y
        if self._is_tuple and flat.requires_grad and not torch.is_grad_enabled():
            # Components may be changed in place; where that is not recorded it would be lost to the gradient.
            flat = flat.clone()
        state = layout.form.restore(flat)
        slope = layout.form.slope(self.func(layout.time(t), state), flat)
        return slope[None] if layout.is_whole else slope


class _TensorField:
    """The slope of a tensor under one clock; nothing is done that need not be."""

    def __init__(self, func: Callable[[Tensor, Any], Any], layout: Layout) -> None:
        self.func, self.form, self.dtype = func, layout.form, layout.time_dtype

    def __call__(self, t: Tensor, y: Tensor, cond: Any) -> Tensor:
        slope = self.func(t.to(self.dtype), y)
        # An implicit method asks for its Jacobian by dual numbers.
        if isinstance(slope, Tensor | Dual) and slope.shape == y.shape and slope.dtype == y.dtype:
            return slope  # type: ignore[return-value]
        return self.form.slope(slope, y)


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the real part."""
    return dtype.to_real() if dtype.is_complex else dtype
