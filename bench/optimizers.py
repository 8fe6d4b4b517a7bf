"""Optimisers as integrators: time of a step beside torch's, and what they reach on a small text model.

Overhead: the closure costs nothing (gradients are there already); processor time on one thread, rounds interleaved,
medians and ratios to `torch.optim.SGD` with the same update. Text: the smoke profile's autoregressive model, the same
number of gradient evaluations for each optimiser at its best of a few step sizes, constant, norm clipped to 1.

Run: `python bench/optimizers.py` and `python bench/optimizers.py --text data/text/train.safetensors`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from isocline.app.artifacts import build, load_tensors
from isocline.app.compose import compose
from isocline.datasets.batch import Batch
from isocline.datasets.datamodule import StepBatches
from isocline.optimization.adaptive import AdaptiveGradientFlow
from isocline.optimization.gradient_flow import GradientFlow
from isocline.optimization.heavy_ball import HeavyBall
from isocline.optimization.nesterov import Nesterov
from isocline.optimization.pid_learning_rate import PIDLearningRate
from isocline.optimization.semilinear_flow import IMEXEuler, SemilinearFlow
from isocline.randomness import generator
from isocline.solvers import RK4

SGD = torch.optim.SGD
OVERHEAD: dict[str, tuple[Callable[..., Optimizer], Callable[..., Optimizer]]] = {
    "gradient flow (Euler)": (partial(GradientFlow, lr=1e-3), partial(SGD, lr=1e-3)),
    "heavy ball": (partial(HeavyBall, lr=1e-3), partial(SGD, lr=1e-3, momentum=0.9)),
    "Nesterov": (partial(Nesterov, lr=1e-3), partial(SGD, lr=1e-3, momentum=0.9, nesterov=True)),
    "IMEX (decay)": (
        partial(SemilinearFlow, stepper=IMEXEuler(), lr=1e-3, weight_decay=1e-3),
        partial(SGD, lr=1e-3, weight_decay=1e-3),
    ),
    "exponential (decay)": (
        partial(SemilinearFlow, lr=1e-3, weight_decay=1e-3),
        partial(SGD, lr=1e-3, weight_decay=1e-3),
    ),
    "RK4, four closures": (partial(GradientFlow, stepper=RK4(), lr=1e-3), partial(SGD, lr=1e-3)),
    "adaptive Heun, two closures": (partial(AdaptiveGradientFlow, lr=1e-3), partial(SGD, lr=1e-3)),
    "PID around SGD": (
        partial(PIDLearningRate, optimizer=partial(SGD, lr=1e-3, momentum=0.9)),
        partial(SGD, lr=1e-3, momentum=0.9),
    ),
}
SIZES = {"small": (64, 4), "large": (512, 4)}


def _timed(optimizer: Optimizer, repeats: int) -> float:
    loss = torch.zeros(())
    began = time.process_time()
    for _ in range(repeats):
        optimizer.step(lambda: loss)
    return (time.process_time() - began) / repeats


def overhead(rounds: int, repeats: int) -> None:
    """Print the medians of a step's time, and the ratio to torch's."""
    for size, (width, depth) in SIZES.items():
        torch.manual_seed(0)
        network = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))
        for parameter in network.parameters():
            parameter.grad = 1e-4 * torch.randn_like(parameter)
        count = sum(p.numel() for p in network.parameters())
        print(f"{size}: {count} parameters in {len(list(network.parameters()))} tensors, float32")
        pairs = {name: tuple(make(network.parameters()) for make in both) for name, both in OVERHEAD.items()}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
        for _ in range(rounds + 1):
            for name, (ours, theirs) in pairs.items():
                times[name].append((_timed(ours, repeats), _timed(theirs, repeats)))
        for name, found in times.items():
            mine, torchs = (statistics.median(column) for column in zip(*found[1:], strict=True))
            ratio = statistics.median(a / b for a, b in found[1:])
            print(f"  {name:30s} {1e6 * mine:9.0f} µs   torch {1e6 * torchs:9.0f} µs   ratio {ratio:6.2f}")


RATES: dict[str, tuple[float, ...]] = {
    "adamw": (0.01, 0.03),
    "heavy_ball": (0.1, 0.3),
    "nesterov": (0.1, 0.3),
    "gradient_flow": (1.0, 3.0),
    "runge_kutta": (3.0, 10.0),
    "implicit": (3.0, 10.0),
    "imex": (1.0, 3.0),
    "exponential": (1.0, 3.0),
    "adaptive": (10.0,),
    "pid": (0.3, 1.0),
}


def _train(chosen: dict[str, Any], lr: float, section: dict[str, Any], tokens: torch.Tensor, budget: int) -> float:
    torch.manual_seed(0)
    network, objective = build(section["network"]), build(section["objective"])
    objective.prepare(network)
    parameters = list(network.parameters())
    optimizer = build({**chosen, "lr": lr})(parameters)
    spent = 0

    def loss_of(rows: Any, draws: torch.Generator) -> torch.Tensor:
        return objective(network, Batch(*rows), draws).total

    for step, rows in enumerate(StepBatches({"x0": tokens}, 16, 0, budget)):
        if spent >= budget:
            break

        def closure(rows: Any = rows, step: int = step) -> torch.Tensor:
            nonlocal spent
            spent += 1
            optimizer.zero_grad()
            loss = loss_of(rows, generator(0, "objective", step))
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            return loss.detach()

        optimizer.step(closure)
    with torch.no_grad():
        return float(loss_of((tokens[-256:],), generator(0, "end")))


def text(path: Path, budget: int) -> None:
    """Print the loss of each optimiser at its best step size, on 256 rows at the end of the split."""
    section = compose(["profile=smoke"], Path()).config["models"]["ar"]
    tokens = load_tensors(path)["tokens"]
    print(f"autoregressive text model, {budget} gradient evaluations, batch 16")
    for name, rates in RATES.items():
        composed = compose([f"optimizer@models.ar.optimizer={name}", "profile=smoke"], Path()).config
        chosen = composed["models"]["ar"]["optimizer"]
        losses = {lr: _train(chosen, lr, section, tokens, budget) for lr in rates}
        best = min(losses, key=lambda lr: losses[lr] if losses[lr] == losses[lr] else float("inf"))
        print(f"  {name:14s} {losses[best]:.4f} nats a token at lr={best:g}   {losses}", flush=True)


def main() -> None:
    """Parse the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, help="tokens of a text split: train instead of timing steps")
    parser.add_argument("--budget", type=int, default=240)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.text is None:
        overhead(given.rounds, given.repeats)
    else:
        text(given.text, given.budget)


if __name__ == "__main__":
    main()
