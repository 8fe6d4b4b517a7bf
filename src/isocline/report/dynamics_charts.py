"""Which charts the analysis of a model is shown by, drawn from its tables: on the page and as files of their own."""

from __future__ import annotations

from dataclasses import dataclass

from isocline.report.charts import Chart, legend
from isocline.report.figures import MARKERS, NARROW, Axis, Rule, Series, line_chart, number
from isocline.report.study import Study

__all__ = ["dynamics_charts"]


@dataclass(frozen=True)
class _Curve:
    """A column of a table as a curve; its band is ± ``<column>_se``, or ``<column>_low`` to ``<column>_high``."""

    column: str
    label: str
    dashed: bool = False


@dataclass(frozen=True)
class _Plot:
    """A chart of a table's columns."""

    table: str
    x: str
    title: str
    across: str
    up: str
    curves: tuple[_Curve, ...]
    note: str = ""
    rule: Rule | None = None


_PLOTS = (
    _Plot(
        "decision",
        "t",
        "When the class is settled",
        "t of the model (data at 0, but for classifiers)",
        "share of samples",
        (
            _Curve("decided", "its guess stays from here on"),
            _Curve("guess_agrees", "its guess is the final class"),
            _Curve("probe_agrees", "a linear probe names the final class", dashed=True),
        ),
        "Bands: 95 % intervals (Wilson).",
    ),
    _Plot(
        "commitment",
        "t",
        "When tokens are committed to",
        "t of the sampler (text at 0)",
        "share of tokens",
        (
            _Curve("committed", "the state’s token is final"),
            _Curve("law_committed", "the law’s most probable token is final", dashed=True),
        ),
        "Bands: ± one standard error over sequences.",
        Rule("half", 0.5),
    ),
    _Plot(
        "lens",
        "layer",
        "What the network would say after each block",
        "blocks passed",
        "nats per token",
        (_Curve("cross_entropy", "cross-entropy to the text"), _Curve("divergence", "divergence from its last word")),
        "Logit lens. Bands: ± one standard error over sequences.",
    ),
    _Plot(
        "blocks",
        "block",
        "What is lost without a block",
        "block",
        "rise of the loss, nats per token",
        (_Curve("loss_rise", "without this block"),),
        "Bands: ± one standard error over sequences. Near 0: the block can be pruned.",
        Rule("nothing lost", 0.0),
    ),
    _Plot(
        "splitting",
        "noise",
        "How many attractors the denoiser has",
        "share of noise, σ/(α + σ)",
        "distinct attractors found",
        (_Curve("distinct", "attractors"),),
        "Samples of the model, iterated at one level of noise. At much noise all end at one image.",
    ),
    _Plot(
        "continuation",
        "noise",
        "An attractor followed through the noise",
        "share of noise, σ/(α + σ)",
        "growth of its leading mode, |λ| − 1",
        (_Curve("leading_growth", "leading mode"),),
        "Above 0 it no longer attracts: the one image splits into several.",
        Rule("neither", 0.0),
    ),
    _Plot(
        "axes",
        "axes",
        "How many axes the trajectories need",
        "principal axes",
        "share of the variance",
        (_Curve("one_path", "of one trajectory"), _Curve("all_paths", "of all together", dashed=True)),
        "Planar trajectories have all in two axes.",
    ),
    _Plot(
        "geometry",
        "t",
        "Speed along the trajectory",
        "t of the field",
        "root mean square of dy/dt",
        (_Curve("speed", "speed"),),
        "Bands: ± one standard error over trajectories.",
    ),
    _Plot(
        "lyapunov",
        "index",
        "Finite-time Lyapunov exponents",
        "index",
        "exponent per unit of time",
        (_Curve("exponent", "mean over samples"),),
        "Below 0: deviations shrink on the way. Bands: ± one standard error over samples.",
        Rule("neither", 0.0),
    ),
)


def dynamics_charts(study: Study) -> dict[str, Chart]:
    """Return the charts of one model's tables, by the table's name."""
    found = {plot.table: _draw(study, plot) for plot in _PLOTS}
    return {name: chart for name, chart in found.items() if chart is not None}


def _draw(study: Study, plot: _Plot) -> Chart | None:
    present = [curve for curve in plot.curves if any(curve.column in row for row in study.tables.get(plot.table, ()))]
    if not present or len(study.tables[plot.table]) < 2:
        return None
    xs = study.column(plot.table, plot.x)
    series = [_series(study, plot, curve, xs, index) for index, curve in enumerate(present)]
    ends = "; ".join(f"{s.label}: {number(s.y[0])} to {number(s.y[-1])}" for s in series)
    drawing = line_chart(
        series,
        Axis(plot.across),
        Axis(plot.up),
        description=f"{plot.title} of {study.name}. {ends}.",
        size=NARROW,
        rule=plot.rule,
    )
    return Chart(f"{plot.title} ({study.name})", drawing, None, legend(series), plot.note)


def _series(study: Study, plot: _Plot, curve: _Curve, xs: tuple[float, ...], index: int) -> Series:
    columns = study.tables[plot.table][0]
    ys = study.column(plot.table, curve.column)
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    if f"{curve.column}_low" in columns:
        low, high = (study.column(plot.table, f"{curve.column}_{end}") for end in ("low", "high"))
    elif f"{curve.column}_se" in columns:
        errors = study.column(plot.table, f"{curve.column}_se")
        low, high = (tuple(y + sign * e for y, e in zip(ys, errors, strict=True)) for sign in (-1, 1))
    marker = MARKERS[index % len(MARKERS)]
    return Series(curve.label, xs, ys, low, high, colour=index, marker=marker, dashed=curve.dashed)
