"""Evaluate what a language model generates at each number of function evaluations.

Generative perplexity alone rewards dull text, so every value of it stands beside the entropy of the same sequences:
the frontier (perplexity, entropy, NFE). The judges are never the model under test.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isocline.metrics.settings import TextSettings
from isocline.metrics.text_metrics import AbstractTextMetric, TextReference
from isocline.metrics.uncertainty import Estimate
from isocline.randomness import generator

__all__ = [
    "Generated",
    "TextEvaluation",
    "TextSample",
    "evaluate_text",
    "generate",
    "text_floor",
]


class Generated(NamedTuple):
    """Generated sequences.

    Attributes:
        tokens: int64 ``(N, L)`` on the CPU.
        nfe: function evaluations that each of them took, int64 ``(N,)`` on the CPU.
        seconds: wall-clock time, for the tracker only.
    """

    tokens: Tensor
    nfe: Tensor
    seconds: float


class TextSample(NamedTuple):
    """A state of a trajectory: its time and the decoded text, undecided tokens shown."""

    t: float
    text: str


def _measure(tokens: Tensor, metrics: Iterable[AbstractTextMetric], reference: TextReference) -> dict[str, float]:
    seen = reference.see(tokens)
    return {name: value for metric in metrics for name, value in metric(seen, reference).items()}


def text_floor(
    reference: TextReference,
    metrics: Iterable[AbstractTextMetric],
    tokens: Tensor,
    sequences: int,
    seeds: int,
    seed: int,
) -> dict[str, Estimate]:
    """Measure real sequences ``(M, L)`` as if a model had generated them, in sets of the same size.

    They must not be the reference's own held-out text, or what measures a distance from it is biased low.
    """
    chosen, rows = list(metrics), []
    for index in range(seeds):
        order = torch.randperm(len(tokens), generator=generator(seed, "floor", index))[:sequences]
        rows.append(_measure(tokens[order], chosen, reference))
    return {name: Estimate.from_values([row[name] for row in rows]) for name in rows[0]}


@dataclass(frozen=True)
class TextEvaluation:
    """What `evaluate_text` found.

    Attributes:
        values: metric name to NFE to one value per sampling seed; ``spent_nfe`` is what a sequence really cost on
            average, ``spent_nfe_most`` what the dearest one did.
        nfe: budgets, in order.
        texts: generated texts of the first seed, by NFE.
        trajectory: one sequence from t = 1 to 0.
        rates: tokens per second by NFE, for the tracker only.
    """

    values: dict[str, dict[int, list[float]]]
    nfe: tuple[int, ...]
    texts: dict[int, list[str]]
    trajectory: list[TextSample]
    rates: dict[int, float]

    def estimates(self) -> dict[str, dict[int, Estimate]]:
        """Average over sampling seeds."""
        return {
            name: {nfe: Estimate.from_values(seeds) for nfe, seeds in curve.items()}
            for name, curve in self.values.items()
        }


def generate(
    network: nn.Module,
    process: Any,
    sampler: Any,
    *,
    seed: int,
    index: int,
    count: int,
    length: int,
    nfe: int,
    batch_size: int,
    device: str | torch.device = "cpu",
    labels: Tensor | None = None,
) -> Generated:
    """Generate ``count`` sequences under sampling seed ``index``; a batch has its own random stream.

    With the ``labels`` ``(M,)`` of real text each sequence has a class drawn from among them.
    """
    parts, spent, began = [], [], time.perf_counter()
    classes = _drawn(labels, count, generator(seed, "classes", index))
    for start in range(0, count, batch_size):
        rows = min(batch_size, count - start)
        stream = generator(seed, "generate", index, start, device=device)
        given = {} if classes is None else {"cond": classes[start : start + rows].to(device)}
        with torch.inference_mode():
            solution = sampler.sample(network, process, (rows, length), nfe, stream, **given)
            solution.raise_on_failure()
        parts.append(solution.final.long().cpu())
        spent.append(solution.stats.nfe.long().cpu())
    return Generated(torch.cat(parts), torch.cat(spent), time.perf_counter() - began)


def _drawn(labels: Tensor | None, count: int, stream: torch.Generator) -> Tensor | None:
    """Draw ``count`` of the labels, with replacement; None of none."""
    return None if labels is None else labels.cpu()[torch.randint(len(labels), (count,), generator=stream)]


def evaluate_text(
    network: nn.Module,
    process: Any,
    sampler: Any,
    reference: TextReference,
    settings: TextSettings,
    length: int,
    seed: int,
    *,
    budgets: Sequence[int] | None = None,
    labels: Tensor | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] = lambda _: None,
) -> TextEvaluation:
    """Generate at every budget and sampling seed and measure what came out.

    Args:
        network: the model.
        process: its kernel; None for an autoregressive model.
        sampler: has ``sample(network, process, shape, nfe, generator, save_steps=...)``.
        reference: judges and real text.
        settings: sizes and budgets.
        length: tokens per sequence.
        seed: run seed.
        budgets: NFE to measure at; by default the settings' for a process, and the length alone without one, since
            an autoregressive model spends one evaluation per token.
        labels: class of every held-out sequence, ``(M,)``, for a class-conditional model: what it writes has classes
            as frequent. None asks it for none.
        device: where the network is.
        progress: told what has just been measured.
    """
    values: dict[str, dict[int, list[float]]] = {}
    texts: dict[int, list[str]] = {}
    rates: dict[int, float] = {}
    chosen = list(budgets or (settings.nfe if process is not None else [length]))
    for nfe in chosen:
        seconds = 0.0
        for index in range(settings.seeds):
            made = generate(
                network, process, sampler,
                seed=seed, index=index, count=settings.sequences, length=length, nfe=nfe,
                batch_size=settings.batch_size, device=device, labels=labels,
            )  # fmt: skip
            for name, value in _measure(made.tokens, settings.metrics.values(), reference).items():
                values.setdefault(name, {}).setdefault(nfe, []).append(value)
            for name, spent in (("spent_nfe", made.nfe.double().mean()), ("spent_nfe_most", made.nfe.max())):
                values.setdefault(name, {}).setdefault(nfe, []).append(float(spent))
            seconds += made.seconds
            if index == 0:
                texts[nfe] = [reference.decode(row) for row in made.tokens[: settings.texts]]
        rates[nfe] = settings.sequences * settings.seeds * length / max(seconds, 1e-9)
        progress(f"NFE {nfe}: {_summary(values, nfe)}")
    trajectory = _trajectory(network, process, sampler, reference, settings, length, seed, device, labels)
    return TextEvaluation(values, tuple(chosen), texts, trajectory, rates)


def _summary(values: Mapping[str, Mapping[int, list[float]]], nfe: int) -> str:
    return ", ".join(
        f"{name} {math.fsum(values[name][nfe]) / len(values[name][nfe]):.3g}"
        for name in ("generative_perplexity", "entropy")
        if name in values
    )


def _trajectory(
    network: nn.Module,
    process: Any,
    sampler: Any,
    reference: TextReference,
    settings: TextSettings,
    length: int,
    seed: int,
    device: str | torch.device,
    labels: Tensor | None,
) -> list[TextSample]:
    """Decode evenly spaced states of one sequence, start and end included."""
    stream, shape = generator(seed, "trajectory", device=device), (1, length)
    classes = _drawn(labels, 1, generator(seed, "trajectory-class"))
    given = {} if classes is None else {"cond": classes.to(device)}
    with torch.inference_mode():
        solution = sampler.sample(network, process, shape, settings.trajectory_nfe, stream, save_steps=True, **given)
        solution.raise_on_failure()
    states = solution.ys[:, 0].long().cpu()
    times = solution.ts.double().cpu().reshape(len(states), -1)[:, 0]
    picks = torch.linspace(0, len(states) - 1, min(settings.trajectory_states, len(states))).round().long()
    return [TextSample(float(times[i]), reference.decode(states[i])) for i in sorted(set(picks.tolist()))]
