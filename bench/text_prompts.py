"""How well samplers condition on a prompt: total variation from the exact conditional law of a small known law.

Run: ``python bench/text_prompts.py [--count 3000] [--steps 24]``. Three symbols at three positions, the middle one
given; the denoiser is exact, and takes a prompted token that is put in place for one that may be noise. The error of
counting alone is that of the row "by chance".
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

from isocline.processes.enumerated import EnumeratedDenoiser, EnumeratedLaw
from isocline.processes.hybrid_kernel import HybridKernel
from isocline.processes.kernel import AbsorbingKernel, AbstractKernel, UniformKernel
from isocline.processes.token_schedule import LinearSurvival
from isocline.samplers.discrete import AncestralSampler
from isocline.samplers.twisted import TwistedSampler

KERNELS: dict[str, AbstractKernel] = {
    "absorbing": AbsorbingKernel(4, LinearSurvival()),
    "uniform": UniformKernel(4, LinearSurvival()),
    "hybrid, 0.2": HybridKernel(4, 0.2),
}
PROMPT = torch.tensor([0, 2, 0]), torch.tensor([False, True, False])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=24)
    args = parser.parse_args()
    torch.set_num_threads(1)
    law = EnumeratedLaw.random(3, 3, 2.0, torch.Generator().manual_seed(0))
    given = law.sequences[:, 1] == 2
    conditional = law.probs * given / law.probs[given].sum()
    chance = (conditional * (1 - conditional) / args.count).sqrt().sum() / (2 * torch.pi) ** 0.5
    print(
        f"by chance: {float(chance):.3f}\n\n| kernel | in place | "
        + " | ".join(f"K = {k}" for k in (1, 2, 4, 8))
        + " |"
    )
    print("|---|---|---|---|---|---|")
    for name, kernel in KERNELS.items():
        network = EnumeratedDenoiser(law, kernel)
        cells = []
        samplers: list[tuple[Any, int]] = [(AncestralSampler(), 1), *((TwistedSampler(k), k) for k in (1, 2, 4, 8))]
        for sampler, cost in samplers:
            stream = torch.Generator().manual_seed(1)
            made = sampler.sample(network, kernel, (args.count, 3), args.steps * cost, stream, PROMPT)
            cells.append(f"{float(0.5 * (law.frequencies(made.final) - conditional).abs().sum()):.3f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
