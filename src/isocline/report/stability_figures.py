"""Two drawings of the stability chapter: regions of stability with eigenvalues on them, and bars with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from isocline.report.figures import marker_path, number, tick_label

__all__ = ["Bar", "Stretch", "bars", "region_plot", "square"]

_Map = Callable[[float], float]


@dataclass(frozen=True)
class Stretch:
    """A stable stretch of one line of the complex plane: Re z from `low` to `high` at Im z = `imag`."""

    imag: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """A value with its interval, whose upper end may be infinite."""

    label: str
    value: float
    low: float
    high: float
    colour: int = 0


def square(colour: int, marker: bool = False) -> Markup:
    """The legend's sample of a filled region, or of an eigenvalue."""
    inside = (
        f'<path class="mark" d="{marker_path("circle", 14, 7, 3)}"/>'
        if marker
        else '<path class="band" style="opacity:.35" d="M1 1h26v12h-26z"/>'
    )
    return Markup(
        f'<svg class="swatch" viewBox="0 0 28 14" aria-hidden="true" style="--c:var(--c{colour % 8})">{inside}</svg>'
    )


def region_plot(
    regions: Mapping[str, Sequence[Stretch]], values: Sequence[tuple[float, float, int]], description: str
) -> Markup:
    """Draw where methods are stable, and eigenvalues times the step on the same plane.

    Args:
        regions: stable stretches by method, in the order of the palette.
        values: Re hλ, Im hλ and the index of a colour; those out of the picture are left out.
        description: what a reader who cannot see the drawing is told.
    """
    stretches = [stretch for found in regions.values() for stretch in found]
    left, right = min(s.low for s in stretches), max(*(s.high for s in stretches), 1.0)
    top, width, margin = max(abs(s.imag) for s in stretches), 420.0, 40.0
    scale = (width - 2 * margin) / (right - left)
    height = 2 * top * scale + 2 * margin

    def across(real: float) -> float:
        return margin + (real - left) * scale

    def up(imag: float) -> float:
        return margin + (top - imag) * scale

    parts = [_open(width, height, description)]
    for colour, found in enumerate(regions.values()):
        parts.append(_coloured(colour, f'<path class="band" d="{_outline(found, scale, across, up)}"/>'))
    axes = f"M{margin:.0f} {up(0):.1f}H{width - margin:.0f}M{across(0):.1f} {margin:.0f}V{height - margin:.0f}"
    parts.append(f'<path class="axis" d="{axes}"/>')
    for tick in range(math.ceil(left), math.floor(right) + 1):
        parts.append(_text("tick", across(tick), height - 20, tick_label(tick), "middle"))
    parts.append(_text("label", width / 2, height - 4, "Re hλ", "middle"))
    parts.append(_text("label", 8, 16, "Im hλ"))
    for real, imag, colour in values:
        if left <= real <= right and abs(imag) <= top:
            mark = marker_path("circle", across(real), up(imag), 2.6)
            parts.append(_coloured(colour, f'<path class="mark" d="{mark}"/>'))
    return Markup("".join(parts) + "</svg>")


def _outline(found: Sequence[Stretch], scale: float, across: _Map, up: _Map) -> str:
    """One rectangle for each stretch, as high as the lines are apart."""
    lines = sorted({stretch.imag for stretch in found})
    cell = min((b - a for a, b in pairwise(lines)), default=0.1) * scale
    rectangles = []
    for stretch in found:
        wide = (stretch.high - stretch.low) * scale
        corner = f"{across(stretch.low):.1f} {up(stretch.imag) - cell / 2:.1f}"
        rectangles.append(f"M{corner}h{wide:.1f}v{cell:.1f}h{-wide:.1f}z")
    return "".join(rectangles)


def bars(rows: Sequence[Bar], label: str, description: str) -> Markup:
    """Draw values with their intervals, one below the other, on a logarithmic axis.

    Args:
        rows: from top to bottom.
        label: of the axis.
        description: what a reader who cannot see the drawing is told.
    """
    finite = [end for row in rows for end in (row.value, row.low, row.high) if math.isfinite(end) and end > 0]
    low, high = min(finite) / 1.3, max(finite) * 1.3
    room, width, step, top = 16 + 7.6 * max(len(row.label) for row in rows), 520.0, 26.0, 14.0
    end, bottom = width - 70, top + step * len(rows)

    def across(value: float) -> float:
        return room + math.log(min(max(value, low), high) / low) / math.log(high / low) * (end - room)

    parts = [_open(width, bottom + 40, description)]
    for tick in (m * 10.0**d for d in range(-3, 6) for m in (1, 2, 5)):
        if low <= tick <= high:
            parts.append(f'<g class="grid"><path d="M{across(tick):.1f} {top:.0f}V{bottom:.1f}"/></g>')
            parts.append(_text("tick", across(tick), bottom + 16, tick_label(tick), "middle"))
    for index, row in enumerate(rows):
        y = top + step * (index + 0.5)
        upper = number(row.high) if math.isfinite(row.high) else "∞"
        tip = escape(f"{row.label}: {number(row.value)} ({number(row.low)} to {upper})")
        line = f'<path class="bar" d="M{across(row.low):.1f} {y:.1f}H{across(row.high):.1f}"/>'
        mark = f'<path class="mark" d="{marker_path("circle", across(row.value), y, 4.5)}"><title>{tip}</title></path>'
        beside = across(max(row.high, row.value)) + 8
        parts.append(_text("tick", room - 8, y + 4, row.label, "end"))
        parts.append(_coloured(row.colour, line + mark + _text("note", beside, y + 4, number(row.value))))
    parts.append(_text("label", (room + end) / 2, bottom + 34, label, "middle"))
    return Markup("".join(parts) + "</svg>")


def _open(width: float, height: float, description: str) -> str:
    box = f'viewBox="0 0 {width:.0f} {height:.0f}"'
    return f'<svg class="chart" {box} role="img" aria-label="{escape(description)}">'


def _coloured(colour: int, inside: str) -> str:
    return f'<g style="--c:var(--c{colour % 8})">{inside}</g>'


def _text(kind: str, x: float, y: float, content: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" text-anchor="{anchor}" x="{x:.1f}" y="{y:.1f}">{escape(content)}</text>'
