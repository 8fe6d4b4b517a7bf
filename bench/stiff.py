"""Stiff solvers: work on the classical set next to SciPy's Radau; time and error on batches next to diffrax.

Run: ``OMP_NUM_THREADS=1 python bench/stiff.py [--repeats 5] [--part set|batch]``. Peers that cannot be imported are
left out. Calls are interleaved, figures are medians. Times are processor time of the whole process, which is bound to
one core (diffrax computes on a thread of its own), without compilation; float64 throughout. Errors are the largest of
any sample and component at the end, relative to the component or, where that is smaller, to atol / rtol.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import numpy as np
import torch
from torch import Tensor

from isocline.solvers import (
    AbstractStepper,
    Auto,
    KenCarp4,
    Kvaerno3,
    Kvaerno5,
    ODEProblem,
    PIDController,
    Rodas3P,
    Rodas4,
    Rodas5P,
    Solution,
    solve,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "solvers"))

from stiff_problems import LONG_SET, STIFF_SET, StiffProblem, van_der_pol

try:
    import diffrax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
except ImportError:
    diffrax = None

try:
    from scipy.integrate import solve_ivp
except ImportError:
    solve_ivp = None

MOST_STEPS = 200_000


def medians(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Processor seconds per call of every case, calls interleaved; the first call of each compiles and warms up."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, run in cases.items():
            start = time.process_time()
            run()
            if repeat:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def integrate(problem: ODEProblem, stepper: AbstractStepper, rtol: float, atol: float | Tensor) -> Solution:
    with torch.no_grad():
        return solve(problem, stepper, PIDController(rtol, atol, max_steps=MOST_STEPS))


def radau(problem: StiffProblem, rtol: float) -> str:
    """The row of SciPy's Radau with exact Jacobians."""
    cond = None if problem.cond is None else torch.tensor([problem.cond], dtype=torch.float64)

    def field(t: float, y: np.ndarray) -> np.ndarray:
        return problem.field(torch.tensor(t, dtype=torch.float64), torch.from_numpy(y)[None], cond)[0].numpy()

    def jac(t: float, y: np.ndarray) -> np.ndarray:
        at = torch.tensor(t, dtype=torch.float64)
        return torch.func.jacrev(lambda z: problem.field(at, z[None], cond)[0])(torch.from_numpy(y)).numpy()

    span, atol = (0.0, problem.t1), np.asarray(problem.absolute(rtol))
    with torch.no_grad():
        found = solve_ivp(field, span, problem.y0, method="Radau", rtol=rtol, atol=atol, jac=jac)
    error = problem.error(torch.from_numpy(found.y[:, -1]))
    counts = f"{len(found.t) - 1} | – | {found.nfev} | {found.njev} | {found.nlu}"
    return f"| {problem.name} | {rtol:.0e} | SciPy Radau | {counts} | {error:.1e} | |"


def set_rows(problem: StiffProblem, rtol: float, steppers: list[AbstractStepper]) -> list[str]:
    """Work and end error of one problem, SciPy's first."""
    rows, reference = [], None
    if solve_ivp is not None:
        rows.append(radau(problem, rtol))
        reference = int(rows[0].split("|")[4])
    for stepper in steppers:
        solution = integrate(problem.problem(), stepper, rtol, problem.absolute(rtol))
        stats = solution.stats
        counts = (stats.accepted, stats.rejected, stats.nfe, stats.jacobians, stats.factorizations)
        accepted, rejected, *work = (int(count[0]) for count in counts)
        error = f"{problem.error(solution.final[0]):.1e}" if bool(solution.succeeded[0]) else "failed"
        ratio = "" if reference is None else f"{(accepted + rejected) / reference:.2f}"
        cells = (problem.name, f"{rtol:.0e}", type(stepper).__name__, accepted, rejected, *work, error, ratio)
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    return rows


def robertson(t: Tensor, y: Tensor, slow: Tensor) -> Tensor:
    """With a rate of the slow reaction for each sample."""
    a, b, c = y.unbind(-1)
    first = 1e4 * b * c - slow * a
    fast = 3e7 * b * b
    return torch.stack((first, -first - fast, fast), -1)


class Batch(NamedTuple):
    """A batch, and the same field of one sample for JAX."""

    name: str
    problem: ODEProblem
    peer: Callable[[Any, Any, Any], Any]
    floor: float


def batches() -> list[Batch]:
    def peer_robertson(t: Any, y: Any, slow: Any) -> Any:
        first, fast = 1e4 * y[1] * y[2] - slow * y[0], 3e7 * y[1] * y[1]
        return jnp.stack((first, -first - fast, fast))

    def peer_van_der_pol(t: Any, y: Any, mu: Any) -> Any:
        return jnp.stack((y[1], mu * (1 - y[0] * y[0]) * y[1] - y[0]))

    def make(field: Any, start: list[float], t1: float | Tensor, cond: Tensor) -> ODEProblem:
        y0 = torch.tensor([start], dtype=torch.float64).repeat(len(cond), 1)
        return ODEProblem(field, y0, 0.0, torch.as_tensor(t1, dtype=torch.float64).expand(len(cond)), cond)

    slow = 0.04 * torch.logspace(-0.3, 0.3, 1024, dtype=torch.float64)
    mu = torch.logspace(0, 3, 64, dtype=torch.float64)
    start = [1.0, 0.0, 0.0]
    short, long = (make(van_der_pol, [2.0, 0.0], t1, mu) for t1 in (20.0, 2 * mu))
    return [
        Batch("Robertson to 40, 1024 rates", make(robertson, start, 40.0, slow), peer_robertson, 1e-4),
        Batch("Robertson to 1e5, 1024 rates", make(robertson, start, 1e5, slow), peer_robertson, 1e-4),
        Batch("Van der Pol to 2μ, 64 μ from 1 to 1000", long, peer_van_der_pol, 1e-3),
        Batch("Van der Pol to 20, 64 μ from 1 to 1000", short, peer_van_der_pol, 1e-3),
    ]


def peer_runs(batch: Batch, rtol: float, atol: float) -> dict[str, Callable[[], Any]]:
    """diffrax's solvers, vectorized over the batch and compiled."""
    if diffrax is None:
        return {}
    problem = batch.problem
    inputs = [jnp.array(value.numpy()) for value in (problem.y0, problem.t1, problem.cond)]

    def make(solver: Any) -> Callable[[], Any]:
        control = diffrax.PIDController(rtol=rtol, atol=atol)

        def one(y: Any, t1: Any, cond: Any) -> Any:
            found = diffrax.diffeqsolve(
                diffrax.ODETerm(batch.peer), solver, 0.0, t1, None, y, cond,
                stepsize_controller=control, max_steps=MOST_STEPS, saveat=diffrax.SaveAt(t1=True), throw=False,
            )  # fmt: skip
            return found.ys[0], found.stats["num_steps"]

        run = jax.jit(jax.vmap(one))
        return lambda: jax.block_until_ready(run(*inputs))

    return {f"diffrax {type(solver).__name__}": make(solver) for solver in (diffrax.Kvaerno3(), diffrax.Kvaerno5())}


def batch_rows(batch: Batch, rtol: float, steppers: list[AbstractStepper], repeats: int) -> list[str]:
    atol, problem = rtol * batch.floor, batch.problem
    exact = integrate(problem, Rodas5P(), 1e-11, 1e-11 * batch.floor).final
    cases: dict[str, Callable[[], Any]] = {
        type(stepper).__name__: lambda stepper=stepper: integrate(problem, stepper, rtol, atol) for stepper in steppers
    }
    peers = peer_runs(batch, rtol, atol)
    seconds = medians(cases | peers, repeats)
    rows = []
    for name, run in (cases | peers).items():
        found = run()
        if name in peers:
            end, steps, work = torch.from_numpy(np.array(found[0])), np.array(found[1]), "– | –"
        else:
            stats, end = found.stats, found.final
            steps = (stats.accepted + stats.rejected).numpy()
            work = f"{stats.nfe.double().mean():.0f} | {stats.factorizations.double().mean():.0f}"
        error = float(((end - exact).abs() / (exact.abs() + batch.floor)).max())
        ratios = " | ".join(f"{seconds[peer] / seconds[name]:.2f}" for peer in peers)
        rows.append(
            f"| {batch.name} | {rtol:.0e} | {name} | {steps.mean():.0f} | {steps.max()} | {work} | {error:.1e} "
            f"| {1e3 * seconds[name]:.1f} | {ratios} |"
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--part", choices=("set", "batch", "all"), default="all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if options.part != "batch":
        print("| problem | rtol | method | accepted | rejected | NFE | Jacobians | LU | end error | steps / Radau's |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for problem in (*STIFF_SET, *LONG_SET):
            for rtol in (1e-3, 1e-6, 1e-8):
                steppers = [Rodas5P(), Rodas4(), Kvaerno5(), KenCarp4(), Auto()]
                print("\n".join(set_rows(problem, rtol, steppers)), flush=True)
    if options.part != "set":
        peers = ["× diffrax Kvaerno3", "× diffrax Kvaerno5"] if diffrax is not None else []
        heads = ["batch", "rtol", "method", "steps, mean", "most", "NFE", "LU", "worst error", "ms", *peers]
        print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
        for batch in batches():
            for rtol in (1e-3, 1e-6):
                steppers = [Rodas3P(), Rodas4(), Rodas5P(), Kvaerno3(), Kvaerno5()]
                print("\n".join(batch_rows(batch, rtol, steppers, options.repeats)), flush=True)


if __name__ == "__main__":
    main()
