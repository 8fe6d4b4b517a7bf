"""Whether a sampler has lost the variety of what it is held against, in words.

No module-level torch import: the report reads it too.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["LEAST_RECALL", "MOST_IMBALANCE", "Diversity", "collapse"]

LEAST_RECALL = 0.5
"""Share of the reference's recall below which a sampler has collapsed."""

MOST_IMBALANCE = 0.25
"""Share of samples, above the reference's, that may sit in the wrong class before a sampler has collapsed."""


class Diversity(NamedTuple):
    """How varied a set of samples is.

    Attributes:
        recall: share of real images near some sample, in [0, 1]; None if unmeasured.
        imbalance: total variation between the samples' class shares and those of real images, in [0, 1], or None.
    """

    recall: float | None = None
    imbalance: float | None = None


def collapse(found: Diversity, reference: Diversity) -> tuple[str, ...]:
    """Name what has collapsed: recall below half of the reference's, or a quarter more samples in the wrong class.

    A sampler that draws one image has recall 0 and an imbalance near 1 − 1/classes. Both bounds are far outside the
    spread of a few hundred samples: a flag is no matter of luck.

    Args:
        found: of the samples.
        reference: of the teacher, or of real images.

    Returns:
        A phrase for each, with both numbers; empty for a sampler that keeps its variety or was not measured.
    """
    phrases = []
    if found.recall is not None and reference.recall is not None and found.recall < LEAST_RECALL * reference.recall:
        phrases.append(f"recall {found.recall:.2f} against {reference.recall:.2f}")
    if (
        found.imbalance is not None
        and reference.imbalance is not None
        and found.imbalance > reference.imbalance + MOST_IMBALANCE
    ):
        phrases.append(f"class imbalance {found.imbalance:.2f} against {reference.imbalance:.2f}")
    return tuple(phrases)
