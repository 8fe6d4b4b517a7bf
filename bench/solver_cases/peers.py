"""Solvers under one interface: each solves the same problem and says what it took. Missing peers are left out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.solvers import Dopri5, ODEProblem, PIDController, Tsit5, solve
from isocline.solvers.compiled import CompiledStep
from solver_cases.problems import Problem


@dataclass
class Run:
    """A solver on a problem: ``call`` solves; ``read`` turns what it returns into a tensor (B, D)."""

    name: str
    call: Callable[[], Any]
    read: Callable[[Any], Tensor]
    evaluations: Callable[[Any], float]


def available() -> list[str]:
    """Peers that can be imported."""
    return [name for name in ("torchdiffeq", "torchode", "diffrax") if importlib.util.find_spec(name)]


def isocline(problem: Problem, rtol: float, atol: float, method: str = "tsit5", **options: Any) -> Run:
    """This project; options: joint, compiled."""
    stepper = {"tsit5": Tsit5, "dopri5": Dopri5}[method]()
    compiled: CompiledStep | None = options.pop("compiled", None)
    control = PIDController(rtol, atol, **options)
    equation = ODEProblem(problem.field, problem.y0, 0.0, problem.t1, problem.cond)
    label = f"isocline {method}" + (" joint" if options.get("joint") else "") + (" compiled" if compiled else "")
    return Run(
        label,
        lambda: solve(equation, stepper, control, compiled=compiled),
        lambda solution: solution.final,
        lambda solution: float(solution.stats.nfe.double().mean()),
    )


def torchdiffeq(problem: Problem, rtol: float, atol: float) -> Run:
    """One norm over the whole batch."""
    import torchdiffeq as peer

    span = torch.tensor([0.0, problem.t1], dtype=torch.float64)
    calls = [0]

    def field(t: Tensor, y: Tensor) -> Tensor:
        calls[0] += 1
        return problem.field(t, y, problem.cond)

    def call() -> Any:
        calls[0] = 0
        return peer.odeint(field, problem.y0, span, method="dopri5", rtol=rtol, atol=atol)

    return Run("torchdiffeq dopri5", call, lambda states: states[-1], lambda _: calls[0])


def torchode(problem: Problem, rtol: float, atol: float, method: str = "tsit5") -> Run:
    """Samples have their own steps; all are evaluated until the last is done."""
    import torchode as peer

    calls = [0]

    def field(t: Tensor, y: Tensor, cond: Any) -> Tensor:
        calls[0] += 1
        return problem.field(t, y, cond)

    term = peer.ODETerm(field, with_args=True)
    stepper = {"tsit5": peer.Tsit5, "dopri5": peer.Dopri5}[method](term=term)
    control = peer.IntegralController(atol=atol, rtol=rtol, term=term)
    solver = peer.AutoDiffAdjoint(stepper, control)
    batch = len(problem.y0)
    start, end = (torch.full((batch,), time, dtype=problem.y0.dtype) for time in (0.0, problem.t1))
    initial = peer.InitialValueProblem(problem.y0, start, end, None)

    def call() -> Any:
        calls[0] = 0
        return solver.solve(initial, args=problem.cond)

    return Run(f"torchode {method}", call, lambda solution: solution.ys[:, -1], lambda _: calls[0])


def diffrax(problem: Problem, rtol: float, atol: float) -> Run | None:
    """Compiled by XLA; ``vmap`` gives samples their own steps, in lock step."""
    if problem.jax_field is None:
        return None
    import jax

    jax.config.update("jax_enable_x64", True)
    import diffrax as peer
    import jax.numpy as jnp
    import numpy as np

    term = peer.ODETerm(lambda t, y, cond: problem.jax_field(jnp, y, cond))
    control = peer.PIDController(rtol=rtol, atol=atol)

    def one(y0: Any, cond: Any) -> Any:
        solution = peer.diffeqsolve(
            term, peer.Tsit5(), 0.0, problem.t1, None, y0, cond, stepsize_controller=control, max_steps=100_000
        )
        return solution.ys[-1], solution.stats["num_steps"]

    y0 = jnp.asarray(problem.y0.numpy())
    cond = jnp.zeros(len(y0)) if problem.cond is None else jnp.asarray(problem.cond.numpy())
    batch = jax.jit(jax.vmap(one))

    def call() -> Any:
        return jax.block_until_ready(batch(y0, cond))

    return Run(
        "diffrax tsit5",
        call,
        lambda found: torch.from_numpy(np.array(found[0])),
        lambda found: 6.0 * float(found[1].max()),
    )


def peers(problem: Problem, rtol: float, atol: float) -> list[Run]:
    """All that are installed."""
    builders: dict[str, Callable[[Problem, float, float], Run | None]] = {
        "torchdiffeq": torchdiffeq,
        "torchode": torchode,
        "diffrax": diffrax,
    }
    runs = (builders[name](problem, rtol, atol) for name in available())
    return [run for run in runs if run is not None]
