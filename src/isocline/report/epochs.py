"""Likelihood over epochs: what it brings a kind of model to see the same text again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from isocline.report.charts import Chart, legend
from isocline.report.figures import MARKERS, NARROW, Axis, Series, line_chart, number
from isocline.report.sources import Model, Reading

__all__ = ["epochs_chart", "epochs_of"]


def epochs_of(model: Model, card: Mapping[str, Any]) -> float | None:
    """How often training saw the whole of its split; None if that is not known.

    Args:
        model: a model of text.
        card: of the text, with the rows of the training split.
    """
    rows = ((card.get("splits") or {}).get("train") or {}).get("rows")
    trainer = model.settings.get("trainer") or {}
    steps, batch = model.training.get("steps", trainer.get("steps")), trainer.get("batch_size")
    return steps * batch / rows if rows and steps and batch else None


def _kind(model: Model) -> str:
    """What distinguishes models but for their budget: objective, process and network with all their settings."""
    sections = [model.settings.get(part) for part in ("objective", "process", "network")]
    return json.dumps(sections, sort_keys=True, default=str)


def epochs_chart(models: Sequence[Model], card: Mapping[str, Any], colours: Mapping[str, int]) -> Chart | None:
    """Bits per character over epochs, a curve for every kind of model that was trained with several budgets.

    Args:
        models: of text; students are left out, whose training is not all of what their weights saw.
        card: of the text.
        colours: palette index by model.

    Returns:
        The chart, or None if no kind has two budgets.
    """
    groups: dict[str, list[tuple[float, Reading, Model]]] = {}
    for model in models:
        epochs = epochs_of(model, card)
        reading = model.reading("bits_per_char_tightest") or model.reading("bits_per_char")
        if model.teacher is None and epochs is not None and reading is not None:
            groups.setdefault(_kind(model), []).append((epochs, reading, model))
    series: list[Series] = []
    for members in groups.values():
        members.sort(key=lambda entry: entry[0])
        if len({epochs for epochs, _, _ in members}) < 2:
            continue
        index = colours.get(members[0][2].name, len(series))
        half = [2 * (reading.se or 0.0) for _, reading, _ in members]
        means = [reading.mean for _, reading, _ in members]
        series.append(
            Series(
                min((model.name for _, _, model in members), key=len),
                tuple(epochs for epochs, _, _ in members),
                tuple(means),
                tuple(mean - error for mean, error in zip(means, half, strict=True)),
                tuple(mean + error for mean, error in zip(means, half, strict=True)),
                colour=index,
                marker=MARKERS[index % len(MARKERS)],
            )
        )
    if not series:
        return None
    said = "; ".join(
        f"{s.label} from {number(s.y[0])} after {number(s.x[0])} to {number(s.y[-1])} after {number(s.x[-1])} epochs"
        for s in series
    )
    drawing = line_chart(
        series,
        Axis("epochs of the training text", "log"),
        Axis("bits per character (lower is better)"),
        description=f"Held-out bits per character over epochs. {said}.",
        size=NARROW,
    )
    note = (
        "Each point is a training of its own, by the tightest valid likelihood; bands: ± 2 se. Where one curve turns "
        "up, more epochs memorise; a model that masks its text anew each time can go on learning from it."
    )
    return Chart("Likelihood over epochs", drawing, None, legend(series), note)
