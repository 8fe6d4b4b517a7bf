"""What a training step costs with each regulariser, over one without: rounds are interleaved in one process.

Run: ``python bench/regularisers.py [--rounds 5] [--steps 4]``. The networks are those of the default flow (U-Net on
28×28 images, batch 32) and of the default autoregressive model (four blocks on 128 tokens, batch 16). Printed is the
median over rounds of the ratio of processor times, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.networks.transformer import TokenTransformer
from isocline.networks.unet import UNet
from isocline.objectives.autoregressive import AutoregressiveObjective
from isocline.objectives.base import Objective
from isocline.objectives.matching import DenoisingMatching
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import VelocityPrediction
from isocline.processes.schedule import LinearSchedule
from isocline.training.regularisation.base import AbstractRegulariser
from isocline.training.regularisation.jacobian_frobenius import JacobianFrobenius
from isocline.training.regularisation.kinetic_energy import KineticEnergy
from isocline.training.regularisation.lipschitz_cap import LipschitzCap
from isocline.training.regularisation.parameter_smoothness import ParameterSmoothness
from isocline.training.regularisation.regularised import Regularised
from isocline.training.regularisation.spectral_norm import SpectralNorm
from isocline.training.regularisation.state_smoothness import StateSmoothness
from isocline.training.regularisation.stochastic_depth import StochasticDepth
from isocline.training.regularisation.weight_tying import WeightTying

COMMON: dict[str, Callable[[], AbstractRegulariser]] = {
    "state_smoothness": StateSmoothness,
    "jacobian_frobenius": JacobianFrobenius,
    "spectral_norm": SpectralNorm,
    "lipschitz_cap": LipschitzCap,
    "stochastic_depth": StochasticDepth,
}
IMAGES = {"kinetic_energy": KineticEnergy, **COMMON}
TEXT = {"parameter_smoothness": ParameterSmoothness, "weight_tying": WeightTying, **COMMON}


class Run:
    """One network in training."""

    def __init__(self, network: nn.Module, objective: Objective, data: Tensor) -> None:
        self.network, self.objective, self.data = network, objective, data
        objective.prepare(network)
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        self.count = 0

    def seconds(self, steps: int) -> float:
        """Processor time of so many steps."""
        begin = time.process_time()
        for _ in range(steps):
            self.count += 1
            self.optimizer.zero_grad()
            self.objective(self.network, Batch(self.data), torch.Generator().manual_seed(self.count)).total.backward()
            self.optimizer.step()
            self.objective.after_step(self.network, self.count)
        return time.process_time() - begin


def image_run(regularisers: dict[str, AbstractRegulariser]) -> Run:
    torch.manual_seed(0)
    objective = DenoisingMatching(GaussianProcess(LinearSchedule(), VelocityPrediction()))
    return Run(UNet(1, 28, 16, (1, 2, 4)), Regularised(objective, regularisers), torch.randn(32, 1, 28, 28))


def text_run(regularisers: dict[str, AbstractRegulariser]) -> Run:
    torch.manual_seed(0)
    network = TokenTransformer(1000, 128, 128, 4, 4, causal=True, time_conditioned=False)
    return Run(network, Regularised(AutoregressiveObjective(), regularisers), torch.randint(0, 999, (16, 128)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    print("| model | regulariser | step time over plain (median; least–most) |\n| --- | --- | --- |")
    for model, make, names in (("flow", image_run, IMAGES), ("ar", text_run, TEXT)):
        runs = {"": make({}), **{name: make({"term": kind()}) for name, kind in names.items()}}
        for run in runs.values():
            run.seconds(1)
        times = [{name: run.seconds(args.steps) for name, run in runs.items()} for _ in range(args.rounds)]
        for name in names:
            ratios = sorted(found[name] / found[""] for found in times)
            print(
                f"| {model} | {name} | {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) |", flush=True
            )


if __name__ == "__main__":
    main()
