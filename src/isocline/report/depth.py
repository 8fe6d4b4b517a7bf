"""The chapter of the depth study: what a step of higher order in depth buys, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from isocline.metrics.uncertainty import student_quantile
from isocline.report import tables
from isocline.report.chapter import Chapter, Part
from isocline.report.charts import Chart
from isocline.report.figures import MARKERS, NARROW, WIDE, Axis, Series, count, line_chart, number, swatch
from isocline.report.sources import Reading, Sources
from isocline.report.study import Study

__all__ = ["chapter"]

BASELINE = "euler"
COLUMNS = {"parameters": "equal parameters", "flops": "equal operations"}
_MEASURES = {
    "evaluations": "evaluations",
    "lipschitz": "‖∂F‖ of a layer",
    "abscissa": "max Re λ(∂F)",
    "map_gain": "‖∂x_L/∂x_0‖",
    "logit_sensitivity": "logits per relative change",
    "float32_error": "float32 error",
}


@dataclass(frozen=True)
class _Network:
    """What the study says of one network."""

    name: str
    document: Mapping[str, Any]

    def reading(self, measure: str, column: str) -> Reading | None:
        """A measure under one comparison."""
        return Reading.parse(((self.document.get(measure) or {}).get(self.name) or {}).get(column))

    def number(self, measure: str, column: str) -> float | None:
        """Its mean alone."""
        found = self.reading(measure, column)
        return None if found is None else found.mean

    @property
    def pruning(self) -> Mapping[str, Any]:
        """By comparison, for networks whose iterations were pruned."""
        return (self.document.get("pruning") or {}).get(self.name) or {}


def chapter(sources: Sources) -> Chapter | None:
    """Prepare the chapter; None where no depth study has run.

    Args:
        sources: studies of the kind ``depth`` are read.
    """
    studies = sources.found("depth")
    networks = [
        _Network(name, study.document)
        for study in studies.values()
        for name in study.document.get("bits_per_char") or {}
    ]
    if not networks:
        return None
    protocol = networks[0].document.get("protocol") or {}
    lede = (
        "A residual layer is a step of a solver. These Transformers differ in that step alone. On the left side of the "
        "table all have as many layers as the ordinary one, which is Euler’s step; on the right as many as its "
        f"operations per token pay for. Autoregressive, trained for {protocol.get('steps')} steps with "
        f"{protocol.get('seeds')} seeds each; validation bits per character, exact."
    )
    comparison = Part(
        findings=tuple(_finding(networks, column) for column in COLUMNS if _baseline(networks)),
        charts=tuple(chart for chart in (_trade(networks), _growth(studies)) if chart),
        tables=(_comparison(networks),),
    )
    pruned = [network for network in networks if network.pruning]
    stability = Part("Stability of the trained depth", tables=tuple(_stability(networks, c) for c in COLUMNS))
    parts = [comparison, stability]
    if pruned:
        parts.append(Part("Fixed-point iterations left out", tables=(_pruning(pruned),)))
    return Chapter("depth", "Depth", "Depth as integration", lede, tuple(parts))


def _shown(name: str) -> str:
    return name.replace("_", " ")


def _baseline(networks: Sequence[_Network]) -> _Network | None:
    return next((network for network in networks if network.name == BASELINE), None)


def _others(networks: Sequence[_Network]) -> list[_Network]:
    return [network for network in networks if network.name != BASELINE]


def _finding(networks: Sequence[_Network], column: str) -> str:
    """One sentence: which networks differ from Euler's by more than the seeds do."""
    base = _baseline(networks)
    assert base is not None
    reference = base.reading("bits_per_char", "parameters")
    better: list[tuple[float, str]] = []
    worse: list[tuple[float, str]] = []
    undecided = 0
    for network in _others(networks):
        own = network.reading("bits_per_char", column)
        if own is None or reference is None:
            continue
        found = tables.difference(own, reference)
        if not found.significant:
            undecided += 1
        else:
            (better if found.mean < 0 else worse).append((found.mean, _shown(network.name)))
    said = []
    if better:
        said.append("better than Euler’s step: " + _list(sorted(better)))
    if worse:
        said.append("worse: " + _list(sorted(worse)))
    if undecided:
        said.append(f"{undecided} within what seeds do")
    return f"At {COLUMNS[column]}, {'; '.join(said) or 'there is nothing to compare with'}."


def _list(differences: Sequence[tuple[float, str]]) -> str:
    return ", ".join(f"{name} ({tables.signed(mean)})" for mean, name in differences)


def _comparison(networks: Sequence[_Network]) -> tables.Table:
    heads = ["layers", "weights", "operations", "bits/char", "against Euler"]
    columns = tuple(f"{head}, {name}" for name in COLUMNS.values() for head in heads)
    base = _baseline(networks)
    reference = None if base is None else base.reading("bits_per_char", "parameters")
    rows = []
    for network in networks:
        cells: list[tables.Cell] = []
        for column in COLUMNS:
            layers, weights = network.number("depth", column), network.number("parameters", column)
            ratio, bits = network.number("flops_ratio", column), network.reading("bits_per_char", column)
            cells += [
                tables.Cell() if layers is None else tables.Cell(f"{layers:.0f}"),
                tables.Cell() if weights is None else tables.Cell(count(int(weights))),
                tables.Cell() if ratio is None else tables.Cell(f"{ratio:.2f}×"),
                tables.likelihood_cell(bits),
                tables.Cell() if network is base else tables.difference_cell(bits, reference, lower_is_better=True),
            ]
        rows.append(tables.Row(_shown(network.name), tuple(cells)))
    return tables.Table(
        "Depth integrators at equal parameters and at equal operations",
        columns,
        tables.mark_best(rows, {3: True, 8: True}),
        note="Operations: of a forward pass per token, over the ordinary Transformer’s; measured. Differences with "
        "95 % intervals, paired over seeds.",
        head="step",
    )


def _stability(networks: Sequence[_Network], column: str) -> tables.Table:
    rows = [
        tables.Row(_shown(network.name), tuple(_measured(network, measure, column) for measure in _MEASURES))
        for network in networks
    ]
    return tables.Table(
        f"Stability at {COLUMNS[column]}",
        tuple(_MEASURES.values()),
        tuple(rows),
        note="Evaluations of attention in a forward pass. ∂F: the Jacobian of a layer’s field, the largest over layers "
        "taken. Logits: root mean square change over the relative change of the embedded text.",
        head="step",
    )


def _measured(network: _Network, measure: str, column: str) -> tables.Cell:
    """A measure with its spread, where its unit is not so small that the spread would be all zeros."""
    cell = tables.cell(network.reading(measure, column))
    return replace(cell, small="") if measure == "float32_error" else cell


def _pruning(networks: Sequence[_Network]) -> tables.Table:
    rows = []
    for network in networks:
        for column, found in network.pruning.items():
            kept, after = Reading.parse(found.get("kept")), Reading.parse(found.get("bits_per_char"))
            before = network.reading("bits_per_char", column)
            cells = (
                tables.Cell(str(found.get("iterations", "–"))),
                tables.cell(kept),
                tables.likelihood_cell(before),
                tables.likelihood_cell(after),
                tables.difference_cell(after, before, lower_is_better=True),
            )
            rows.append(tables.Row(f"{_shown(network.name)}, {COLUMNS.get(column, column)}", cells))
    columns = ("iterations", "kept", "bits/char before", "after", "difference")
    note = "Iterations of all layers together. Left out are those that move the state by less than the threshold."
    return tables.Table("Pruned by contribution", columns, tuple(rows), note=note, head="step")


def _trade(networks: Sequence[_Network]) -> Chart | None:
    """Bits per character over operations: two points a network, bars are 95 % intervals over seeds."""
    series = []
    for index, network in enumerate(networks):
        style: dict[str, Any] = {"colour": index, "marker": MARKERS[index % len(MARKERS)]}
        seen: set[float] = set()
        for column, shown in COLUMNS.items():
            cost, bits = network.number("flops_per_token", column), network.reading("bits_per_char", column)
            if cost is None or bits is None or cost in seen:
                continue
            seen.add(cost)
            half = _half(bits)
            label = f"{_shown(network.name)}, {shown}"
            series.append(Series(label, (cost,), (bits.mean,), (bits.mean - half,), (bits.mean + half,), **style))
    if not series:
        return None
    x = Axis("operations of a forward pass per token", "log")
    y = Axis("validation bits per character (lower is better)")
    said = "Bits per character over operations per token. " + "; ".join(
        f"{s.label}: {number(s.y[0])} at {number(s.x[0])}" for s in series
    )
    named = {s.label.partition(",")[0]: swatch(s) for s in series}
    return Chart(
        "What a step costs and brings",
        line_chart(series, x, y, description=said, size=NARROW),
        line_chart(series, x, y, description=said, size=WIDE),
        tuple(named.items()),
        "A point with as many layers as Euler’s, and one with as many operations. Bars: 95 % intervals over seeds.",
    )


def _half(reading: Reading) -> float:
    if reading.se is None or reading.n is None or reading.n < 2:
        return 0.0
    return student_quantile(0.975, reading.n - 1) * reading.se


def _growth(studies: Mapping[str, Study]) -> Chart | None:
    """How a small change grows from layer to layer, at equal parameters."""
    series: list[Series] = []
    for study in studies.values():
        layers = study.column("growth", "layer")
        for head in next(iter(study.tables.get("growth", ())), {}):
            name, _, column = head.partition(".")
            if column != "parameters":
                continue
            index = len(series)
            values = study.column("growth", head)
            marker = MARKERS[index % len(MARKERS)]
            series.append(Series(_shown(name), layers, values, colour=index, marker=marker))
    if not series:
        return None
    x, y = Axis("layer"), Axis("relative change over that of the input", "log")
    said = "Growth of a small relative change through the layers. " + "; ".join(
        f"{s.label} {number(s.y[-1])} after {s.x[-1]:.0f}" for s in series
    )
    return Chart(
        "How a small change of the text grows with depth",
        line_chart(series, x, y, description=said, size=NARROW),
        line_chart(series, x, y, description=said, size=WIDE, end_labels=True),
        tuple((s.label, swatch(s)) for s in series),
        "Equal parameters; mean over seeds.",
    )
