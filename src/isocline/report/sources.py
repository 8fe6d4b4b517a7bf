"""What the report reads: every artefact of the pipeline, gathered into frozen records.

A missing or unreadable piece is no error here: the field stays empty and `Sources.problems` says what could not be
read, so that a report of half a pipeline is still a report. Nothing in this package imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocline.report.reader import Reader
from isocline.report.study import Study, read_studies

Bytes = NDArray[np.uint8]
"""An array of 8-bit pixels."""

MODALITIES = ("images", "text")


@dataclass(frozen=True)
class Reading:
    """One measured value with its spread.

    Attributes:
        mean: the value.
        sd: standard deviation over repetitions (seeds), or None.
        se: standard error of the mean, or None.
        n: number of repetitions or samples behind `mean`.
        kind: `exact`, `estimate` or `bound` where the metric is a likelihood, else empty.
        values: the repetitions themselves in the order of their seeds, empty where the artefact has none.
    """

    mean: float
    sd: float | None = None
    se: float | None = None
    n: int | None = None
    kind: str = ""
    values: tuple[float, ...] = ()

    @classmethod
    def parse(cls, raw: Any) -> Reading | None:
        """Read a number or a mapping with a `mean`; anything else, or a non-finite mean, gives None."""
        if isinstance(raw, bool):
            return None
        if isinstance(raw, int | float):
            return cls(float(raw)) if math.isfinite(raw) else None
        if not isinstance(raw, Mapping):
            return None
        mean = _finite(raw.get("mean"))
        if mean is None:
            return None
        values = raw.get("values")
        numbers = tuple(map(float, values)) if isinstance(values, list) else ()
        n = raw.get("n")
        return cls(
            mean,
            _finite(raw.get("sd")),
            _finite(raw.get("se")),
            int(n) if isinstance(n, int | float) and math.isfinite(n) else None,
            str(raw.get("kind", "")),
            numbers,
        )


@dataclass(frozen=True)
class ImageTrajectory:
    """States on the way from noise to data: `t` (K,) and `states` (K, N, C, H, W) uint8."""

    t: tuple[float, ...]
    states: Bytes


@dataclass(frozen=True)
class TextStep:
    """The text of one sequence at time `t`."""

    t: float
    text: str


@dataclass(frozen=True)
class Model:
    """One trained model or student with everything that its stages left behind.

    ``right``: see the classifiers. ``nats``: of held-out text by the name of the likelihood, NaN where not scored.
    """

    name: str
    modality: str
    teacher: str | None
    settings: Mapping[str, Any]
    parameters: int | None = None
    history: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[int, Bytes] = field(default_factory=dict)
    trajectory: ImageTrajectory | None = None
    text_samples: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    text_trajectory: tuple[TextStep, ...] = ()
    right: tuple[bool, ...] = ()
    nats: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def reading(self, metric: str) -> Reading | None:
        """A metric that has one value, or None."""
        return Reading.parse(self.metrics.get(metric))

    def curve(self, metric: str) -> dict[int, Reading]:
        """A metric measured at several NFE, sorted by NFE; empty where it was not measured."""
        raw = self.metrics.get(metric)
        if not isinstance(raw, Mapping):
            return {}
        pairs = {int(k): Reading.parse(v) for k, v in raw.items() if str(k).isdigit()}
        return {k: v for k, v in sorted(pairs.items()) if v is not None}


@dataclass(frozen=True)
class Sources:
    """Everything that the page shows."""

    params: Mapping[str, Any]
    models: tuple[Model, ...] = ()
    cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    judges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    real_images: Bytes | None = None
    mask_symbol: str | None = None
    stages: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    densities: tuple[Model, ...] = ()
    density_tensors: Mapping[str, Mapping[str, NDArray[Any]]] = field(default_factory=dict)
    points: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    point_cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    studies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    chapters: Mapping[str, Mapping[str, Study]] = field(default_factory=dict)

    def found(self, kind: str) -> Mapping[str, Study]:
        """The studies of a kind (a key of `isocline.report.study.KINDS`) that params.yaml names, by name."""
        return self.chapters.get(kind, {})

    def of(self, modality: str) -> tuple[Model, ...]:
        """The models of one modality, teachers before their students."""
        return tuple(model for model in self.models if model.modality == modality)

    def model(self, name: str | None) -> Model | None:
        """The model of that name, or None."""
        return next((model for model in self.models if model.name == name), None)

    def taught_by(self, model: Model) -> tuple[Model, ...]:
        """Its teacher, that one's teacher, and so on up to a model that has none."""
        chain: list[Model] = []
        while (teacher := self.model(model.teacher)) is not None and teacher not in chain:
            chain.append(teacher)
            model = teacher
        return tuple(chain)


def _finite(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _text_samples(raw: Any) -> dict[int, tuple[str, ...]]:
    if not isinstance(raw, Mapping):
        return {}
    texts = {int(k): tuple(map(str, v)) for k, v in raw.items() if str(k).isdigit() and isinstance(v, list)}
    return dict(sorted(texts.items()))


def _text_trajectory(raw: Any) -> tuple[TextStep, ...]:
    """Steps from t = 1 down to t = 0; `text` may be one string or a list, of which the first is shown."""
    steps = []
    for step in raw if isinstance(raw, list) else ():
        if not isinstance(step, Mapping) or _finite(step.get("t")) is None:
            continue
        text = step.get("text", "")
        steps.append(TextStep(float(step["t"]), str(text[0]) if isinstance(text, list) and text else str(text)))
    return tuple(sorted(steps, key=lambda step: -step.t))


def _image_samples(tensors: Mapping[str, NDArray[Any]]) -> dict[int, Bytes]:
    found = {
        int(key[4:]): value.astype(np.uint8)
        for key, value in tensors.items()
        if key.startswith("nfe_") and key[4:].isdigit() and value.ndim == 4
    }
    return dict(sorted(found.items()))


def _image_trajectory(tensors: Mapping[str, NDArray[Any]]) -> ImageTrajectory | None:
    t, states = tensors.get("t"), tensors.get("states")
    if t is None or states is None or states.ndim != 5 or len(t) != len(states) or not len(t):
        return None
    order = np.argsort(-t, kind="stable")
    return ImageTrajectory(tuple(float(v) for v in t[order]), states[order].astype(np.uint8))


def _declared(params: Mapping[str, Any]) -> Iterator[tuple[str, str | None, Mapping[str, Any]]]:
    """(name, teacher, settings) of every model in params: each teacher is followed by its students."""
    models, students = params.get("models") or {}, params.get("students") or {}
    for name, settings in models.items():
        yield name, None, settings or {}
        for student, options in students.items():
            if (options or {}).get("teacher") == name:
                yield student, name, options
    for student, options in students.items():
        if (options or {}).get("teacher") not in models:
            yield student, (options or {}).get("teacher"), options or {}


def _modality(params: Mapping[str, Any], settings: Mapping[str, Any], teacher: str | None) -> str:
    """What a model is shown under: its modality, or ``classifiers``."""
    if str((settings.get("objective") or {}).get("_target_")).endswith(".Classification"):
        return "classifiers"
    named = settings.get("modality")
    if named is None and teacher is not None:
        named = ((params.get("models") or {}).get(teacher) or {}).get("modality")
    return str(named) if named in MODALITIES else "images"


def _read_model(
    reader: Reader, params: Mapping[str, Any], name: str, teacher: str | None, settings: Mapping[str, Any]
) -> tuple[Model, str | None]:
    folder = f"data/evaluations/{name}"
    texts = reader.json(f"{folder}/texts.json")
    mask = texts.get("mask")
    model = Model(
        name=name,
        modality=_modality(params, settings, teacher),
        teacher=teacher,
        settings=settings,
        parameters=reader.parameter_count(f"data/models/{name}/weights.safetensors"),
        history=reader.columns(f"data/models/{name}/history.csv"),
        metrics=reader.json(f"metrics/evaluate-{name}.json"),
        samples=_image_samples(reader.tensors(f"{folder}/samples.safetensors", limit=256)),
        trajectory=_image_trajectory(reader.tensors(f"{folder}/trajectory.safetensors")),
        text_samples=_text_samples(texts.get("samples")),
        text_trajectory=_text_trajectory(texts.get("trajectory")),
        right=tuple(map(bool, reader.tensors(f"{folder}/outcomes.safetensors").get("right", ()))),
        nats=reader.tensors(f"{folder}/likelihood.safetensors"),
        training=reader.json(f"metrics/train-{name}.json"),
    )
    return model, mask if isinstance(mask, str) and mask else None


def _density(reader: Reader, name: str, settings: Mapping[str, Any]) -> Model:
    return Model(
        name=name,
        modality="points",
        teacher=None,
        settings=settings,
        parameters=reader.parameter_count(f"data/models/{name}/weights.safetensors"),
        history=reader.columns(f"data/models/{name}/history.csv"),
        metrics=reader.json(f"metrics/evaluate-{name}.json"),
    )


def _points(reader: Reader, sets: Iterable[str]) -> dict[str, NDArray[Any]]:
    found = {name: reader.tensors(f"data/points/{name}/test.safetensors").get("points") for name in sets}
    return {name: points for name, points in found.items() if points is not None and points.ndim == 2}


def read_sources(root: Path, params: Mapping[str, Any]) -> Sources:
    """Gather the artefacts below `root` (the project's working directory) for the run that `params` describes.

    Args:
        root: the folder that holds `data/`, `metrics/` and `dvc.yaml`.
        params: plain mapping, the content of `params.yaml`.

    Returns:
        Sources; what is missing is empty, what is unreadable is named in `problems`.
    """
    reader = Reader(root)
    read = [_read_model(reader, params, *found) for found in _declared(params)]
    real = reader.tensors("data/images/test.safetensors", limit=256).get("images")
    declared = params.get("densities") or {}
    densities = tuple(_density(reader, name, settings or {}) for name, settings in declared.items())
    sets = (params.get("data") or {}).get("points") or {}
    kept = {name: reader.tensors(f"data/evaluations/{name}/density.safetensors") for name in declared}
    points = _points(reader, sets)
    studied = (params.get("matrix") or {}).get("solvers") or {}
    studies = {name: reader.json(f"metrics/solvers-{name}.json") for name in studied}
    chapters = read_studies(reader, params)
    return Sources(
        params=params,
        models=tuple(model for model, _ in read),
        cards={kind: reader.json(f"data/{kind}/card.json") for kind in MODALITIES},
        judges={kind: reader.json(f"metrics/judge-{kind}.json") for kind in MODALITIES},
        real_images=real if real is not None and real.ndim == 4 else None,
        mask_symbol=next((mask for _, mask in read if mask), None),
        stages=reader.yaml("dvc.yaml").get("stages") or {},
        problems=tuple(reader.problems),
        densities=densities,
        density_tensors=kept,
        points=points,
        point_cards={name: reader.json(f"data/points/{name}/card.json") for name in sets},
        studies=studies,
        chapters=chapters,
    )
