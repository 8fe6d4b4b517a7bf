"""Overhead, evaluations and error of the solvers, side by side with torchdiffeq.

Run: ``OMP_NUM_THREADS=1 python bench/solvers.py [--repeats 15]``. Cases are interleaved, figures
are medians and ratios. Times are processor time of the one thread used, so that other
work on the machine matters little.
Overhead is the time per evaluation less that of the bare field in the same process.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchdiffeq

from isocline.solvers import RK4, ConstantSteps, Dopri5, Euler, Heun, ODEProblem, PIDController, solve

STEPS = 32
RTOL, ATOL = 1e-6, 1e-8


def field(t, y, cond=None):
    return torch.stack([y[:, 1], (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)


def medians(cases: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Processor seconds per call of every case, calls interleaved."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 2):
        for name, run in cases.items():
            start = time.thread_time()
            run()
            if repeat >= 2:
                times[name].append(time.thread_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def fixed_steps(batch: int, repeats: int) -> list[str]:
    y0 = torch.randn(batch, 2, generator=torch.Generator().manual_seed(0))
    grid = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
    t = torch.tensor(0.5, dtype=torch.float64)
    rows = []
    for stepper, method in ((Euler(), "euler"), (Heun(), "heun2"), (RK4(), "rk4")):
        nfe = STEPS * stepper.nfe_per_step
        cases = {
            "bare": lambda nfe=nfe: [field(t, y0) for _ in range(nfe)],
            "ours": lambda stepper=stepper: solve(ODEProblem(field, y0, 0.0, 1.0), stepper, ConstantSteps(STEPS)),
            "peer": lambda method=method: torchdiffeq.odeint(
                field, y0, grid[[0, -1]], method=method, options={"step_size": 1 / STEPS}
            ),
        }
        with torch.no_grad():
            seconds = medians(cases, repeats)
        bare, ours, peer = (1e6 * seconds[name] / nfe for name in ("bare", "ours", "peer"))
        rows.append(
            f"| {method} | {batch} | {nfe} | {bare:.1f} | {ours - bare:.1f} | {peer - bare:.1f} "
            f"| {(ours - bare) / (peer - bare):.2f} | {ours / peer:.2f} |"
        )
    return rows


def adaptive_steps(batch: int, repeats: int) -> str:
    y0 = torch.randn(batch, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    span = torch.tensor([0.0, 10.0], dtype=torch.float64)
    calls = [0]

    def counted(t, y):
        calls[0] += 1
        return field(t, y)

    problem, controller = ODEProblem(field, y0, 0.0, 10.0), PIDController(RTOL, ATOL)
    with torch.no_grad():
        ours = solve(problem, Dopri5(), controller)
        peer = torchdiffeq.odeint(counted, y0, span, method="dopri5", rtol=RTOL, atol=ATOL)[-1]
        peer_nfe = calls[0]
        exact = solve(problem, Dopri5(), PIDController(1e-12, 1e-13)).final
        seconds = medians(
            {
                "ours": lambda: solve(problem, Dopri5(), controller),
                "peer": lambda: torchdiffeq.odeint(field, y0, span, method="dopri5", rtol=RTOL, atol=ATOL),
            },
            repeats,
        )
    mean_nfe, most = float(ours.stats.nfe.double().mean()), int(ours.stats.nfe.max())
    return (
        f"| {batch} | {mean_nfe:.0f} ({most}) | {peer_nfe} | {float((ours.final - exact).abs().max()):.1e} "
        f"| {float((peer - exact).abs().max()):.1e} | {1e3 * seconds['ours']:.1f} | {1e3 * seconds['peer']:.1f} "
        f"| {seconds['ours'] / seconds['peer']:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, torchdiffeq {torchdiffeq.__version__}, {repeats} interleaved repeats, medians\n")
    print(f"Fixed grid, {STEPS} steps, van der Pol (μ = 1), float32; microseconds per evaluation\n")
    print("| method | batch | NFE | bare field | overhead | overhead, torchdiffeq | overhead ratio | time ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for batch in (1, 64, 1024):
        print("\n".join(fixed_steps(batch, repeats)), flush=True)
    print(f"\ndopri5, rtol {RTOL:g}, atol {ATOL:g}, van der Pol (μ = 1) to t = 10, float64; ours steps samples apart\n")
    print(
        "| batch | NFE mean (max) | NFE, torchdiffeq | error | error, torchdiffeq | ms | ms, torchdiffeq | time ratio |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for batch in (1, 64, 1024):
        print(adaptive_steps(batch, max(3, repeats // 3)), flush=True)


if __name__ == "__main__":
    main()
