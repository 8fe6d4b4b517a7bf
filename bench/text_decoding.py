"""Tokens per second of parallel decoding beside autoregressive decoding with a key-value cache, and what they write.

Run: ``python bench/text_decoding.py [--root .] [--threads 1] [--sequences 192] [--rounds 3]`` in a project whose
models ``ar``, ``masked`` and ``block`` are trained. Every case generates the same number of sequences; perplexities
are those of the project's two judges, entropies those of each sequence's own tokens, mean over the sets. Times are
processor seconds of the process for whole batches, sampling included, cases interleaved within a round, medians over
rounds; ``--small`` is the batch of the last column, where the number of evaluations in a row counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.app.artifacts import LoadedModel, load_model
from isocline.app.judges import load_text_judges
from isocline.metrics.perplexity import corpus_perplexity
from isocline.metrics.text_statistics import sequence_entropy
from isocline.randomness import generator
from isocline.samplers.autoregressive import AutoregressiveSampler
from isocline.samplers.block import BlockSampler
from isocline.samplers.discrete import AncestralSampler, ConfidenceSampler
from isocline.samplers.first_hitting import FirstHittingSampler
from isocline.samplers.order import LeftToRight


class Case(NamedTuple):
    """A model, a sampler and a budget."""

    model: str
    sampler: Any
    nfe: int


CASES = {
    "autoregressive, cached": Case("ar", AutoregressiveSampler(), 64),
    **{f"masked, ancestral, {nfe}": Case("masked", AncestralSampler(), nfe) for nfe in (8, 16, 32)},
    **{f"masked, first hitting, {nfe}": Case("masked", FirstHittingSampler(), nfe) for nfe in (16, 32, 64)},
    **{f"masked, confidence, {nfe}": Case("masked", ConfidenceSampler(), nfe) for nfe in (8, 16)},
    **{f"block, first hitting, {nfe}": Case("block", BlockSampler(), nfe) for nfe in (16, 32, 64)},
    **{f"block, confidence, {nfe}": Case("block", BlockSampler(ConfidenceSampler()), nfe) for nfe in (16, 32, 64)},
    "block, left to right, 64": Case("block", BlockSampler(ConfidenceSampler(LeftToRight())), 64),
}


def cpu_seconds(run: Callable[[], object]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def draw(case: Case, model: LoadedModel, count: int, seed: int) -> tuple[Tensor, int]:
    length = int(model.config["network"]["length"])
    stream = generator(seed, "bench", count)
    solution = case.sampler.sample(model.network, model.process, (count, length), case.nfe, stream)
    return solution.final, int(solution.stats.nfe.max())


def measure(root: Path, sequences: int, batch: int, small: int, rounds: int) -> None:
    models = {name: load_model(root / "data/models" / name) for name in ("ar", "masked", "block")}
    judges = load_text_judges(root / "data/judges/text")
    length = int(models["ar"].config["network"]["length"])
    large_seconds: dict[str, list[float]] = {name: [] for name in CASES}
    small_seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(rounds + 1):
        for name, case in CASES.items():
            model = models[case.model]
            times = [cpu_seconds(lambda c=case, m=model, n=count, s=turn: draw(c, m, n, s)) for count in (batch, small)]
            if turn:  # The first round warms up.
                large_seconds[name].append(times[0])
                small_seconds[name].append(times[1])
    print(
        f"| decoding | evaluations | perplexity, neural judge | n-gram judge | entropy | tokens/s, batch {batch} "
        f"| tokens/s, batch {small} |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, case in CASES.items():
        parts, spent = [], 0
        for start in range(0, sequences, batch):
            tokens, nfe = draw(case, models[case.model], min(batch, sequences - start), 1000 + start)
            parts.append(tokens)
            spent = max(spent, nfe)
        made = torch.cat(parts)
        ppl = [corpus_perplexity(judges[judge](made), length).mean for judge in ("ar", "ngram")]
        rates = [
            count * length / statistics.median(seconds[name])
            for count, seconds in ((batch, large_seconds), (small, small_seconds))
        ]
        entropy = float(sequence_entropy(made).mean())
        print(
            f"| {name} | {spent} | {ppl[0]:.0f} | {ppl[1]:.0f} | {entropy:.2f} | {rates[0]:.0f} | {rates[1]:.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sequences", type=int, default=192)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--small", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}; {args.threads} threads, {args.sequences} sequences, {args.rounds} rounds\n")
    with torch.inference_mode():
        measure(args.root, args.sequences, args.batch, args.small, args.rounds)


if __name__ == "__main__":
    main()
