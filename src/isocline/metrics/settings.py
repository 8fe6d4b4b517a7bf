"""What an evaluation does: sizes and lists that the protocol states beside every number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from isocline.metrics.image_metrics import (
    AbstractImageMetric,
    ClassBalance,
    Frechet,
    Kernel,
    Memorisation,
    PrecisionRecall,
)
from isocline.metrics.text_metrics import (
    AbstractTextMetric,
    DictionaryShare,
    DistinctWords,
    Entropy,
    GenerativePerplexity,
    JensenShannon,
    SelfBleu,
)
from isocline.objectives.likelihood import ProbabilityFlowLikelihood

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


def _image_metrics() -> dict[str, AbstractImageMetric]:
    return {"frechet": Frechet(), "kernel": Kernel(), "class_balance": ClassBalance()}


def _image_detail() -> dict[str, AbstractImageMetric]:
    return {"precision_recall": PrecisionRecall(), "memorisation": Memorisation()}


def _text_metrics() -> dict[str, AbstractTextMetric]:
    return {
        "generative_perplexity": GenerativePerplexity("ar"),
        "generative_perplexity_ngram": GenerativePerplexity("ngram"),
        "entropy": Entropy(),
        "jensen_shannon": JensenShannon(),
        "dictionary_share": DictionaryShare(),
        "distinct_words": DistinctWords(),
        "self_bleu": SelfBleu(),
    }


@dataclass(frozen=True)
class LikelihoodSettings:
    """Bits per dimension by the probability-flow ODE.

    Attributes:
        models: how the density is found, by the name of the model; models that are not named are left out.
        images: test images, the first of the split.
        batch_size: images integrated at once.
        draws: dequantisation and trace draws per image.
    """

    models: Mapping[str, ProbabilityFlowLikelihood] = field(default_factory=dict)
    images: int = 64
    batch_size: int = 64
    draws: int = 1

    def __post_init__(self) -> None:
        _positive(self, "images", "batch_size", "draws")


@dataclass(frozen=True)
class ImageSettings:
    """Evaluation of an image model.

    Attributes:
        samples: images per sampling seed and NFE; also the size of the floor's sets.
        seeds: sampling seeds.
        nfe: function evaluations per sample at which the model is measured.
        batch_size: images sampled at once; changes no noise.
        detail_nfe: where ``detail`` is measured too.
        metrics: measured at every budget, by name (the names only order and override them).
        detail: dearer metrics, measured at ``detail_nfe``.
        grid: images kept per NFE, of the first seed.
        trajectory: images whose way from noise is kept.
        trajectory_nfe: evaluations of that way, and of those whose shape is measured.
        trajectories: ways whose straightness and curvature are measured.
        likelihood: see `LikelihoodSettings`.
    """

    samples: int = 500
    seeds: int = 3
    nfe: Sequence[int] = (1, 2, 4, 8, 16, 32)
    batch_size: int = 250
    detail_nfe: Sequence[int] = (32,)
    metrics: Mapping[str, AbstractImageMetric] = field(default_factory=_image_metrics)
    detail: Mapping[str, AbstractImageMetric] = field(default_factory=_image_detail)
    grid: int = 64
    trajectory: int = 8
    trajectory_nfe: int = 16
    trajectories: int = 64
    likelihood: LikelihoodSettings = field(default_factory=LikelihoodSettings)

    def __post_init__(self) -> None:
        _positive(self, "samples", "seeds", "batch_size", "grid", "trajectory", "trajectory_nfe", "trajectories")
        _budgets("nfe", self.nfe)
        if self.detail_nfe:
            _budgets("detail_nfe", self.detail_nfe)
        strange = sorted(set(self.detail_nfe) - set(self.nfe))
        if strange:
            raise ValueError(f"evaluation: detail_nfe holds {strange[0]}, which nfe = {list(self.nfe)} does not")
        if not self.metrics:
            raise ValueError("evaluation: metrics is empty; name at least one")

    def measured(self, nfe: int | None) -> Iterator[AbstractImageMetric]:
        """Yield the metrics that belong to a budget; all of them for None."""
        yield from self.metrics.values()
        if nfe is None or nfe in self.detail_nfe:
            yield from self.detail.values()


@dataclass(frozen=True)
class TextSettings:
    """Evaluation of a language model.

    Attributes:
        sequences: sequences generated per sampling seed and NFE; also the size of the floor's sets.
        seeds: sampling seeds.
        nfe: function evaluations per sequence at which the model is measured.
        batch_size: sequences sampled or scored at once; part of the protocol, since a batch shares its random stream.
        likelihood_sequences: test sequences, evenly spaced over the split.
        strata: strata of t per sequence for a bound.
        chain_sequences: of them, how many a masked model scores by the chain rule too, which costs it one evaluation
            per token and order; 0 for none.
        metrics: measured at every budget, by name (the names only order and override them).
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
    chain_sequences: int = 64
    metrics: Mapping[str, AbstractTextMetric] = field(default_factory=_text_metrics)
    texts: int = 8
    trajectory_nfe: int = 32
    trajectory_states: int = 7

    def __post_init__(self) -> None:
        _positive(self, "sequences", "seeds", "batch_size", "likelihood_sequences", "strata", "texts")
        _positive(self, "trajectory_nfe", "trajectory_states")
        if self.chain_sequences:
            _positive(self, "chain_sequences")
        _budgets("nfe", self.nfe)
        if not self.metrics:
            raise ValueError("evaluation: metrics is empty; name at least one")
