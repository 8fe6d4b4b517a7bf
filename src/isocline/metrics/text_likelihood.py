"""Likelihood of held-out text under a language model, by every way that is valid for it.

The model's own objective gives an exact value or a bound. A model with an absorbing kernel can also write one token
at a time, which has a likelihood by the chain rule: exact from left to right, a bound over random orders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from isocline.metrics.perplexity import bits_per_character, corpus_perplexity
from isocline.metrics.uncertainty import Estimate
from isocline.objectives.chain_likelihood import any_order_likelihood, left_to_right_likelihood
from isocline.objectives.sequence_likelihood import FLOW_BOUND, LikelihoodEstimate
from isocline.processes.kernel import AbsorbingKernel
from isocline.randomness import generator

__all__ = [
    "ANY_ORDER",
    "LEFT_TO_RIGHT",
    "OWN",
    "TextLikelihood",
    "likelihood_tensors",
    "likelihood_values",
    "spread_rows",
    "text_likelihoods",
    "tightest",
]

OWN, LEFT_TO_RIGHT, ANY_ORDER = "own", "left_to_right", "any_order"
"""Names of likelihoods: the objective's own, and the two by the chain rule."""

_Score = Callable[..., LikelihoodEstimate]
"""``score(rows, stream, **given)`` with ``cond`` given to a class-conditional model."""


@dataclass(frozen=True)
class TextLikelihood:
    """Likelihood of held-out sequences.

    Attributes:
        nats: negative log-likelihood of each sequence, ``(N,)`` float64; NaN where it was not scored.
        characters: characters that each sequence decodes to, ``(N,)``.
        length: tokens of a sequence.
        kind: ``exact``, ``bound`` or ``flow bound`` (see `isocline.objectives.sequence_likelihood`).
    """

    nats: Tensor
    characters: Tensor
    length: int
    kind: str

    @property
    def scored(self) -> Tensor:
        """The sequences that were scored, bool ``(N,)``."""
        return ~self.nats.isnan()

    @property
    def bits_per_char(self) -> Estimate:
        """Corpus bits per character with the ratio estimator's standard error."""
        return bits_per_character(self.nats[self.scored], self.characters[self.scored])

    @property
    def perplexity(self) -> Estimate:
        """Corpus perplexity per token."""
        return corpus_perplexity(self.nats[self.scored], self.length)


def spread_rows(total: int, count: int) -> Tensor:
    """Choose ``count`` of ``total`` rows, evenly spaced: neighbours in a text are alike, and tell less together."""
    count = min(count, total)
    return torch.arange(count) * total // max(count, 1)


def text_likelihoods(
    network: nn.Module,
    objective: Any,
    tokens: Tensor,
    characters: Tensor,
    *,
    seed: int,
    strata: int,
    chain_sequences: int,
    batch_size: int,
    labels: Tensor | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, TextLikelihood]:
    """Score held-out sequences by every likelihood that the model has.

    Args:
        network: the model.
        objective: with ``negative_log_likelihood(network, tokens, generator, strata)`` if it has one, and with
            ``process`` if it has one: an absorbing process admits the chain rule, which an objective that has
            ``left_to_right_likelihood(network, tokens)`` follows in its own way.
        tokens: ``(N, L)`` int64.
        characters: characters that each row decodes to, ``(N,)``.
        seed: run seed.
        strata: strata of t per sequence, where the objective's own likelihood is a bound.
        chain_sequences: so many rows, evenly spaced, are scored by the chain rule, L evaluations each and order; 0 for
            none.
        batch_size: rows scored at once.
        labels: class of each row, ``(N,)``, for a class-conditional model, whose likelihood is then given the class.
        device: where the network is.

    Returns:
        By name, in the order `OWN`, `LEFT_TO_RIGHT`, `ANY_ORDER`; empty for a model without a valid likelihood.
    """
    found = {}
    for name, score in _ways(network, objective, strata, chain_sequences > 0).items():
        count = len(tokens) if name == OWN else chain_sequences
        rows, nats, kind = spread_rows(len(tokens), count), torch.full((len(tokens),), torch.nan).double(), ""
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            purpose = "likelihood" if name == OWN else f"likelihood-{name}"
            stream = generator(seed, purpose, start, device=device)
            given = {} if labels is None else {"cond": labels[part].to(device)}
            with torch.inference_mode():
                scored = score(tokens[part].to(device), stream, **given)
            nats[part] = scored.nats.double().cpu()
            kind = scored.kind
        found[name] = TextLikelihood(nats, characters, tokens.shape[1], kind)
    return found


def _ways(network: nn.Module, objective: Any, strata: int, chains: bool) -> dict[str, _Score]:
    """Return every valid way to score a model's text, by name; those by the chain rule if ``chains``."""
    ways: dict[str, _Score] = {}
    own = getattr(objective, "negative_log_likelihood", None)
    kernel, chain = getattr(objective, "process", None), getattr(objective, "left_to_right_likelihood", None)
    if own is not None:
        ways[OWN] = lambda rows, stream, **given: own(network, rows, stream, strata, **given)
    if chains and chain is not None:
        ways[LEFT_TO_RIGHT] = lambda rows, _, **given: chain(network, rows, **given)
    elif chains and isinstance(kernel, AbsorbingKernel):
        ways[LEFT_TO_RIGHT] = lambda rows, _, **given: left_to_right_likelihood(network, kernel, rows, **given)
        ways[ANY_ORDER] = lambda rows, stream, **given: any_order_likelihood(network, kernel, rows, stream, **given)
    return ways


def tightest(found: Mapping[str, TextLikelihood]) -> str | None:
    """Name the likelihood that gives the text the highest probability, over the sequences that all of them scored.

    Every one of them is valid, for the model that generates in its way. A flow bound, loose even for the exact model,
    is not held against the others; None if there is nothing else.
    """
    held = {name: one for name, one in found.items() if one.kind != FLOW_BOUND}
    if not held:
        return None
    shared = torch.stack([one.scored for one in held.values()]).all(0)
    return min(held, key=lambda name: float(held[name].nats[shared].mean()))


def likelihood_values(found: Mapping[str, TextLikelihood]) -> dict[str, dict[str, Any]]:
    """Named metrics: ``bits_per_char`` and ``perplexity`` by the objective, ``bits_per_char_<name>`` by the chain rule.

    A flow bound of the objective is ``bits_per_char_flow`` and ``perplexity_flow``, in no column with the others.
    ``bits_per_char_tightest`` repeats the one that `tightest` chose and names it (``likelihood``). Nothing is named
    that was not measured.
    """
    values: dict[str, dict[str, Any]] = {}
    for name, one in found.items():
        bits = {**one.bits_per_char.as_dict(), "kind": one.kind}
        if name == OWN:
            suffix = "_flow" if one.kind == FLOW_BOUND else ""
            perplexity = {**one.perplexity.as_dict(), "kind": one.kind}
            values |= {f"bits_per_char{suffix}": bits, f"perplexity{suffix}": perplexity}
        else:
            values[f"bits_per_char_{name}"] = bits
    best = tightest(found)
    if best is not None:
        one = found[best]
        values["bits_per_char_tightest"] = {**one.bits_per_char.as_dict(), "kind": one.kind, "likelihood": best}
    return values


def likelihood_tensors(found: Mapping[str, TextLikelihood]) -> dict[str, Tensor]:
    """Nats of every sequence by name, and ``characters``: what a paired comparison of two models needs."""
    characters = next((one.characters for one in found.values()), torch.zeros(0))
    return {"characters": characters.double(), **{name: one.nats for name, one in found.items()}}
