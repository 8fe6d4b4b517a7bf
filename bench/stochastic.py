"""Time, evaluations and error of the solvers of stochastic equations, side by side with torchsde.

Run: ``OMP_NUM_THREADS=1 python bench/stochastic.py [--repeats 7]``, with torchsde installed. Geometric Brownian motion
of 256 samples with 10 elements, float64, one thread. Cases are interleaved, times are medians of the thread's
processor time, and errors are along each library's own path against the closed form on that path.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torchsde
from torch import Tensor

from isocline.solvers import AbstractStepper, ConstantSteps, EulerMaruyama, PIDController, SDEProblem, solve
from isocline.solvers.brownian import AbstractBrownian, VirtualBrownianTree
from isocline.solvers.brownian_grid import BrownianGrid
from isocline.solvers.milstein import Milstein
from isocline.solvers.problem import Calculus
from isocline.solvers.srk import SRIW1
from isocline.solvers.stratonovich import StratonovichHeun

MU, SIGMA, SHAPE, STEPS = 0.5, 0.6, (256, 10), 100
METHODS: tuple[tuple[AbstractStepper, Calculus, str], ...] = (
    (EulerMaruyama(), Calculus.ITO, "euler"),
    (Milstein(), Calculus.ITO, "milstein"),
    (SRIW1(), Calculus.ITO, "srk"),
    (StratonovichHeun(), Calculus.STRATONOVICH, "heun"),
)


class Run(NamedTuple):
    """One solve: its error along its own path, found when asked for, and drift evaluations per sample (mean)."""

    error: Callable[[], float]
    nfe: float


class Peer(torch.nn.Module):
    """The same equation in torchsde's terms, counting calls of the drift."""

    noise_type = "diagonal"

    def __init__(self, calculus: Calculus) -> None:
        super().__init__()
        self.sde_type = "ito" if calculus is Calculus.ITO else "stratonovich"
        self.calls = 0

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return MU * y

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return SIGMA * y


def exact(w: Tensor, calculus: Calculus) -> Tensor:
    return torch.exp(MU - (SIGMA**2 / 2 if calculus is Calculus.ITO else 0.0) + SIGMA * w)


def root_mean_square(error: Tensor) -> float:
    return float(error.square().mean().sqrt())


def ours(stepper: AbstractStepper, calculus: Calculus, tol: float | None, noise: AbstractBrownian | None = None) -> Run:
    y0 = torch.ones(SHAPE, dtype=torch.float64)
    source = torch.Generator().manual_seed(0) if noise is None else None
    problem = SDEProblem(
        lambda t, y, c: MU * y,
        lambda t, y, c: SIGMA * y,
        y0,
        0.0,
        1.0,
        noise=noise,
        generator=source,
        calculus=calculus,
    )
    control = ConstantSteps(STEPS) if tol is None else PIDController(rtol=tol, atol=tol)
    solution = solve(problem, stepper, control)
    nfe = float(solution.stats.nfe.double().mean())
    if not isinstance(noise, VirtualBrownianTree | BrownianGrid):
        return Run(lambda: math.nan, nfe)
    end = torch.tensor(1.0, dtype=torch.float64)
    return Run(lambda: root_mean_square(solution.final - exact(noise.at(end, y0).w, calculus)), nfe)


def peer(method: str, calculus: Calculus, tol: float | None, seed: int) -> Run:
    sde, y0 = Peer(calculus), torch.ones(SHAPE, dtype=torch.float64)
    noise = torchsde.BrownianInterval(
        0.0,
        1.0,
        size=SHAPE,
        dtype=torch.float64,
        entropy=seed,
        levy_area_approximation="space-time" if method == "srk" else "none",
    )
    options = {"adaptive": tol is not None} | ({"rtol": tol, "atol": tol} if tol else {})
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    final = torchsde.sdeint(sde, y0, ts, bm=noise, method=method, dt=1 / STEPS, **options)[-1]

    def error() -> float:
        w = noise(0.0, 1.0)
        return root_mean_square(final - exact(w[0] if isinstance(w, tuple) else w, calculus))

    return Run(error, float(sde.calls))


def medians(cases: dict[str, Callable[[], Run]], repeats: int) -> dict[str, float]:
    """Processor milliseconds per call of every case, calls interleaved."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, run in cases.items():
            start = time.thread_time()
            run()
            if repeat:
                times[name].append(1e3 * (time.thread_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def fixed(repeats: int) -> list[str]:
    rows = []
    for stepper, calculus, method in METHODS:
        cases = {
            "fresh": lambda stepper=stepper, calculus=calculus: ours(stepper, calculus, None),
            "grid": lambda stepper=stepper, calculus=calculus: ours(
                stepper, calculus, None, BrownianGrid.uniform(0, 0.0, 1.0, STEPS)
            ),
            "tree": lambda stepper=stepper, calculus=calculus: ours(
                stepper, calculus, None, VirtualBrownianTree(0, 0.0, 1.0)
            ),
            "peer": lambda method=method, calculus=calculus: peer(method, calculus, None, 0),
        }
        found = {name: run() for name, run in cases.items()}
        ms = medians(cases, repeats)
        rows.append(
            f"| {type(stepper).__name__} / {method} | {found['grid'].error():.1e} | {found['tree'].error():.1e} "
            f"| {found['peer'].error():.1e} | "
            f"{ms['fresh']:.0f} | {ms['grid']:.0f} | {ms['tree']:.0f} | {ms['peer']:.0f} "
            f"| {ms['fresh'] / ms['peer']:.2f} | {ms['grid'] / ms['peer']:.2f} | {ms['tree'] / ms['peer']:.2f} |"
        )
    return rows


def adaptive(repeats: int) -> list[str]:
    rows = []
    for stepper, calculus, method in METHODS[2:]:
        for tol in (1e-2, 1e-3):
            cases = {
                "ours": lambda stepper=stepper, calculus=calculus, tol=tol: ours(
                    stepper, calculus, tol, VirtualBrownianTree(0, 0.0, 1.0)
                ),
                "peer": lambda method=method, calculus=calculus, tol=tol: peer(method, calculus, tol, 0),
            }
            found = {name: run() for name, run in cases.items()}
            ms = medians(cases, repeats)
            rows.append(
                f"| {type(stepper).__name__} / {method} | {tol:.0e} | {found['ours'].error():.1e} "
                f"| {found['peer'].error():.1e} | {found['ours'].nfe:.0f} | {found['peer'].nfe:.0f} "
                f"| {ms['ours']:.0f} | {ms['peer']:.0f} | {ms['ours'] / ms['peer']:.2f} |"
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    with torch.no_grad():
        print(f"{STEPS} equal steps\n")
        print(
            "| method | error, grid | error, tree | error, torchsde | ms, fresh | ms, grid | ms, tree | ms, torchsde "
            "| fresh/torchsde | grid/… | tree/… |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|", *fixed(repeats), sep="\n")
        print("\nadaptive steps\n")
        print("| method | tol | error | torchsde | NFE | torchsde | ms | torchsde | ratio |")
        print("|---|---|---|---|---|---|---|---|---|", *adaptive(repeats), sep="\n")


if __name__ == "__main__":
    main()
