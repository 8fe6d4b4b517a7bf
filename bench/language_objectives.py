"""Objectives of language models against a known law, and what a training step of each costs.

python bench/language_objectives.py identities
python bench/language_objectives.py cost --rounds 15
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.networks.leave_one_out import LeaveOneOut
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.base import Objective
from isocline.objectives.d3pm import DiscreteTimeDiffusion
from isocline.objectives.discrete_flow import DiscreteFlowMatching
from isocline.objectives.gidd import InterpolatingDiffusion
from isocline.objectives.masked import MaskedDiffusion
from isocline.objectives.reverse_rate_bound import ReverseRateBound, reverse_rates
from isocline.objectives.score_entropy import ScoreEntropy
from isocline.objectives.udlm import UniformDiffusion
from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, AbstractKernel, UniformKernel
from isocline.processes.leave_one_out import evidence
from isocline.processes.token_schedule import LinearSurvival

Value = Callable[[Tensor, Tensor, Tensor], Tensor]


def expectation(truth: EnumeratedLaw, kernel: AbstractKernel, t: Tensor, value: Value) -> Tensor:
    """E value(x, z, t) over every clean and noisy sequence."""
    states = torch.tensor(list(itertools.product(range(truth.vocab_size), repeat=truth.length)))
    x, z = truth.sequences.repeat_interleave(len(states), 0), states.repeat(len(truth.sequences), 1)
    weight = kernel.marginal(x, t).gather(-1, z.unsqueeze(-1)).squeeze(-1).prod(-1)
    weight = weight * truth.probs.repeat_interleave(len(states))
    keep = weight > 0
    return (weight[keep] * value(x[keep], z[keep], t.expand(int(keep.sum())))).sum()


def integral(value: Callable[[Tensor], Tensor], nodes: int = 64) -> float:
    """∫ value(t) dt over [0, 1] by the double-exponential rule."""
    points, step = np.linspace(-3.2, 2.9, nodes, retstep=True)
    inner = 0.5 * np.pi * np.sinh(points)
    slopes = step * 0.25 * np.pi * np.cosh(points) / np.cosh(inner) ** 2
    shares = np.minimum(1.0 / (1.0 + np.exp(-2.0 * inner)), 1.0 - 1e-15)
    return float(sum(w * value(torch.tensor(t, dtype=torch.float64)) for t, w in zip(shares, slopes, strict=True)))


def continuous(objective: ReverseRateBound, network: nn.Module, truth: EnumeratedLaw, posterior: bool = False) -> float:
    """The bound in nats; with p(x|z) in place of the leave-one-out law if ``posterior``."""
    kernel = objective.process

    def value(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        logits = network(t, z)
        if posterior:
            logits = logits.scatter_add(-1, z.unsqueeze(-1), evidence(kernel, z, t).unsqueeze(-1))
        return objective.divergence(reverse_rates(kernel, logits, x, z, t)).sum(-1)

    return integral(lambda t: expectation(truth, kernel, t, value))


def discrete(kernel: AbstractKernel, network: nn.Module, truth: EnumeratedLaw, steps: int) -> float:
    """D3PM's bound of T steps in nats."""
    objective = DiscreteTimeDiffusion(kernel, steps)

    def value(x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return objective.step_costs(network, x, z, (t * steps).round().long()).divergence.sum(-1)

    grid = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return float(sum(expectation(truth, kernel, t, value) for t in grid))


def identities() -> None:
    """Print the bounds of every objective with the exact denoiser of a random law of 3 symbols and 3 positions."""
    truth = EnumeratedLaw.random(3, 3, 2.0, torch.Generator().manual_seed(0))
    print(f"entropy {float(truth.entropy):.6f} nats")
    linear = LinearSurvival()
    kernels = {
        "absorbing": AbsorbingKernel(4, linear),
        "uniform": UniformKernel(4, linear),
        "hybrid": HybridKernel(4, 0.2),
    }
    for name, kernel in kernels.items():
        network = EnumeratedDenoiser(truth, kernel)
        kinds: list[type[ReverseRateBound]] = [
            ScoreEntropy,
            InterpolatingDiffusion,
            *([UniformDiffusion] if name == "uniform" else []),
        ]
        for kind in kinds:
            print(f"{name} {kind.__name__}: {continuous(kind(kernel), network, truth):.6f}")
        wrong = continuous(InterpolatingDiffusion(kernel), network, truth, posterior=True)
        print(f"{name} with p(x|z) plugged in: {wrong:.6f}")
        flow = DiscreteFlowMatching(kernel, decision_time=0.0)
        value = lambda x, z, t, flow=flow, network=network: flow.rate_divergence(network(t, z), x, z, t)  # noqa: E731
        bound = integral(lambda t, value=value, kernel=kernel: expectation(truth, kernel, t, value))
        print(f"{name} discrete flow matching: {bound:.6f}")
        for steps in (1, 4, 16, 64, 256):
            excess = discrete(kernel, network, truth, steps) - float(truth.entropy)
            print(f"{name} D3PM, T = {steps}: excess {excess:.5f}, times T {steps * excess:.4f}")


def cost(rounds: int) -> None:
    """Print the CPU time of a step of each objective and its ratio to that of masked diffusion in the same round."""
    vocab, length, batch = 1024, 64, 32
    absorbing, uniform = (kind(vocab, LinearSurvival()) for kind in (AbsorbingKernel, UniformKernel))
    hybrid = HybridKernel(vocab, 0.1)
    torch.manual_seed(0)
    network = TokenTransformer(vocab, length, 128, 4, 4, time_conditioned=True, relative=True)
    cases: dict[str, tuple[Objective, nn.Module]] = {
        "masked": (MaskedDiffusion(absorbing), network),
        "dfm, uniform": (DiscreteFlowMatching(uniform), network),
        "score_entropy, absorbing": (ScoreEntropy(absorbing), network),
        "d3pm, absorbing": (DiscreteTimeDiffusion(absorbing), network),
        "d3pm, uniform": (DiscreteTimeDiffusion(uniform), LeaveOneOut(network, uniform)),
        "udlm": (UniformDiffusion(uniform), LeaveOneOut(network, uniform)),
        "gidd, hybrid": (InterpolatingDiffusion(hybrid), LeaveOneOut(network, hybrid)),
    }
    tokens, stream = torch.randint(vocab - 1, (batch, length)), torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (objective, model) in cases.items():
            start = time.process_time()
            objective(model, Batch(tokens), stream).total.backward()
            seconds[name].append(time.process_time() - start)
            network.zero_grad()
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, seconds["masked"], strict=True))
        print(f"{name:26s} {1e3 * statistics.median(values):7.1f} ms  {ratio:.3f}")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["identities", "cost"])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    identities() if arguments.what == "identities" else cost(arguments.rounds)


if __name__ == "__main__":
    main()
