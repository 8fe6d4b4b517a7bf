"""MAUVE: how far two sets of texts are apart in the space of an embedding, over the whole divergence frontier.

"MAUVE: Measuring the Gap Between Neural Text and Human Text using Divergence Frontiers", Pillutla et al., 2021. The
features of both sets are put into the same k clusters; P and Q are their shares. With R_λ = λ P + (1 − λ) Q the curve
(exp(−c KL(Q | R_λ)), exp(−c KL(P | R_λ))), λ in (0, 1), ends at (1, 0) and (0, 1), and MAUVE is the area under it: 1
for equal shares, near 0 for disjoint ones. Small sets of one law stay below 1: read it beside the floor of real text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from isocline.metrics.text_metrics import AbstractTextMetric, TextReference, TextSet

__all__ = ["Mauve", "frontier_area", "mauve"]

Shares = NDArray[np.float64]


def frontier_area(p: Shares, q: Shares, scale: float = 5.0, points: int = 25) -> float:
    """The area under the divergence frontier of two laws on the same k symbols, in [0, 1].

    Args:
        p: shares ``(k,)``.
        q: shares ``(k,)``.
        scale: c, the authors' 5.
        points: values of λ between 0 and 1.
    """

    def divergence(a: Shares, b: Shares) -> float:
        held = a > 0
        return float(np.sum(a[held] * np.log(a[held] / b[held])))

    weights = np.linspace(1e-6, 1 - 1e-6, points)
    mixtures = [w * p + (1 - w) * q for w in weights]
    x = np.array([0.0, *(np.exp(-scale * divergence(q, r)) for r in mixtures[::-1]), 1.0])
    y = np.array([1.0, *(np.exp(-scale * divergence(p, r)) for r in mixtures[::-1]), 0.0])
    order = np.lexsort((-y, x))
    return float(np.trapezoid(y[order], x[order]))


def mauve(left: NDArray[np.floating], right: NDArray[np.floating], clusters: int = 16, seed: int = 0) -> float:
    """MAUVE of two sets of features ``(N, D)`` and ``(M, D)``, quantised together by k-means.

    Args:
        left: features of one set.
        right: features of the other.
        clusters: k; at most a tenth of the smaller set keeps every cluster's share meaningful.
        seed: of k-means.

    Raises:
        ValueError: if there are fewer texts than clusters.
    """
    from sklearn.cluster import KMeans

    both = np.concatenate([left, right]).astype(np.float64)
    if min(len(left), len(right)) < clusters:
        raise ValueError(
            f"clusters = {clusters}, but there are {len(left)} and {len(right)} texts; give fewer clusters"
        )
    labels = KMeans(clusters, n_init=4, random_state=seed).fit_predict(both)
    p, q = (np.bincount(part, minlength=clusters) / len(part) for part in (labels[: len(left)], labels[len(left) :]))
    return frontier_area(p, q)


class Mauve(AbstractTextMetric):
    """``mauve``: divergence frontier between generated and held-out text, higher is nearer (see the module).

    It needs an embedding of texts, which the pipeline does not train: a language model's hidden state at the last
    token is what the authors use. Values under different embeddings cannot be compared.

    Args:
        embed: texts to features ``(N, D)``, a callable.
        clusters: of k-means.

    Raises:
        ValueError: without an embedding.
    """

    def __init__(
        self, embed: Callable[[Sequence[str]], NDArray[np.floating]] | None = None, clusters: int = 16
    ) -> None:
        if embed is None:
            raise ValueError(
                "evaluation: MAUVE needs an embedding of texts; set evaluation.text.metrics.mauve.embed to a callable "
                "of yours (its _target_), which maps texts to an array (N, D), or leave the metric out"
            )
        self.embed = embed
        self.clusters = clusters

    def __call__(self, made: TextSet, real: TextReference) -> dict[str, float]:
        """Measure ``made`` against as many held-out texts, evenly spaced; keys as the class says."""
        count = min(len(made.texts), len(real.held_out))
        held_out = [real.held_out[index * len(real.held_out) // count] for index in range(count)]
        return {"mauve": mauve(self.embed(made.texts), self.embed(held_out), self.clusters)}
