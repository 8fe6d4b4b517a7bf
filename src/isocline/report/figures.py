"""Line charts as hand-made SVG: small, deterministic, and coloured by the page's CSS variables (light and dark)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from markupsafe import Markup, escape

Scale = Literal["linear", "log"]
Marker = Literal["circle", "square", "triangle", "diamond", "cross", "none"]
MARKERS: tuple[Marker, ...] = ("circle", "square", "triangle", "diamond", "cross")


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        label: name shown in the legend.
        x: abscissae.
        y: ordinates.
        low: lower edge of the band, empty for none.
        high: upper edge of the band.
        colour: index of the palette variable `--c0 … --c7`.
        marker: symbol on the points.
        dashed: drawn dashed (students).
        notes: text beside each point, empty for none.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    colour: int = 0
    marker: Marker = "circle"
    dashed: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Axis:
    """An axis: its label, its scale and, for categorical steps such as NFE, the ticks."""

    label: str
    scale: Scale = "linear"
    ticks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A horizontal reference line, such as the floor that real data sets."""

    label: str
    value: float


@dataclass(frozen=True)
class Size:
    """Size of the drawing in its own units (one unit is one CSS pixel at natural size)."""

    width: int = 440
    height: int = 300


WIDE, NARROW = Size(900, 430), Size(400, 320)


@dataclass(frozen=True)
class _Span:
    """Maps values to positions along one side of the plot."""

    low: float
    high: float
    start: float
    end: float
    scale: Scale

    def _warp(self, value: float) -> float:
        return math.log(value) if self.scale == "log" else value

    def __call__(self, value: float) -> float:
        low, high = self._warp(self.low), self._warp(self.high)
        value = self._warp(max(value, self.low) if self.scale == "log" else value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def number(value: float) -> str:
    """A value with three significant digits at most, never in scientific notation above 1e-4."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 9999.5:
        return f"{value:,.0f}".replace(",", "\u202f")
    if size < 1e-4:
        return f"{value:.1e}"
    digits = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:.{digits}f}"
    return text.replace("-", "−")


def count(value: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{value:,}".replace(",", "\u202f")


def tick_label(value: float) -> str:
    """A tick's value without trailing zeros: 20000 becomes 20k."""
    if abs(value) >= 10000 and value % 1000 == 0:
        return f"{value / 1000:.0f}k"
    return f"{value:.6g}".replace("-", "−")


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values 1, 2 or 5 times a power of ten apart, inside [low, high]."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1-2-5 values inside [low, high]; only powers of ten over more than three decades."""
    multiples = (1,) if high / low > 2000 else (1, 2, 5)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**d for d in decades for m in multiples]
    ticks = [round(t, 12) for t in ticks if low * 0.999 <= t <= high * 1.001]
    return ticks if len(ticks) >= 2 else linear_ticks(low, high)


def _extent(values: Sequence[float], scale: Scale) -> tuple[float, float]:
    finite = [v for v in values if math.isfinite(v) and (scale == "linear" or v > 0)]
    if not finite:
        return (1.0, 10.0) if scale == "log" else (0.0, 1.0)
    low, high = min(finite), max(finite)
    if scale == "log":
        pad = max((high / low) ** 0.06, 1.05)
        return low / pad, high * pad
    pad = (high - low) * 0.07 or max(abs(high) * 0.1, 0.5)
    return low - pad, high + pad


def marker_path(marker: Marker, x: float, y: float, r: float) -> str:
    """The outline of a marker centred at (x, y), as SVG path data."""
    if marker == "square":
        return f"M{x - r:.1f} {y - r:.1f}h{2 * r:.1f}v{2 * r:.1f}h{-2 * r:.1f}z"
    if marker == "triangle":
        return f"M{x:.1f} {y - 1.25 * r:.1f}l{1.2 * r:.1f} {2.1 * r:.1f}h{-2.4 * r:.1f}z"
    if marker == "diamond":
        d = 1.35 * r
        return f"M{x:.1f} {y - d:.1f}l{d:.1f} {d:.1f}l{-d:.1f} {d:.1f}l{-d:.1f} {-d:.1f}z"
    if marker == "cross":
        w, k = 0.45 * r, 1.25 * r
        arm = k - w
        return (
            f"M{x - w:.1f} {y - k:.1f}h{2 * w:.1f}v{arm:.1f}h{arm:.1f}v{2 * w:.1f}h{-arm:.1f}v{arm:.1f}"
            f"h{-2 * w:.1f}v{-arm:.1f}h{-arm:.1f}v{-2 * w:.1f}h{arm:.1f}z"
        )
    return f"M{x - r:.1f} {y:.1f}a{r:.1f} {r:.1f} 0 1 0 {2 * r:.1f} 0a{r:.1f} {r:.1f} 0 1 0 {-2 * r:.1f} 0z"


def _polyline(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _drawable(series: Series, x_scale: Scale, y_scale: Scale) -> Series:
    """The series without the points that its scales cannot show."""
    keep = [
        i
        for i, (x, y) in enumerate(zip(series.x, series.y, strict=True))
        if math.isfinite(x) and math.isfinite(y) and (x_scale == "linear" or x > 0) and (y_scale == "linear" or y > 0)
    ]

    def pick(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[i] for i in keep) if values else ()

    kept: dict[str, Any] = {name: pick(getattr(series, name)) for name in ("x", "y", "low", "high", "notes")}
    return replace(series, **kept)


def _series_svg(series: Series, across: _Span, up: _Span) -> str:
    points = [(across(x), up(y)) for x, y in zip(series.x, series.y, strict=True)]
    dash = " dash" if series.dashed else ""
    parts = [f'<g style="--c:var(--c{series.colour % 8})">']
    if series.low and series.high and len(points) > 1:
        top = [(across(x), up(v)) for x, v in zip(series.x, series.high, strict=True)]
        bottom = [(across(x), up(v)) for x, v in zip(series.x, series.low, strict=True)]
        parts.append(f'<path class="band" d="{_polyline([*top, *bottom[::-1]])}z"/>')
    elif series.low and series.high:
        for (x, _), low, high in zip(points, series.low, series.high, strict=True):
            parts.append(f'<path class="bar" d="M{x:.1f} {up(low):.1f}V{up(high):.1f}"/>')
    if len(points) > 1:
        parts.append(f'<path class="line{dash}" d="{_polyline(points)}"/>')
    for index, (x, y) in enumerate(points):
        if series.marker == "none":
            break
        spread = ""
        if series.low and series.high:
            spread = f" ({number(series.low[index])} to {number(series.high[index])})"
        tip = f"{series.label}: {tick_label(series.x[index])} → {number(series.y[index])}{spread}"
        parts.append(
            f'<path class="mark" d="{marker_path(series.marker, x, y, 4)}"><title>{escape(tip)}</title></path>'
        )
        if series.notes:
            parts.append(f'<text class="note" x="{x + 7:.1f}" y="{y - 6:.1f}">{escape(series.notes[index])}</text>')
    return "".join(parts) + "</g>"


def _end_labels(series: Sequence[Series], across: _Span, up: _Span, right: float) -> str:
    """Names at the curves' right ends, pushed apart so that none overlap."""
    gap = 17.0
    ends = sorted(((up(s.y[-1]), s) for s in series if s.y), key=lambda end: end[0])
    places: list[float] = []
    for y, _ in ends:
        places.append(max(y, places[-1] + gap) if places else y)
    limit = up.start
    for i in range(len(places) - 1, -1, -1):
        places[i] = min(places[i], limit)
        limit = places[i] - gap
    return "".join(
        f'<text class="end" style="--c:var(--c{s.colour % 8})" x="{right + 10:.1f}" y="{place + 4:.1f}">'
        f"{escape(s.label)}</text>"
        for place, (_, s) in zip(places, ends, strict=True)
    )


@dataclass(frozen=True)
class _Ticked:
    """One side of the plot: its mapping, where its ticks are, its label."""

    span: _Span
    ticks: Sequence[float]
    label: str


def _axes_svg(x: _Ticked, y: _Ticked, size: Size) -> list[str]:
    """Grid, ticks and labels."""
    left, right, bottom = x.span.start, x.span.end, y.span.start
    return [
        '<g class="grid">',
        *(f'<path d="M{left:.0f} {y.span(v):.1f}H{right:.0f}"/>' for v in y.ticks),
        "</g>",
        *(
            f'<text class="tick" text-anchor="end" x="{left - 8:.0f}" y="{y.span(v) + 4:.1f}">{tick_label(v)}</text>'
            for v in y.ticks
        ),
        *(
            f'<text class="tick" text-anchor="middle" x="{x.span(v):.1f}" y="{bottom + 19:.0f}">{tick_label(v)}</text>'
            for v in x.ticks
        ),
        f'<path class="axis" d="M{left:.0f} {bottom:.0f}H{right:.0f}"/>',
        f'<text class="label" text-anchor="middle" x="{(left + right) / 2:.0f}" y="{size.height - 8}">'
        f"{escape(x.label)}</text>",
        f'<text class="label" x="8" y="14">{escape(y.label)}</text>',
    ]


def line_chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    description: str,
    size: Size = NARROW,
    rule: Rule | None = None,
    end_labels: bool = False,
) -> Markup:
    """Draw curves with bands over two axes.

    Args:
        series: the curves; points that are not finite (or not positive on a log axis) are left out.
        x: horizontal axis.
        y: vertical axis.
        description: what a reader who cannot see the drawing is told.
        size: size of the drawing.
        rule: horizontal reference line.
        end_labels: write each curve's name at its right end.

    Returns:
        An `<svg>` element as safe markup.
    """
    drawn = [_drawable(s, x.scale, y.scale) for s in series]
    xs = [v for s in drawn for v in s.x] + list(x.ticks)
    ys = [v for s in drawn for v in (*s.y, *s.low, *s.high)] + ([rule.value] if rule else [])
    # A bold letter is about nine units wide; the widest of the usual names needs 118.
    room = max(118.0, 20 + 9.0 * max((len(s.label) for s in series), default=0)) if end_labels else 14.0
    right, top, bottom = size.width - room, 26.0, size.height - 46.0
    up = _Span(*_extent(ys, y.scale), bottom, top, y.scale)
    y_ticks = (log_ticks if y.scale == "log" else linear_ticks)(up.low, up.high)
    # A digit is about eight units wide.
    left = max(54.0, 14 + 8.0 * max((len(tick_label(v)) for v in y_ticks), default=0))
    across = _Span(*_extent(xs, x.scale), left, right, x.scale)
    x_ticks = list(x.ticks) or (log_ticks if x.scale == "log" else linear_ticks)(across.low, across.high)
    parts = [
        f'<svg class="chart" viewBox="0 0 {size.width} {size.height}" role="img" aria-label="{escape(description)}">',
        *_axes_svg(_Ticked(across, x_ticks, x.label), _Ticked(up, y_ticks, y.label), size),
    ]
    if rule is not None:
        place = up(rule.value)
        parts.append(f'<path class="rule" d="M{left:.0f} {place:.1f}H{right:.0f}"/>')
        parts.append(f'<text class="rule-label" x="{left + 6:.0f}" y="{place - 6:.1f}">{escape(rule.label)}</text>')
    parts.extend(_series_svg(s, across, up) for s in drawn)
    if end_labels:
        parts.append(_end_labels(drawn, across, up, right))
    return Markup("".join(parts) + "</svg>")


def swatch(series: Series) -> Markup:
    """The legend's sample of a curve's line and marker."""
    dash = " dash" if series.dashed else ""
    mark = "" if series.marker == "none" else f'<path class="mark" d="{marker_path(series.marker, 14, 7, 4)}"/>'
    return Markup(
        f'<svg class="swatch" viewBox="0 0 28 14" aria-hidden="true" style="--c:var(--c{series.colour % 8})">'
        f'<path class="line{dash}" d="M1 7H27"/>{mark}</svg>'
    )


def slope_field(width: int = 1200, height: int = 150) -> Markup:
    """The page's ornament: isoclines of y' = sin x + y, each crossed by strokes of the one slope that names it.

    The isocline of slope c is y = c − sin x; it is drawn as a thin curve, the strokes on it are parallel. Slope 0 is in
    the accent colour. One unit of x is 100 drawing units, one of y is 30.
    """
    parts = []
    for step in range(-5, 6):
        slope = step * 0.6
        curve = [(float(px), height / 2 - 30 * (slope - math.sin(px / 100))) for px in range(0, width + 1, 12)]
        angle = math.atan(slope * 0.5)
        dx, dy = 6.5 * math.cos(angle), -6.5 * math.sin(angle)
        strokes = "".join(
            f"M{px - dx:.1f} {py - dy:.1f}l{2 * dx:.1f} {2 * dy:.1f}" for px, py in curve[1::2] if -9 < py < height + 9
        )
        kind = ' class="iso"' if step == 0 else ""
        parts.append(f'<g{kind}><path class="curve" d="{_polyline(curve)}"/><path d="{strokes}"/></g>')
    return Markup(
        f'<svg class="field" viewBox="0 0 {width} {height}" preserveAspectRatio="xMidYMid slice" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )
