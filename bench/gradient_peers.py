"""Gradients by torchode and diffrax, for `bench/gradients.py`; absent where they are not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor


def torchode_final(kind: str) -> Callable[..., Tensor] | None:
    """The final state by one of torchode's adjoints; None without torchode."""
    if importlib.util.find_spec("torchode") is None:
        return None
    import torchode

    def final(field: torch.nn.Module, y0: Tensor, rtol: float, end: float = 1.0) -> Tensor:
        class Plain(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.field = field

            def forward(self, t: Tensor, y: Tensor) -> Tensor:
                return self.field(t, y)

        term: Any = torchode.ODETerm(Plain())
        step, control = torchode.Dopri5(term=term), torchode.IntegralController(atol=rtol, rtol=rtol, term=term)
        if kind == "AutoDiffAdjoint":
            adjoint: Any = torchode.AutoDiffAdjoint(step, control)
        else:
            adjoint = getattr(torchode, kind)(term, step, control)
        span = [torch.full((len(y0),), value, dtype=y0.dtype) for value in (0.0, end)]
        problem = torchode.InitialValueProblem(y0=y0, t_start=span[0], t_end=span[1], t_eval=torch.stack(span, 1))
        return adjoint.solve(problem).ys[:, -1]

    return final


class JaxCase:
    """The same network in JAX, compiled, integrated by diffrax."""

    kinds: ClassVar[tuple[str, ...]] = (
        ("RecursiveCheckpointAdjoint", "BacksolveAdjoint") if importlib.util.find_spec("diffrax") else ()
    )

    def __init__(self, kind: str, field: torch.nn.Module, y0: Tensor, rtol: float) -> None:
        import diffrax
        import jax
        import jax.numpy as jnp

        layers = [layer for layer in field.modules() if isinstance(layer, torch.nn.Linear)]
        weights = [(layer.weight.detach().numpy().T, layer.bias.detach().numpy()) for layer in layers]
        self._weights = jax.tree.map(jnp.asarray, weights)
        self._y0 = jnp.asarray(y0.detach().numpy())
        self._wait = jax.block_until_ready

        def slope(t: Any, y: Any, weights: Any) -> Any:
            h = jnp.concatenate([y, jnp.broadcast_to(jnp.asarray(t, y.dtype), (len(y), 1))], 1)
            for index, (matrix, bias) in enumerate(weights):
                h = (jnp.tanh(h) if index else h) @ matrix + bias
            return h

        def integrate(y0: Any, weights: Any) -> Any:
            return diffrax.diffeqsolve(
                diffrax.ODETerm(slope),
                diffrax.Dopri5(),
                0.0,
                1.0,
                None,
                y0,
                weights,
                stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
                adjoint=getattr(diffrax, kind)(),
            )

        self.name = f"diffrax {kind}, compiled"
        self._gradient = jax.jit(jax.grad(lambda y0, weights: (integrate(y0, weights).ys[-1] ** 2).mean(), (0, 1)))
        self._pair = jax.jit(jax.grad(lambda y0, weights: slope(0.5, y0, weights).sum(), (0, 1)))
        # Six evaluations a step, the first of each but the first being the last of the one before.
        self.nfe = 1 + 6 * int(integrate(self._y0, self._weights).stats["num_steps"])

    def run(self) -> object:
        """Forward and backward."""
        return self._wait(self._gradient(self._y0, self._weights))

    def pair(self) -> object:
        """One slope and its vector-Jacobian product."""
        return self._wait(self._pair(self._y0, self._weights))
