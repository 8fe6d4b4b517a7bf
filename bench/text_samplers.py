"""Every sampler of tokens on trained models: generative perplexity beside entropy, evaluations and tokens per second.

Run: ``python bench/text_samplers.py --data data [--sequences 64] [--nfe 8 32] [--models masked dfm] [--only NAME ...]``
in the project's directory, with the models ``masked`` and ``dfm`` and the text judges trained. A row is one batch under
one seed; errors are standard errors over its sequences. Tokens per second are those of the process's CPU time on one
thread.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isocline.app.artifacts import LoadedModel, load_model, load_tensors
from isocline.app.judges import load_text_judges
from isocline.metrics.perplexity import corpus_perplexity
from isocline.metrics.text_statistics import sequence_entropy
from isocline.metrics.uncertainty import Estimate
from isocline.samplers.corrected_tokens import CorrectedSampler
from isocline.samplers.discrete import AncestralSampler, ConfidenceSampler, TauLeapingSampler
from isocline.samplers.entropy_bounded import EntropyBoundedSampler
from isocline.samplers.first_hitting import FirstHittingSampler
from isocline.samplers.gillespie import GillespieSampler
from isocline.samplers.markov_euler import MarkovEulerSampler
from isocline.samplers.mask_predict import MaskPredictSampler
from isocline.samplers.order import LeastEntropy, Margin
from isocline.samplers.remask import RemaskSampler
from isocline.samplers.remasking import CapRemasking, ConfidenceRemasking, LoopRemasking, RescaledRemasking
from isocline.samplers.token_corrector import DetailedBalanceCorrector, ForwardBackwardCorrector

ANCESTRAL, LEAP = AncestralSampler(), TauLeapingSampler()
MASKED: dict[str, Any] = {
    "ancestral": ANCESTRAL,
    "ancestral, greedy last step": None,
    "Euler": MarkovEulerSampler(),
    "first-hitting": FirstHittingSampler(),
    "top probability": ConfidenceSampler(),
    "margin": ConfidenceSampler(Margin()),
    "least entropy": ConfidenceSampler(LeastEntropy()),
    "entropy-bounded, 1 nat": EntropyBoundedSampler(1.0),
    "entropy-bounded, 10 nats": EntropyBoundedSampler(10.0),
    "mask-predict": MaskPredictSampler(),
    "ReMDM cap 0.02": RemaskSampler(CapRemasking(0.02)),
    "ReMDM rescale 0.1": RemaskSampler(RescaledRemasking(0.1)),
    "ReMDM conf": RemaskSampler(ConfidenceRemasking(RescaledRemasking(1.0))),
    "ReMDM loop": RemaskSampler(LoopRemasking(CapRemasking(0.02))),
    "ReMDM rescale 0.1, top-p 0.9": RemaskSampler(RescaledRemasking(0.1), top_p=0.9),
    "ancestral, top-p 0.9": AncestralSampler(top_p=0.9),
    "forward-backward 0.25": CorrectedSampler(ANCESTRAL, ForwardBackwardCorrector(), 1, 0.25),
    "detailed balance 1": CorrectedSampler(ANCESTRAL, DetailedBalanceCorrector(), 1, 1.0),
}
UNIFORM: dict[str, Any] = {
    "ancestral": ANCESTRAL,
    "tau-leaping": LEAP,
    "tau-leaping, greedy last step": None,
    "Euler": MarkovEulerSampler(),
    "forward-backward 0.25": CorrectedSampler(LEAP, ForwardBackwardCorrector(), 1, 0.25),
    "forward-backward 1": CorrectedSampler(LEAP, ForwardBackwardCorrector(), 1, 1.0),
    "detailed balance 1": CorrectedSampler(LEAP, DetailedBalanceCorrector(), 1, 1.0),
}
EXACT: dict[str, Any] = {"Gillespie": GillespieSampler()}


def row(
    name: str, sampler: Any, model: LoadedModel, judge: Any, sequences: int, length: int, nfe: int
) -> tuple[str, Tensor]:
    stream = torch.Generator().manual_seed(1)
    if sampler is None:  # greedy in the last of the even steps
        kind = type(ANCESTRAL) if name.startswith("ancestral") else type(LEAP)
        sampler = kind(greedy_tail=1.0 / nfe)
    begin = time.process_time()
    solution = sampler.sample(model.network, model.process, (sequences, length), nfe, stream)
    seconds = time.process_time() - begin
    solution.raise_on_failure()
    tokens = solution.final
    perplexity = corpus_perplexity(judge(tokens), length)
    entropy = Estimate.from_values(sequence_entropy(tokens).numpy())
    spent = solution.stats.nfe.double()
    text = (
        f"| {name} | {nfe} | {float(spent.mean()):.1f} | {perplexity.mean:.1f} ± {perplexity.se:.1f} "
        f"| {entropy.mean:.3f} ± {entropy.se:.3f} | {sequences * length / seconds:.0f} |"
    )
    return text, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--exact-sequences", type=int, default=16)
    parser.add_argument("--nfe", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--models", nargs="+", default=["masked", "dfm"])
    parser.add_argument("--only", nargs="*", default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    judge = load_text_judges(args.data / "judges" / "text")["ar"]
    real = load_tensors(args.data / "text" / "test.safetensors")["tokens"]
    length = real.shape[1]
    print(f"torch {torch.__version__}, one thread, {args.sequences} sequences of {length} tokens\n")
    with torch.inference_mode():
        scored = corpus_perplexity(judge(real[:512]), length)
        spread = Estimate.from_values(sequence_entropy(real[:512]).numpy())
        print(f"held-out text: perplexity {scored.mean:.1f} ± {scored.se:.1f}, entropy {spread.mean:.3f}\n")
        for key in args.models:
            samplers = {"masked": MASKED, "dfm": UNIFORM}[key]
            model = load_model(args.data / "models" / key, None)
            model.network(torch.tensor(0.5), real[:1])  # warms up
            print(f"{key}\n\n| sampler | allowed | spent | generative perplexity | entropy | tokens/s |")
            print("|---|---|---|---|---|---|")
            for name, sampler in samplers.items():
                for nfe in args.nfe if args.only is None or name in args.only else []:
                    print(row(name, sampler, model, judge, args.sequences, length, nfe)[0], flush=True)
            for name, sampler in EXACT.items() if args.only is None or "Gillespie" in args.only else []:
                text, _ = row(name, sampler, model, judge, args.exact_sequences, length, 1000)
                print(text, flush=True)
            print()


if __name__ == "__main__":
    main()
