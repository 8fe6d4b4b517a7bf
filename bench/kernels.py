"""Kernels and learned schedules of masked text at equal training: the bound, and how much the loss varies.

Run: ``python bench/kernels.py --data data/text [--steps 600] [--seeds 3] [--only NAME ...]`` in the project's
directory, with the text prepared. Every row trains the same small Transformer from the same weights,
then bounds the likelihood of the same held-out rows, single positions masked where the objective can; errors are
standard errors over seeds. The variation is that of one sequence's loss, standard deviation over mean, in the second
half of training.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isocline.app.artifacts import load_tensors
from isocline.datasets.batch import Batch
from isocline.networks.transformer import TokenTransformer
from isocline.objectives.learned_schedule import LearnedScheduleDiffusion
from isocline.objectives.masked import MaskedDiffusion
from isocline.objectives.tokenwise_masked import TokenwiseMaskedDiffusion
from isocline.processes.kernel import AbsorbingKernel
from isocline.processes.learned_schedule import MonotoneSurvival
from isocline.processes.span_kernel import GeometricSpans, SpanKernel
from isocline.processes.token_schedule import CosineSurvival, LinearSurvival
from isocline.processes.tokenwise_kernel import TokenwiseAbsorbingKernel

ROWS: dict[str, Callable[[int], Any]] = {
    "linear": lambda v: MaskedDiffusion(AbsorbingKernel(v, LinearSurvival())),
    "cosine": lambda v: MaskedDiffusion(AbsorbingKernel(v, CosineSurvival())),
    "learned": lambda v: LearnedScheduleDiffusion(AbsorbingKernel(v, MonotoneSurvival())),
    "per token": lambda v: TokenwiseMaskedDiffusion(TokenwiseAbsorbingKernel(v)),
    "spans of 3": lambda v: MaskedDiffusion(SpanKernel(v, LinearSurvival(), GeometricSpans(3.0))),
}


def train(objective: Any, tokens: Tensor, vocabulary: int, steps: int, batch: int, seed: int) -> tuple[Any, float]:
    torch.manual_seed(seed)
    network = TokenTransformer(vocabulary, tokens.shape[1], 64, 2, 4, time_conditioned=False, relative=True)
    parameters = [*network.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, betas=(0.9, 0.99), weight_decay=0.01)
    stream, variation = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50, (steps - step) / (0.3 * steps))
        rows = torch.randint(len(tokens), (batch,), generator=stream)
        optimizer.zero_grad()
        objective(network, Batch(tokens[rows]), stream).total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step >= steps // 2 and step % 10 == 0 and isinstance(objective, MaskedDiffusion):
            t = torch.rand(4 * batch, generator=stream, dtype=torch.float64)
            rows = torch.randint(len(tokens), (4 * batch,), generator=stream)
            with torch.no_grad():
                nats = objective.loss(network, Batch(tokens[rows]), t, stream)[1]
            variation.append(nats.std() / nats.mean())
    return network.eval(), float(torch.stack(variation).mean()) if variation else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("data/text"))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--only", nargs="*", default=list(ROWS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    tokens, held = (load_tensors(given.data / f"{name}.safetensors")["tokens"].long() for name in ("train", "valid"))
    vocabulary = int(tokens.max()) + 2
    for name in given.only:
        began, found = time.process_time(), []
        for seed in range(given.seeds):
            objective = ROWS[name](vocabulary)
            network, variation = train(objective, tokens, vocabulary, given.steps, given.batch, seed)
            stream = torch.Generator().manual_seed(0)
            nats = objective.negative_log_likelihood(network, held[: given.rows], stream, 64).nats.mean()
            found.append((float(nats) / held.shape[1], variation))
        bound, spread = torch.tensor(found, dtype=torch.float64).T
        error = bound.std() / len(bound) ** 0.5 if len(bound) > 1 else float("nan")
        seconds = (time.process_time() - began) / given.seeds
        print(f"{name:12s} bound {bound.mean():.3f} ± {error:.3f} nats per token, variation {spread.mean():.2f}, "
              f"{seconds:.0f} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
