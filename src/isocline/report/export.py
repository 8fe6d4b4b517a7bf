"""The README's figures as PNG: the same artefacts as the page, drawn by Matplotlib with fixed metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isocline.report import charts, pictures, tables
from isocline.report.figures import log_ticks, tick_label
from isocline.report.page import model_colours, pieces
from isocline.report.sources import Model, Sources, read_sources

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f6fb2", "#bd520a", "#0d7d60", "#a0368a", "#766600", "#b3261e", "#5b4fc4", "#63686f")
MARKERS = {"circle": "o", "square": "s", "triangle": "^", "diamond": "D", "cross": "P"}
INK, SOFT, LINE = "#1c1e22", "#565b63", "#e4e1d9"


def _figure(width: float, height: float) -> Figure:
    """A figure that draws without pyplot: no global state, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return path


def _enlarge(pixels: pictures.Bytes, times: int) -> pictures.Bytes:
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def _write_pixels(pixels: pictures.Bytes, path: Path, times: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pictures.png(_enlarge(pixels, times)))
    return path


def _plain_axes(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(colors=SOFT, length=0, labelsize=9)
    axes.grid(axis="y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: tick_label(round(value, 6))))


def export_curve(sources: Sources, modality: str, metric: str, label: str, path: Path) -> Path | None:
    """Draw a metric over NFE for all models of one modality; None if it was never measured."""
    models = sources.of(modality)
    series = charts.curve_series(models, metric, model_colours(sources))
    if not series:
        return None
    figure = _figure(7.2, 3.9)
    axes = figure.add_subplot()
    axes.set_xscale("log", base=2)
    logarithmic = all(v > 0 for s in series for v in s.low)
    if logarithmic:
        axes.set_yscale("log")
    _plain_axes(axes)
    for s in series:
        colour = COLOURS[s.colour % len(COLOURS)]
        style = "--" if s.dashed else "-"
        axes.plot(
            s.x,
            s.y,
            style,
            color=colour,
            marker=MARKERS.get(s.marker, "o"),
            markersize=5.5,
            linewidth=1.9,
            label=s.label,
        )
        axes.fill_between(s.x, s.low, s.high, color=colour, alpha=0.15, linewidth=0)
    floor = tables.floor_reading(models, metric)
    if floor is not None:
        axes.axhline(floor.mean, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate("real data", (1, floor.mean), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                      fontsize=8.5, color=INK)  # fmt: skip
    if logarithmic:
        axes.set_yticks(log_ticks(*axes.get_ylim()))
    axes.set_xticks(sorted({x for s in series for x in s.x}))
    axes.set_xlabel("function evaluations per sample", color=SOFT, fontsize=9.5)
    axes.set_title(label, loc="left", color=INK, fontsize=10.5)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return _save(figure, path)


def export_samples(model: Model, path: Path, nfe: int | None = None) -> Path | None:
    """Write a grid of samples at `nfe`, by default the most evaluations; None if there are none."""
    if not model.samples:
        return None
    images = model.samples[nfe if nfe is not None and nfe in model.samples else max(model.samples)]
    columns = min(12, len(images))
    shown = images[: max(1, min(4, len(images) // columns)) * columns]
    return _write_pixels(pictures.tile(shown, columns), path, times=2)


def export_trajectory(model: Model, path: Path) -> Path | None:
    """Write a film strip from noise to data; None if there is no trajectory."""
    if model.trajectory is None:
        return None
    picks = pictures.thin(len(model.trajectory.t), 12)
    return _write_pixels(pictures.film(model.trajectory.states[picks], 4), path, times=2)


def export_text(model: Model, mask: str | None, path: Path, lines: int = 5, width: int = 92) -> Path | None:
    """Draw one sequence at a few times from noise to text; undecided tokens are soft blocks."""
    import textwrap

    steps = model.text_trajectory
    if not steps:
        return None
    chosen = [steps[i] for i in pictures.thin(len(steps), lines)]
    blocks = []
    for step in chosen:
        text = "".join("▒" if p.masked else p.text for p in pieces(" ".join(step.text.split()), mask))
        blocks.append(textwrap.wrap(text, width)[:3] or [""])
    rows = sum(len(block) for block in blocks) + 0.6 * len(blocks)
    figure = _figure(9.2, 0.23 * rows + 0.2)
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(rows, 0)
    y = 0.5
    for step, block in zip(chosen, blocks, strict=True):
        axes.text(0, y, f"t = {step.t:.2f}", fontsize=8.5, color=SOFT, va="center")
        for line in block:
            axes.text(0.09, y, line.replace("▒", " "), fontsize=8.5, color=INK, va="center", family="monospace")
            axes.text(0.09, y, "".join("█" if c == "▒" else " " for c in line), fontsize=8.5, color="#d9d5ca",
                      va="center", family="monospace")  # fmt: skip
            y += 1
        y += 0.6
    return _save(figure, path)


def export_figures(root: Path, params: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the README's figures: samples of each model, curves over NFE, trajectories.

    Args:
        root: project folder that holds the artefacts.
        params: the content of params.yaml.
        folder: where the PNG files go, such as docs/images.

    Returns:
        The files written; a figure whose artefact is missing is left out.
    """
    sources = read_sources(root, params)
    written = [
        export_curve(
            sources, "images", "frechet", "Fréchet distance over the judge’s features", folder / "nfe-images.png"
        ),
        export_curve(sources, "text", "generative_perplexity", "Perplexity under the judge", folder / "nfe-text.png"),
    ]
    for model in sources.of("images"):
        written.append(export_samples(model, folder / f"samples-{model.name}.png"))
        written.append(export_trajectory(model, folder / f"trajectory-{model.name}.png"))
    for model in sources.of("text"):
        written.append(export_text(model, sources.mask_symbol, folder / f"text-{model.name}.png"))
    return [path for path in written if path is not None]
