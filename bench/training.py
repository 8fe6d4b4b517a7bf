"""Training throughput: `isocline.training.fit` against a bare PyTorch loop with the same network, batch and optimiser.

Interleaved rounds in one process; medians and their ratio. Run: `python bench/training.py`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from isocline.datasets.batch import Batch
from isocline.datasets.datamodule import StepBatches
from isocline.networks.ema import ExponentialMovingAverage
from isocline.networks.unet import UNet
from isocline.objectives.matching import DenoisingMatching
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule
from isocline.randomness import generator
from isocline.training.fit import fit
from isocline.training.module import GenerativeModule, warmup_cosine
from isocline.training.settings import FitSettings

BATCH = 32


def parts() -> tuple[torch.nn.Module, DenoisingMatching, partial[torch.optim.AdamW]]:
    torch.manual_seed(0)
    network = UNet(1, 28, 16, (1, 2, 4))
    objective = DenoisingMatching(GaussianProcess(LinearSchedule(), VelocityPrediction()))
    return network, objective, partial(torch.optim.AdamW, lr=1e-3, fused=True)


def bare(tensors: dict[str, torch.Tensor], steps: int) -> float:
    """The loop one would write by hand, with the same clipping, schedule and weight average."""
    network, objective, build = parts()
    optimizer = build(network.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, 50, steps, 0.1))
    ema = ExponentialMovingAverage(network, 0.995)
    began = time.perf_counter()
    for step, batch in enumerate(StepBatches(tensors, BATCH, 0, steps)):
        loss = objective(network, Batch(*batch), generator(0, "objective", step)).total
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        ema.update(network)
    return steps * BATCH / (time.perf_counter() - began)


def ours(tensors: dict[str, torch.Tensor], steps: int) -> float:
    network, objective, build = parts()
    ema = partial(ExponentialMovingAverage, decay=0.995)
    module = GenerativeModule(network, objective, build, ema, seed=0, steps=steps, warmup=50)
    with tempfile.TemporaryDirectory() as folder:
        settings = FitSettings(steps=steps, batch_size=BATCH)
        return fit(module, tensors, settings, Path(folder), label="bench").samples_per_second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    images = torch.randint(0, 256, (1024, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tensors = {"x0": images}
    bare(tensors, 3), ours(tensors, 3)
    rows = [(bare(tensors, options.steps), ours(tensors, options.steps)) for _ in range(options.rounds)]
    loop, pipeline = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(b / a for a, b in rows)
    print(
        f"threads {torch.get_num_threads()}, batch {BATCH}, {options.steps} steps, {options.rounds} rounds, interleaved"
    )
    print("| loop | images/s (median) |\n| --- | --- |")
    print(f"| bare PyTorch | {loop:.0f} |\n| isocline.training.fit | {pipeline:.0f} |")
    print(f"\nmedian ratio {ratio:.3f} (pairs: {', '.join(f'{b / a:.3f}' for a, b in rows)})")


if __name__ == "__main__":
    main()
