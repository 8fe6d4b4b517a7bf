"""What an evaluation does: sizes and lists that the protocol states beside every number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["ImageSettings", "LikelihoodSettings", "TextSettings"]


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"evaluation: {name} = {value!r}; give a whole number of at least 1")


def _budgets(name: str, values: Sequence[int]) -> None:
    if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
        raise ValueError(f"evaluation: {name} = {list(values)!r}; give a list of whole numbers of at least 1")
    if list(values) != sorted(set(values)):
        raise ValueError(f"evaluation: {name} = {list(values)!r}; list each budget once, in rising order")


@dataclass(frozen=True)
class LikelihoodSettings:
    """Bits per dimension by the probability-flow ODE.

    Attributes:
        models: names of the models for which it is computed.
        images: test images, the first of the split.
        batch_size: images integrated at once.
        steps: solver steps of the ODE.
        draws: dequantisation and Hutchinson draws per image.
    """

    models: Sequence[str] = ()
    images: int = 64
    batch_size: int = 64
    steps: int = 16
    draws: int = 1

    def __post_init__(self) -> None:
        _positive(self, "images", "batch_size", "steps", "draws")


@dataclass(frozen=True)
class ImageSettings:
    """Evaluation of an image model.

    Attributes:
        samples: images per sampling seed and NFE; also the size of the floor's sets.
        seeds: sampling seeds.
        nfe: function evaluations per sample at which the model is measured.
        batch_size: images sampled at once; changes no noise.
        detail_nfe: where precision, recall, density, coverage and memorisation are measured too.
        neighbours: k of precision and recall.
        grid: images kept per NFE, of the first seed.
        trajectory: images whose way from noise is kept.
        trajectory_nfe: evaluations of that way.
        likelihood: see `LikelihoodSettings`.
    """

    samples: int = 500
    seeds: int = 3
    nfe: Sequence[int] = (1, 2, 4, 8, 16, 32)
    batch_size: int = 250
    detail_nfe: Sequence[int] = (32,)
    neighbours: int = 3
    grid: int = 64
    trajectory: int = 8
    trajectory_nfe: int = 16
    likelihood: LikelihoodSettings = field(default_factory=LikelihoodSettings)

    def __post_init__(self) -> None:
        _positive(self, "samples", "seeds", "batch_size", "neighbours", "grid", "trajectory", "trajectory_nfe")
        _budgets("nfe", self.nfe)
        if self.detail_nfe:
            _budgets("detail_nfe", self.detail_nfe)
        strange = sorted(set(self.detail_nfe) - set(self.nfe))
        if strange:
            raise ValueError(f"evaluation: detail_nfe holds {strange[0]}, which nfe = {list(self.nfe)} does not")
        if self.samples <= max(2, self.neighbours):
            raise ValueError(f"evaluation: samples = {self.samples}; give more than neighbours = {self.neighbours}")


@dataclass(frozen=True)
class TextSettings:
    """Evaluation of a language model.

    Attributes:
        sequences: sequences generated per sampling seed and NFE; also the size of the floor's sets.
        seeds: sampling seeds.
        nfe: function evaluations per sequence at which the model is measured.
        batch_size: sequences sampled or scored at once; part of the protocol, since a batch shares its random stream.
        likelihood_sequences: test sequences, the first of the split.
        strata: strata of t per sequence for a bound.
        ngram: n of the character n-gram divergence.
        texts: generated texts kept per NFE, of the first seed.
        trajectory_nfe: evaluations of the kept trajectory.
        trajectory_states: states of it that are decoded.
    """

    sequences: int = 128
    seeds: int = 3
    nfe: Sequence[int] = (4, 8, 16, 32, 64)
    batch_size: int = 64
    likelihood_sequences: int = 512
    strata: int = 32
    ngram: int = 3
    texts: int = 8
    trajectory_nfe: int = 32
    trajectory_states: int = 7

    def __post_init__(self) -> None:
        _positive(self, "sequences", "seeds", "batch_size", "likelihood_sequences", "strata", "ngram", "texts")
        _positive(self, "trajectory_nfe", "trajectory_states")
        _budgets("nfe", self.nfe)
