"""Overhead, speed, evaluations and errors of the explicit solvers, side by side with torchdiffeq, torchode and diffrax.

Run: ``OMP_NUM_THREADS=1 python bench/solvers.py [--repeats 5] [--figures docs/images] [--no-compile]
[--parts overhead batches evaluations]``. All in one process on one thread; cases are interleaved, figures are medians
of processor seconds and ratios of them, so that other work on the machine matters little. Peers that are not installed
are left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import torch
from torch import Tensor

from isocline.solvers import Dopri8, ODEProblem, PIDController, Tsit5, solve
from isocline.solvers.compiled import CompiledStep
from solver_cases import peers, problems
from solver_cases.problems import Problem

TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
REFERENCE = 1e-6


def medians(cases: dict[str, Callable[[], object]], repeats: int, warm: int = 2) -> dict[str, float]:
    """Processor seconds per call of every case, calls interleaved."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + warm):
        for name, run in cases.items():
            start = time.process_time()
            run()
            if repeat >= warm:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def calls_of(problem: Problem, make: Callable[[Problem], peers.Run]) -> list[tuple[Any, ...]]:
    """The arguments of every call of the field that a solver makes."""
    calls: list[tuple[Any, ...]] = []

    def field(t: Any, y: Tensor, cond: Any) -> Tensor:
        calls.append((t, y, cond))
        return problem.field(t, y, cond)

    make(Problem(problem.name, field, problem.y0, problem.t1, problem.cond)).call()
    return calls


def overhead(problem: Problem, rtol: float, repeats: int, step: CompiledStep | None) -> str:
    """Time of a solve over that of the very same calls of the bare field."""
    makers: dict[str, Callable[[Problem], peers.Run]] = {
        "ours": lambda p: peers.isocline(p, rtol, rtol),
        "joint": lambda p: peers.isocline(p, rtol, rtol, joint=True),
    }
    if "torchdiffeq" in peers.available():
        makers["torchdiffeq"] = lambda p: peers.torchdiffeq(p, rtol, rtol)
    if "torchode" in peers.available():
        makers["torchode"] = lambda p: peers.torchode(p, rtol, rtol)
    cases: dict[str, Callable[[], object]] = {}
    calls = {name: calls_of(problem, make) for name, make in makers.items()}
    for name, make in makers.items():
        cases[name] = make(problem).call
        cases[f"bare {name}"] = lambda args=calls[name]: [problem.field(*each) for each in args]
    if step is not None:
        cases["compiled"] = peers.isocline(problem, rtol, rtol, compiled=step).call
    seconds = medians(cases, repeats)
    bare = 1e6 * seconds["bare ours"] / len(calls["ours"])
    cells = [f"{seconds[name] / seconds[f'bare {name}']:.2f}" if name in makers else "–" for name in NAMES]
    compiled = f"{seconds['compiled'] / seconds['bare ours']:.2f}" if step is not None else "–"
    return f"| {problem.name} | {len(calls['ours'])} | {bare:.1f} | {' | '.join(cells)} | {compiled} |"


NAMES = ("ours", "joint", "torchdiffeq", "torchode")


def exact(problem: Problem) -> Tensor:
    """The end state at a tolerance that makes it exact for our purposes."""
    equation = ODEProblem(problem.field, problem.y0, 0.0, problem.t1, problem.cond)
    return solve(equation, Dopri8(), PIDController(1e-12, 1e-13, max_steps=1_000_000)).final


Point = tuple[float, float, float]
"""Worst error of a sample, processor seconds, evaluations per sample."""


def work_precision(
    problem: Problem, tolerances: Iterable[float], repeats: int, step: CompiledStep | None
) -> dict[str, list[Point]]:
    """Every solver at every tolerance."""
    truth = exact(problem)
    points: dict[str, list[Point]] = {}
    for tolerance in tolerances:
        runs = [peers.isocline(problem, tolerance, tolerance, method) for method in ("tsit5", "dopri5")]
        if step is not None and tolerance == REFERENCE:
            runs.append(peers.isocline(problem, tolerance, tolerance, compiled=step))
        runs += peers.peers(problem, tolerance, tolerance)
        found = {run.name: run.call() for run in runs}
        seconds = medians({run.name: run.call for run in runs}, repeats, warm=1)
        for run in runs:
            result = found[run.name]
            error = float((run.read(result) - truth).abs().amax(1).max())
            points.setdefault(run.name, []).append((error, seconds[run.name], run.evaluations(result)))
    return points


def at_no_worse_error(points: dict[str, list[Point]], reference: Point) -> list[str]:
    """The cheapest point of every solver whose worst error is not above the reference's."""
    rows = []
    for name, found in points.items():
        good = [point for point in found if point[0] <= reference[0] * 1.0001]
        if not good:
            rows.append(f"| {name} | not reached | | | |")
            continue
        error, seconds, evaluations = min(good, key=lambda point: point[1])
        ratio = seconds / reference[1]
        rows.append(f"| {name} | {error:.1e} | {evaluations:.0f} | {1e3 * seconds:.0f} | {ratio:.2f} |")
    return rows


def draw(problem: Problem, points: dict[str, list[Point]], path: Path) -> None:
    """Work against precision."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), constrained_layout=True)
    for axis, index, label in ((axes[0], 1, "processor seconds"), (axes[1], 2, "evaluations per sample")):
        for name, found in points.items():
            errors, work = [point[0] for point in found], [point[index] for point in found]
            axis.loglog(errors, work, "o-" if len(found) > 1 else "*", ms=5, label=name)
        axis.set_xlabel("worst error of a sample")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.suptitle(f"{problem.name}, batch {len(problem.y0)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def compaction(problem: Problem, rtol: float) -> str:
    """Evaluations of samples against what each needs."""
    evaluated = sum(len(y) for _, y, _ in calls_of(problem, lambda p: peers.isocline(p, rtol, rtol)))
    equation = ODEProblem(problem.field, problem.y0, 0.0, problem.t1, problem.cond)
    nfe = solve(equation, Tsit5(), PIDController(rtol, rtol)).stats.nfe
    need, lock_step = int(nfe.sum()), int(nfe.max()) * len(nfe)
    return f"| {problem.name} | {evaluated / need:.2f} | {lock_step / need:.2f} |"


def high_order(tolerance: float) -> list[str]:
    """Evaluations of the order-8 pair against SciPy's DOP853, one sample."""
    from scipy.integrate import solve_ivp

    rows = []
    for problem in problems.singles():
        truth = exact(problem)[0]

        def scalar(t: float, y: Any, problem: Problem = problem) -> Any:
            return problem.field(t, torch.from_numpy(y)[None], problem.cond)[0].numpy()

        span, start = (0.0, problem.t1), problem.y0[0].numpy()
        theirs = solve_ivp(scalar, span, start, "DOP853", rtol=tolerance, atol=tolerance)
        equation = ODEProblem(problem.field, problem.y0, 0.0, problem.t1, problem.cond)
        ours = solve(equation, Dopri8(), PIDController(tolerance, tolerance))
        errors = [float((end - truth).abs().max()) for end in (ours.final[0], torch.from_numpy(theirs.y[:, -1]))]
        rows.append(f"| {problem.name} | {int(ours.stats.nfe)} | {theirs.nfev} | {errors[0]:.1e} | {errors[1]:.1e} |")
    return rows


def table(header: str, rows: Iterable[str]) -> None:
    """Print a table as it grows."""
    print(f"\n{header}\n|{'---|' * (header.count('|') - 1)}")
    for row in rows:
        print(row, flush=True)


def overheads(args: argparse.Namespace, step: CompiledStep | None) -> None:
    """Solves against their bare calls, batches and single samples."""
    wide = [problems.mlp(64, 1024), problems.mlp(512, 256), problems.van_der_pol(1024, 1.0, 1.0)]
    print("\n## Overhead: time of a solve over that of the same calls of the bare field (tsit5, tolerances 1e-6)")
    names = "ours | ours, joint | torchdiffeq (dopri5) | torchode"
    table(
        f"| problem | calls | bare call, µs | {names} | ours, compiled |",
        (overhead(each, REFERENCE, args.repeats, step) for each in wide),
    )
    table(
        f"| problem, one sample | calls | bare call, µs | {names} | ours, compiled |",
        (overhead(each, REFERENCE, args.repeats, None) for each in problems.singles()),
    )


def batches(args: argparse.Namespace, step: CompiledStep | None) -> None:
    """Work and precision on heterogeneous batches."""
    print("\n## Heterogeneous batches: cheapest run whose worst sample is no worse than ours at 1e-6")
    for problem in problems.heterogeneous(args.batch):
        points = work_precision(problem, TOLERANCES, max(2, args.repeats // 2), step)
        reference = points["isocline tsit5"][TOLERANCES.index(REFERENCE)]
        print(f"\n{problem.name}, batch {args.batch}")
        table(
            "| solver | worst error | evaluations per sample | ms | time / ours |",
            at_no_worse_error(points, reference),
        )
        if args.figures is not None:
            name = problem.name.split(" μ")[0].split(" e ")[0].lower().replace("–", "-").replace(" ", "-")
            draw(problem, points, args.figures / f"work-precision-{name}.png")


def evaluations(args: argparse.Namespace, step: CompiledStep | None) -> None:
    """Counts, which no machine changes."""
    print("\n## Evaluations of samples over what each needs alone (lock step: what a batch that stays whole makes)")
    several = problems.heterogeneous(args.batch)
    table("| problem | ours | lock step |", (compaction(problem, REFERENCE) for problem in several))
    print("\n## Order 8 against SciPy's DOP853, rtol = atol = 1e-8, one sample")
    table("| problem | evaluations | DOP853 | error | error, DOP853 |", high_order(1e-8))


PARTS = {"overhead": overheads, "batches": batches, "evaluations": evaluations}


def main() -> None:
    """Run everything, or some parts of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--figures", type=Path, help="folder for work-precision-*.png")
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled steps")
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    step = None if args.no_compile else CompiledStep()
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", *peers.available())]
    print(f"{', '.join(versions)}; {args.repeats} interleaved repeats, medians of processor seconds, one thread")
    with torch.no_grad():
        for part in args.parts:
            PARTS[part](args, step)


if __name__ == "__main__":
    main()
