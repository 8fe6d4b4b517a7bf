"""Tokens per second of parallel decoding beside autoregressive decoding with a key-value cache, and what they write.

Run: ``python bench/text_decoding.py [--root .] [--threads 1] [--batch 64] [--rounds 3]`` in a project whose models
``ar``, ``masked`` and ``block`` are trained. Every case generates a batch per round; perplexities are those of the
project's two judges over all rounds, entropies those of each sequence's own tokens, the mean. Times are processor
seconds of the process for whole batches, drawing the tokens included, cases interleaved within a round, medians over
rounds; ``--small`` is the batch of the last column, where the number of evaluations in a row counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
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
    "autoregressive, cached, temperature 0.8": Case("ar", AutoregressiveSampler(temperature=0.8), 64),
    **{f"masked, ancestral, {nfe}": Case("masked", AncestralSampler(), nfe) for nfe in (8, 16, 32)},
    **{f"masked, first hitting, {nfe}": Case("masked", FirstHittingSampler(), nfe) for nfe in (16, 32)},
    **{f"masked, confidence, {nfe}": Case("masked", ConfidenceSampler(), nfe) for nfe in (8, 16)},
    **{f"block, first hitting, {nfe}": Case("block", BlockSampler(), nfe) for nfe in (16, 32, 64)},
    **{f"block, confidence, {nfe}": Case("block", BlockSampler(ConfidenceSampler()), nfe) for nfe in (16, 32, 64)},
    "block, left to right, 64": Case("block", BlockSampler(ConfidenceSampler(LeftToRight())), 64),
    "block, left to right, temperature 0.9, 64": Case(
        "block", BlockSampler(ConfidenceSampler(LeftToRight(), temperature=0.9)), 64
    ),
}


def draw(case: Case, model: LoadedModel, count: int, seed: int) -> tuple[Tensor, int]:
    length = int(model.config["network"]["length"])
    stream = generator(seed, "bench", count)
    solution = case.sampler.sample(model.network, model.process, (count, length), case.nfe, stream)
    return solution.final, int(solution.stats.nfe.max())


def measure(root: Path, chosen: dict[str, Case], batch: int, small: int, rounds: int) -> None:
    models = {name: load_model(root / "data/models" / name) for name in ("ar", "masked", "block")}
    judges = load_text_judges(root / "data/judges/text")
    length = int(models["ar"].config["network"]["length"])
    large: dict[str, list[float]] = {name: [] for name in chosen}
    few: dict[str, list[float]] = {name: [] for name in chosen}
    made: dict[str, list[Tensor]] = {name: [] for name in chosen}
    spent = dict.fromkeys(chosen, 0)
    for turn in range(rounds + 1):
        for name, case in chosen.items():
            began = time.process_time()
            draw(case, models[case.model], small, turn)
            few[name].append(time.process_time() - began)
            if not turn:  # The first round warms up.
                few[name].clear()
                continue
            began = time.process_time()
            tokens, nfe = draw(case, models[case.model], batch, turn)
            large[name].append(time.process_time() - began)
            made[name].append(tokens)
            spent[name] = max(spent[name], nfe)
    print(
        f"| decoding | evaluations | perplexity, neural judge | n-gram judge | entropy | tokens/s, batch {batch} "
        f"| tokens/s, batch {small} |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in chosen:
        tokens = torch.cat(made[name])
        ppl = [corpus_perplexity(judges[judge](tokens), length).mean for judge in ("ar", "ngram")]
        rates = [count * length / statistics.median(row[name]) for count, row in ((batch, large), (small, few))]
        entropy = float(sequence_entropy(tokens).mean())
        print(
            f"| {name} | {spent[name]} | {ppl[0]:.0f} | {ppl[1]:.0f} | {entropy:.2f} | {rates[0]:.0f} | "
            f"{rates[1]:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="", help="only those whose name contains this")
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--small", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}; {args.threads} threads, {args.rounds} rounds\n")
    with torch.inference_mode():
        chosen = {name: case for name, case in CASES.items() if args.cases in name}
        measure(args.root, chosen, args.batch, args.small, args.rounds)


if __name__ == "__main__":
    main()
