"""The parameters of an optimiser as one vector, the state that a stepper advances."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["FlatParameters", "LossGradient"]

Closure = Callable[[], Any]


class FlatParameters:
    """All parameters of an optimiser's groups, in their order, as vectors of shape (n,).

    Args:
        groups: the optimiser's ``param_groups``.

    Raises:
        ValueError: if parameters differ in dtype or device, since one state holds them all.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]]) -> None:
        self._groups = groups
        self.parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        self._sizes = [parameter.numel() for parameter in self.parameters]
        kinds = {(parameter.dtype, parameter.device) for parameter in self.parameters}
        if len(kinds) > 1:
            found = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise ValueError(f"parameters are {found}; one vector holds them all: give them one dtype and one device")

    def read(self) -> Tensor:
        """A copy of the parameters, shape (n,)."""
        return self._join([parameter.detach() for parameter in self.parameters])

    def gradient(self) -> Tensor:
        """A copy of the gradients, shape (n,); zero for parameters that have none."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return self._join(grads)

    def write(self, vector: Tensor) -> None:
        """Set the parameters from a vector of n values."""
        torch._foreach_copy_(self.parameters, self._split(vector))

    def value(self, key: str) -> float | Tensor:
        """An option of the groups: a number where all agree, else one value for each component, shape (n,)."""
        values = [float(group[key]) for group in self._groups]
        if len(set(values)) == 1:
            return values[0]
        like = self.parameters[0]
        sizes = [sum(parameter.numel() for parameter in group["params"]) for group in self._groups]
        return torch.cat([like.new_full((size,), value) for size, value in zip(sizes, values, strict=True)])

    def load(self, state: Mapping[Tensor, Mapping[str, Any]], name: str) -> Tensor | None:
        """What `store` kept under a name, shape (n,); None if there is nothing for some parameter."""
        parts = [state.get(parameter, {}).get(name) for parameter in self.parameters]
        return None if any(part is None for part in parts) else self._join(parts)  # type: ignore[arg-type]

    def store(self, state: MutableMapping[Tensor, Any], name: str, vector: Tensor) -> None:
        """Keep n values, which are not copied, in an optimiser's state, beside the parameter that each belongs to."""
        for parameter, part in zip(self.parameters, self._split(vector), strict=True):
            state[parameter][name] = part

    def _split(self, vector: Tensor) -> list[Tensor]:
        parts = torch.split(vector.reshape(-1), self._sizes)  # type: ignore[no-untyped-call]
        return [part.view(parameter.shape) for part, parameter in zip(parts, self.parameters, strict=True)]

    @staticmethod
    def _join(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.reshape(-1) for part in parts])


class LossGradient:
    """``∇L`` as a function of the parameters: the closure is called at the point asked for.

    Without a closure the gradients that the parameters hold already are the one answer there is, at the start.

    Attributes:
        loss: what the closure returned at the first point, which is where the step starts.
        evaluations: gradients asked for, those that were found before not counted.
    """

    def __init__(self, flat: FlatParameters, closure: Closure | None, start: Tensor) -> None:
        """Nothing is evaluated.

        Args:
            flat: the parameters.
            closure: clears the gradients, evaluates the loss, and backpropagates.
            start: the parameters as they are, shape (1, n).
        """
        self._flat, self._closure, self._start = flat, closure, start
        self._at_start: Tensor | None = None
        self.loss: Any = None
        self.evaluations = 0

    def __call__(self, point: Tensor) -> Tensor:
        """The gradient at a point, both of shape (1, n).

        Raises:
            ValueError: if there is no closure, and the point is not the first.
        """
        if point is self._start and self._at_start is not None:
            return self._at_start
        found = self._evaluate(point)
        if point is self._start:
            self._at_start = found
        return found

    def _evaluate(self, point: Tensor) -> Tensor:
        if self._closure is None:
            if self.evaluations:
                raise ValueError(
                    "this optimiser needs several gradients a step; call step(closure), where closure() clears the "
                    "gradients, evaluates the loss, calls backward and returns the loss"
                )
        else:
            # Every method asks first where the step starts, which is where the parameters are.
            if self.evaluations:
                self._flat.write(point)
            with torch.enable_grad():
                loss = self._closure()
            if not self.evaluations:
                self.loss = loss
        self.evaluations += 1
        return self._flat.gradient()[None]
