"""Sampling throughput beside a loop over `scheduler.step`, as the pipelines of diffusers have it, on one network.

Run: ``python bench/samplers.py [--threads 1] [--batch 64] [--rounds 9] [--overhead]``, with diffusers installed. The
network is the laptop profile's U-Net with noise predictions under VP; both sides make the same number of forwards of
the same batch. Cases are interleaved within a round; times are processor seconds of the process, medians over rounds,
and the ratio's spread is that of rounds. ``--overhead`` puts a field that costs next to nothing in the network's place,
which leaves the samplers' own work.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor, nn

from isocline.networks.unet import UNet
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import NoisePrediction
from isocline.processes.schedule import VPLinearSchedule
from isocline.samplers.base import AbstractSampler
from isocline.samplers.ddim import DDIMSampler
from isocline.samplers.edm_heun import EDMHeunSampler
from isocline.samplers.exponential import ExponentialSampler
from isocline.samplers.extrapolation import PolynomialInLogRatio, PolynomialInRatio
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.log_ratio import DataForm
from isocline.samplers.multistep import ExponentialMultistep
from isocline.samplers.noise_multistep import NoiseMultistepSampler
from isocline.samplers.pndm import PNDMSampler

GRID = UniformTimeGrid()


class Case(NamedTuple):
    """A scheduler of the peer and ours of the same kind.

    Attributes:
        peer: makes the scheduler.
        steps: what its ``set_timesteps`` is given.
        ours: the sampler.
        nfe: forwards of either.
    """

    peer: Callable[[], Any]
    steps: int
    ours: AbstractSampler
    nfe: int


def multistep(order: int, corrector: bool = False) -> AbstractSampler:
    return ExponentialSampler(ExponentialMultistep(order, DataForm(), corrector=corrector), GRID)


CASES = {
    "DDIM": Case(lambda: diffusers.DDIMScheduler(clip_sample=False), 20, DDIMSampler(GRID), 20),
    "DDIM, eta 1": Case(lambda: diffusers.DDIMScheduler(clip_sample=False), 20, DDIMSampler(GRID, eta=1.0), 20),
    "Euler": Case(diffusers.EulerDiscreteScheduler, 20, DDIMSampler(GRID), 20),
    "Heun": Case(diffusers.HeunDiscreteScheduler, 10, EDMHeunSampler(GRID), 19),
    "LMS": Case(diffusers.LMSDiscreteScheduler, 20, NoiseMultistepSampler(4, PolynomialInRatio(), GRID), 20),
    "DEIS": Case(
        lambda: diffusers.DEISMultistepScheduler(solver_order=3),
        20,
        NoiseMultistepSampler(3, PolynomialInLogRatio(), GRID),
        20,
    ),
    "PNDM": Case(diffusers.PNDMScheduler, 20, PNDMSampler(GRID), 29),
    "DPM++ 2M": Case(lambda: diffusers.DPMSolverMultistepScheduler(solver_order=2), 20, multistep(2), 20),
    "UniPC": Case(
        lambda: diffusers.UniPCMultistepScheduler(solver_order=3, solver_type="bh2"), 20, multistep(3, True), 20
    ),
}


class Cheap(nn.Module):
    """A field of one multiplication."""

    def forward(self, t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        return x * 0.1


class Counted(nn.Module):
    """Counts forwards."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, t: Tensor, x: Tensor, cond: Any = None) -> Tensor:
        self.calls += 1
        return self.network(t, x, cond)


def loop(case: Case, scheduler: Any, network: nn.Module, x1: Tensor, options: dict[str, Any]) -> Tensor:
    """What the peer's pipelines do; its integer steps are brought to the network's times."""
    scheduler.set_timesteps(case.steps)
    x = x1 * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        predicted = network((t + 1.0) / 1000, scheduler.scale_model_input(x, t))
        x = scheduler.step(predicted, t, x, **options).prev_sample
    return x


def cpu_seconds(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def measure(network: nn.Module, batch: int, rounds: int) -> None:
    counted = Counted(network)
    process = GaussianProcess(VPLinearSchedule(), NoisePrediction(), t_min=1e-3)
    denoiser = Denoiser(counted, process)
    x1 = torch.randn(batch, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    ratios: dict[str, list[float]] = {name: [] for name in CASES}
    ours: dict[str, list[float]] = {name: [] for name in CASES}
    schedulers = {name: case.peer() for name, case in CASES.items()}
    for turn in range(rounds + 1):
        for name, case in CASES.items():
            noisy = name.endswith("eta 1")
            options: dict[str, Any] = {"eta": 1.0} if noisy else {}
            source = torch.Generator().manual_seed(turn) if noisy else None
            pair: dict[str, Callable[[], object]] = {
                "peer": lambda c=case, n=name, o=options: loop(c, schedulers[n], counted, x1, o),
                "ours": lambda c=case, s=source: c.ours.sample(denoiser, x1, c.nfe, generator=s),
            }
            seconds = {}
            for side in sorted(pair, reverse=bool(turn % 2)):
                counted.calls = 0
                seconds[side] = cpu_seconds(pair[side])
                if counted.calls != case.nfe:
                    raise RuntimeError(f"{side} made {counted.calls} forwards for {name}, not {case.nfe}")
            if turn:  # The first round warms up.
                ratios[name].append(seconds["peer"] / seconds["ours"])
                ours[name].append(seconds["ours"])
    print("| scheduler | forwards | ours, ms | images per second | our throughput / diffusers' | range of rounds |")
    print("|---|---|---|---|---|---|")
    for name, case in CASES.items():
        median = statistics.median(ours[name])
        spread = f"{min(ratios[name]):.3f} to {max(ratios[name]):.3f}"
        print(
            f"| {name} | {case.nfe} | {1e3 * median:.1f} | {batch / median:.0f} | "
            f"{statistics.median(ratios[name]):.3f} | {spread} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--overhead", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = Cheap() if args.overhead else UNet(1, 28, 16, (1, 2, 4))
    print(
        f"torch {torch.__version__}, diffusers {diffusers.__version__}; {args.threads} threads, batch {args.batch}, "
        f"{args.rounds} rounds, {'a field of one multiplication' if args.overhead else 'the U-Net'}\n"
    )
    with torch.inference_mode():
        measure(network.eval(), args.batch, args.rounds)


if __name__ == "__main__":
    main()
