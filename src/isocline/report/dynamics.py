"""The chapter that reads each model as a dynamical system: its curves, its numbers, and a sentence on each."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from isocline.report import tables
from isocline.report.chapter import Chapter, Part, Plate
from isocline.report.dynamics_charts import dynamics_charts
from isocline.report.figures import number
from isocline.report.sources import Reading, Sources
from isocline.report.study import Study

__all__ = ["chapter"]

_PLATES = {
    "fixed_points": "Fixed points of the denoiser (top) and the nearest training images",
    "attractors": "Attractors of the denoiser (top) and the nearest training images",
}


def chapter(sources: Sources) -> Chapter | None:
    """The chapter, or None where no model was analysed."""
    studies = sources.found("dynamics")
    parts = tuple(_part(study) for study in studies.values())
    if not parts:
        return None
    return Chapter(
        anchor="dynamics",
        nav="Dynamics",
        title="The models as dynamical systems",
        lede="Where trajectories go and how fast, when an outcome is settled on the way, where a denoiser comes to "
        "rest, and what each layer does. One part a model; what makes no sense of a model is not asked of it.",
        parts=parts,
    )


def _part(study: Study) -> Part:
    return Part(
        heading=study.name,
        findings=tuple(_sentences(study.document)),
        charts=tuple(dynamics_charts(study).values()),
        tables=tuple(table for table in (_numbers(study),) if not table.empty),
        plates=tuple(_plate(study, name) for name in study.pictures),
    )


def _plate(study: Study, name: str) -> Plate:
    data, title = study.pictures[name], _PLATES.get(name, _spoken(name).capitalize())
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
    return Plate(title, data, f"{title} of {study.name}", width, height, pixelated=True)


def _numbers(study: Study) -> tables.Table:
    """All metrics of a model, one a row."""
    rows = [
        tables.Row(f"{group}: {_spoken(name)}", (tables.cell(reading),))
        for group, values in study.document.items()
        if group != "protocol" and isinstance(values, Mapping)
        for name, reading in _flat(values)
    ]
    return tables.Table("What was measured", ("value",), tuple(rows), "Mean ± standard deviation over repetitions.")


def _flat(values: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, Reading]]:
    found: list[tuple[str, Reading]] = []
    for name, node in values.items():
        label = f"{prefix} {name}".strip()
        reading = Reading.parse(node)
        if reading is not None:
            found.append((label, reading))
        elif isinstance(node, Mapping):
            found += _flat(node, label)
    return found


def _spoken(name: str) -> str:
    """A key as a reader says it: ``noise_0_7`` is noise 0.7."""
    return re.sub(r"(?<=\d)_(?=\d)", ".", name).replace("_", " ")


def _sentences(document: Mapping[str, Any]) -> list[str]:
    """What the numbers say; only of what was measured."""
    found = [said for say in _SAYINGS if (said := say(document)) is not None]
    return [sentence for sentence in found if sentence]


def _value(document: Mapping[str, Any], group: str, name: str) -> float | None:
    reading = Reading.parse((document.get(group) or {}).get(name))
    return None if reading is None else reading.mean


def _planar(document: Mapping[str, Any]) -> str | None:
    flat, detour = (_value(document, "geometry", name) for name in ("planarity", "arc_over_chord"))
    if flat is None or detour is None:
        return None
    return (
        f"Two axes hold {100 * flat:.1f} % of a trajectory’s variance; it is {number(detour)} times as long as the "
        "straight way."
    )


def _decided(document: Mapping[str, Any]) -> str | None:
    when, probe = (_value(document, "decision", name) for name in ("decision_time", "probe_agrees_half_way"))
    if when is None or probe is None:
        return None
    return (
        f"The class is settled at t = {number(when)} on average; half way a linear probe of the state names it in "
        f"{100 * probe:.0f} % of the samples."
    )


def _committed(document: Mapping[str, Any]) -> str | None:
    when = _value(document, "commitment", "commitment_time")
    order, common = (_value(document, "commitment", name) for name in ("left_to_right", "frequent_first"))
    if when is None or order is None or common is None:
        return None
    law = _value(document, "commitment", "law_commitment_time")
    sooner = "" if law is None else f" (in the law: {number(law)})"
    return (
        f"A token is final at t = {number(when)} on average{sooner}; rank correlation of being early with standing on "
        f"the left {number(order)}, with being frequent {number(common)}."
    )


def _layers(document: Mapping[str, Any]) -> str | None:
    agree, rises = _value(document, "depth", "agreement_half_way"), (document.get("depth") or {}).get("loss_rise")
    if agree is None or not isinstance(rises, Mapping):
        return None
    means = {name: reading.mean for name, raw in rises.items() if (reading := Reading.parse(raw))}
    least = min(means, key=lambda name: means[name])
    return (
        f"Half way down, the network’s most probable token is its final one at {100 * agree:.0f} % of the positions; "
        f"{_spoken(least)} is missed least ({number(means[least])} nats per token)."
    )


def _counts(document: Mapping[str, Any], group: str, name: str) -> dict[str, float]:
    """Numbers by level of noise (or time), spoken: ``noise_0_7`` is 0.7."""
    values = (document.get(group) or {}).get(name)
    found = {key: Reading.parse(raw) for key, raw in values.items()} if isinstance(values, Mapping) else {}
    return {_spoken(key).rpartition(" ")[2]: r.mean for key, r in found.items() if r is not None}


def _resting(document: Mapping[str, Any]) -> str | None:
    distinct = _counts(document, "fixed_points", "distinct")
    stable = _counts(document, "fixed_points", "attracting")
    if not distinct:
        return None
    said = (f"{number(count)} at {at}, of which {number(stable.get(at, 0))} attract" for at, count in distinct.items())
    return f"Distinct fixed points found: {'; '.join(said)}."


def _attracted(document: Mapping[str, Any]) -> str | None:
    distinct, ratio = _counts(document, "attractors", "distinct"), _value(document, "attractors", "memorisation_ratio")
    if not distinct:
        return None
    said = ", ".join(f"{number(count)} at {at}" for at, count in distinct.items())
    near = "" if ratio is None else f"; their median distance to the training set is {number(ratio)} of unseen images’"
    return f"Iterated at one share of noise, samples end at few attractors: {said}{near}."


def _split(document: Mapping[str, Any]) -> str | None:
    at = _value(document, "continuation", "splits_at")
    if at is None:
        return None
    return f"Followed as the noise falls, the attractor of most samples ceases to attract at {number(at)} of noise."


def _chaotic(document: Mapping[str, Any]) -> str | None:
    largest = _value(document, "lyapunov", "largest")
    if largest is None:
        return None
    verb = "part" if largest > 0 else "draw together"
    return f"The largest finite-time Lyapunov exponent is {number(largest)}: neighbouring trajectories {verb}."


_SAYINGS: tuple[Callable[[Mapping[str, Any]], str | None], ...] = (
    _decided,
    _committed,
    _layers,
    _planar,
    _resting,
    _attracted,
    _split,
    _chaotic,
)
