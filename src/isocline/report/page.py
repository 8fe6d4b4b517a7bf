"""The page: every section is prepared here as plain values; the template only lays them out.

The bytes depend on the artefacts alone: no date, no run id, no wall-clock value, no path of the machine. Links to the
tracked runs and their timings come from an optional `runs.js` beside the page, which is no pipeline output.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from isocline.report import (
    charts,
    classifiers,
    densities,
    depth,
    dynamics,
    epochs,
    language,
    lineage,
    optimisation,
    pictures,
    solvers,
    stability,
    students,
    tables,
)
from isocline.report.chapter import Chapter, ChapterOf
from isocline.report.figures import count, number, slope_field
from isocline.report.sources import Model, Sources, TextStep, read_sources

MASKS = ("[MASK]", "<mask>", "\u2592", "\u2588")
"""How an undecided token may be written, when texts.json does not say (`mask`)."""

CHAPTERS: tuple[ChapterOf, ...] = (depth.chapter, stability.chapter, dynamics.chapter, optimisation.chapter)
"""The chapters that studies fill, in the order of the page."""


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    Attributes:
        model: whose samples these are.
        uri: PNG as a data address.
        alt: text for readers who cannot see it.
        width: pixels across, before scaling.
        height: pixels down.
        frames: states in a sprite sheet, else 1.
        times: t of each state, for a sprite.
    """

    model: Model
    uri: str
    alt: str
    width: int
    height: int
    frames: int = 1
    times: tuple[float, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A run of text, or an undecided token."""

    text: str
    masked: bool


def _picture(model: Model, pixels: pictures.Bytes, alt: str, **more: Any) -> Picture:
    return Picture(model, pictures.data_uri(pixels), alt, pixels.shape[1], pixels.shape[0], **more)


def sample_grids(model: Model, most: int = 36) -> dict[int, Picture]:
    """A square grid of samples at each NFE."""
    found = {}
    for nfe, images in model.samples.items():
        columns = pictures.square_columns(min(len(images), most))
        shown = images[: columns * columns]
        alt = f"{len(shown)} samples of {model.name} at {nfe} function evaluation{'s' if nfe > 1 else ''}"
        found[nfe] = _picture(model, pictures.tile(shown, columns), alt)
    return found


def film_strip(model: Model, states: int = 9, rows: int = 4) -> Picture | None:
    """Noise on the left, data on the right."""
    path = model.trajectory
    if path is None:
        return None
    picks = pictures.thin(len(path.t), states)
    times = tuple(path.t[i] for i in picks)
    alt = f"{min(rows, path.states.shape[1])} samples of {model.name} on their way from noise (left) to data (right)"
    return _picture(model, pictures.film(path.states[picks], rows), alt, frames=len(picks), times=times)


def trajectory_sprite(model: Model, states: int = 17, columns: int = 4) -> Picture | None:
    """All states of a few samples in one sheet; the slider shows one at a time."""
    path = model.trajectory
    if path is None:
        return None
    picks = pictures.thin(len(path.t), states)
    wide = min(columns, path.states.shape[1])
    keep = path.states.shape[1] // wide * wide
    sheet = pictures.sprite(path.states[picks][:, : min(keep, 2 * wide)], wide)
    times = tuple(path.t[i] for i in picks)
    alt = f"samples of {model.name} between noise (t = 1) and data (t = 0)"
    return _picture(model, sheet, alt, frames=len(picks), times=times)


def pieces(text: str, mask: str | None) -> list[Piece]:
    """Split decoded text into runs of words and undecided tokens."""
    marks = [mask] if mask else [m for m in MASKS if m in text]
    found: list[Piece] = []
    while text:
        hits = [(text.find(m), m) for m in marks if m in text]
        if not hits:
            found.append(Piece(text, masked=False))
            break
        at, mark = min(hits)
        if at:
            found.append(Piece(text[:at], masked=False))
        found.append(Piece(mark, masked=True))
        text = text[at + len(mark) :]
    return found


def text_steps(steps: Sequence[TextStep], mask: str | None, most: int = 17) -> list[tuple[str, list[Piece]]]:
    """(t, pieces) of a text trajectory from t = 1 to 0."""
    return [(f"{steps[i].t:.2f}", pieces(steps[i].text, mask)) for i in pictures.thin(len(steps), most)]


def model_colours(sources: Sources) -> dict[str, int]:
    """Palette index by model, counted per modality (densities: per point set) in the order of params.yaml."""
    shown = {m.name: i for kind in ("images", "text", "classifiers") for i, m in enumerate(sources.of(kind))}
    sets: dict[str, list[str]] = {}
    for model in sources.densities:
        sets.setdefault(densities.data_set(model), []).append(model.name)
    return shown | {name: i for names in sets.values() for i, name in enumerate(names)}


def headlines(sources: Sources) -> list[str]:
    """What the numbers say, in sentences; only what was measured."""
    found = []
    curves = [(m, k, r) for m in sources.of("images") for k, r in m.curve("frechet").items()]
    if curves:
        model, nfe, best = min(curves, key=lambda entry: entry[2].mean)
        floor = tables.floor_reading(sources.of("images"), "frechet")
        against = f"; real images score {number(floor.mean)} under the same judge" if floor else ""
        found.append(
            f"Best images: {model.name} at {nfe} evaluations, "
            f"judge Fréchet {number(best.mean)} {tables.spread(best)}{against}."
        )
        first = min(nfe for _, nfe, _ in curves)
        few, _, reading = min((e for e in curves if e[1] == first), key=lambda entry: entry[2].mean)
        plural = "s" if first > 1 else ""
        found.append(
            f"With {first} evaluation{plural}: {few.name} leads with {number(reading.mean)} {tables.spread(reading)}."
        )
    if sentence := language.headline(sources.of("text")):
        found.append(sentence)
    return [sentence.replace("  ", " ").replace(" .", ".") for sentence in found]


def facts(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A card as (name, value) pairs, nested mappings flattened with a dot, digests shortened."""
    found: list[tuple[str, str]] = []

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else str(key), inner)
        elif isinstance(value, list):
            if not prefix.endswith("by_class"):  # drawn as bars
                found.append((prefix, ", ".join(map(_plain, value))))
        elif value is not None:
            found.append((prefix, _plain(value)))

    visit("", card)
    return found


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return count(value)
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 and all(c in "0123456789abcdef" for c in text) else text


def class_counts(card: Mapping[str, Any]) -> list[tuple[str, int]]:
    """(class, images) of the training split, from the card's `splits.train.by_class` and `classes`."""
    counts = ((card.get("splits") or {}).get("train") or {}).get("by_class") or []
    names = card.get("classes") or []
    return [(str(names[i]) if i < len(names) else str(i), int(n)) for i, n in enumerate(counts)]


def split_sizes(card: Mapping[str, Any]) -> str:
    """The size of each split in a few words: images, or characters of text."""
    splits = card.get("splits") or {}
    unit = next((u for u in ("images", "characters", "rows") for s in splits.values() if u in s), None)
    if unit is None:
        return ""
    sizes = ", ".join(f"{_plain(s[unit])} {name}" for name, s in splits.items() if unit in s)
    return f"{unit}: {sizes}"


def model_table(sources: Sources, colours: Mapping[str, int]) -> tables.Table:
    """What each model is: size, process, network, objective, training, sampler; students share their teacher's."""

    def named(model: Model, key: str) -> tables.Cell:
        sections = [other.settings.get(key) or {} for other in (model, *sources.taught_by(model))]
        target = next((section["_target_"] for section in sections if "_target_" in section), None)
        return tables.Cell(str(target).rsplit(".", 1)[-1]) if target else tables.Cell()

    rows = []
    for model in sources.models:
        trainer = model.settings.get("trainer") or {}
        steps, batch = trainer.get("steps"), trainer.get("batch_size")
        training = tables.Cell(f"{_plain(steps)} × {_plain(batch)}") if steps and batch else tables.Cell()
        size = tables.Cell(_plain(model.parameters)) if model.parameters else tables.Cell("not trained")
        parts = [named(model, key) for key in ("process", "network", "objective", "sampler")]
        rows.append(tables.Row(model.name, (size, *parts, training), tables.origin(model), colours.get(model.name)))
    columns = ("weights", "process", "network", "objective", "sampler", "steps × batch")
    return tables.Table(
        "Models and students",
        columns,
        tuple(rows),
        "A student has its teacher’s process, and what it does not change of its network.",
    )


def usual_budget(by_model: Sequence[Sequence[int]]) -> int | None:
    """The NFE that most models were run at, the largest of several: where a comparison starts."""
    counts = {nfe: sum(nfe in own for own in by_model) for own in by_model for nfe in own}
    return max(counts, key=lambda nfe: (counts[nfe], nfe)) if counts else None


def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    environment.filters["count"] = _plain
    environment.globals["origin"] = tables.origin
    environment.globals["split_sizes"] = split_sizes
    return environment


def _asset(name: str) -> Markup:
    return Markup((Path(__file__).parent / name).read_text("utf-8"))


def _images(sources: Sources, colours: Mapping[str, int]) -> dict[str, Any]:
    models = sources.of("images")
    grids = {model.name: sample_grids(model) for model in models}
    real = None
    if sources.real_images is not None and len(sources.real_images):
        columns = pictures.square_columns(min(len(sources.real_images), 36))
        real = pictures.data_uri(pictures.tile(sources.real_images[: columns * columns], columns))
    films = [(m, film_strip(m), trajectory_sprite(m)) for m in models]
    return {
        "models": models,
        "charts": charts.image_charts([model for model in models if model.teacher is None], colours),
        "tables": charts.image_tables(models, colours),
        "grids": grids,
        "steps": sorted({nfe for group in grids.values() for nfe in group}),
        "usual": usual_budget([list(group) for group in grids.values()]),
        "real": real,
        "films": [entry for entry in films if entry[1] is not None],
        "balance": class_counts(sources.cards.get("images", {})),
    }


def _text(sources: Sources, colours: Mapping[str, int]) -> dict[str, Any]:
    models = sources.of("text")
    return {
        "models": models,
        "charts": language.text_charts(models, colours),
        "tables": language.text_tables(models, colours),
        "epochs": epochs.epochs_chart(models, sources.cards.get("text", {}), colours),
        "protocol": language.protocol_facts(models, sources.cards.get("text", {})),
        "trajectories": [(m, text_steps(m.text_trajectory, sources.mask_symbol)) for m in models if m.text_trajectory],
        "samples": {
            m.name: {k: [pieces(t, sources.mask_symbol) for t in v[:3]] for k, v in m.text_samples.items()}
            for m in models
        },
        "steps": sorted({nfe for m in models for nfe in m.text_samples}),
        "usual": usual_budget([list(m.text_samples) for m in models]),
    }


def _classifiers(sources: Sources, colours: Mapping[str, int]) -> dict[str, Any]:
    models = sources.of("classifiers")
    section = (sources.params.get("evaluation") or {}).get("classifiers") or {}
    return {
        "models": models,
        "chart": classifiers.accuracy_chart(models, colours),
        "tables": classifiers.classifier_tables(models, colours, section.get("gradients") or {}),
    }


def _densities(sources: Sources, colours: Mapping[str, int]) -> dict[str, Any]:
    models = sources.densities
    return {
        "models": models,
        "charts": densities.density_charts(models, colours),
        "tables": densities.density_tables(models, colours),
        "gallery": densities.density_gallery(models, sources.density_tensors, sources.points),
        "cards": {name: facts(card) for name, card in sources.point_cards.items()},
    }


def _chapters(sources: Sources) -> list[Chapter]:
    found = (chapter(sources) for chapter in CHAPTERS)
    return [chapter for chapter in found if chapter is not None]


def render_page(sources: Sources) -> str:
    """Render the report as one HTML document that needs no other file and no network.

    Args:
        sources: what `read_sources` gathered.
    """
    colours = model_colours(sources)
    groups = students.student_groups(sources, colours)
    graph = lineage.build_graph(sources.stages, sources.params)
    settings = sources.params.get("report") or {}
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=settings.get("title") or "A field, integrated",
            sources=sources,
            params=sources.params,
            colours=colours,
            headlines=headlines(sources) + [group.finding for group in groups if group.finding],
            models=model_table(sources, colours),
            images=_images(sources, colours),
            text=_text(sources, colours),
            classifiers=_classifiers(sources, colours),
            densities=_densities(sources, colours),
            students=groups,
            solvers=solvers.solver_studies(sources.studies),
            chapters=_chapters(sources),
            training=charts.training_charts(sources.models, colours),
            cards={kind: facts(card) for kind, card in sources.cards.items()},
            judges={kind: facts(card) for kind, card in sources.judges.items()},
            graph=graph,
            graph_svg=lineage.draw(graph, colours),
            field=slope_field(),
            css=_asset("page.css"),
            js=_asset("page.js"),
        )
    )


def write_page(root: Path, params: Mapping[str, Any], path: Path) -> Sources:
    """Read the artefacts below `root` and write the page to `path`, whole or not at all.

    Args:
        root: project folder.
        params: the content of params.yaml.
        path: where the page goes; its folder is made.

    Returns:
        The sources, so that the caller can report what was missing.
    """
    sources = read_sources(root, params)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(render_page(sources), "utf-8", newline="\n")
    os.replace(partial, path)
    return sources
