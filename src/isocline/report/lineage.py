"""The pipeline's graph from `dvc.yaml`: stages expanded, edges from outputs to their readers, drawn as SVG."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from markupsafe import Markup, escape

COLUMNS = (
    ("Data", ("prepare",)),
    ("Judge", ("judge",)),
    ("Train", ("train",)),
    ("Pairs", ("pairs",)),
    ("Distill", ("distill",)),
    ("Evaluate", ("evaluate",)),
    ("Report", ("report",)),
)
_HOLE = re.compile(r"\$\{\s*([\w.\-\[\]']+)\s*\}")


@dataclass(frozen=True)
class Stage:
    """A stage after expansion of `foreach` or `matrix`.

    Attributes:
        name: as `dvc repro` knows it, such as `train@flow`.
        deps: paths read.
        outs: paths written, metrics and plots included.
        description: the stage's `desc`.
    """

    name: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    description: str = ""

    @property
    def kind(self) -> str:
        """The first word of the name: prepare, judge, train, …"""
        return re.split(r"[-@]", self.name)[0]


@dataclass(frozen=True)
class Graph:
    """Stages and the edges (from, to) between their names."""

    stages: tuple[Stage, ...]
    edges: tuple[tuple[str, str], ...]


def _look_up(path: str, scope: Mapping[str, Any]) -> Any:
    value: Any = scope
    for key in re.split(r"[.\[\]]+", path.replace("'", "").rstrip("]")):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def _fill(text: str, scope: Mapping[str, Any]) -> str:
    """Replace every `${…}`; what is not known stays as written."""

    def value(match: re.Match[str]) -> str:
        found = _look_up(match[1], scope)
        return match[0] if found is None else str(found)

    return _HOLE.sub(value, text)


def _resolve(value: Any, scope: Mapping[str, Any]) -> Any:
    if isinstance(value, str) and (match := _HOLE.fullmatch(value.strip())):
        return _look_up(match[1], scope)
    return value


def _paths(entries: Any, scope: Mapping[str, Any]) -> Iterator[str]:
    for entry in entries if isinstance(entries, list) else ():
        raw = next(iter(entry)) if isinstance(entry, Mapping) and entry else entry
        if isinstance(raw, str):
            yield _fill(raw, scope).rstrip("/")


def _stage(name: str, body: Mapping[str, Any], scope: Mapping[str, Any]) -> Stage:
    outs = [path for key in ("outs", "metrics", "plots") for path in _paths(body.get(key), scope)]
    return Stage(name, tuple(_paths(body.get("deps"), scope)), tuple(outs), _fill(str(body.get("desc", "")), scope))


def _combinations(matrix: Mapping[str, Any], scope: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    axes = {key: _resolve(value, scope) or [] for key, value in matrix.items()}
    for choice in product(*(list(enumerate(values)) for values in axes.values())):
        item = {key: value for key, (_, value) in zip(axes, choice, strict=True)}
        plain = (
            str(value) if not isinstance(value, Mapping | list) else f"{key}{index}"
            for key, (index, value) in zip(axes, choice, strict=True)
        )
        yield "-".join(plain), item


def expand(stages: Mapping[str, Any], params: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Expand `foreach` and `matrix` as DVC does, with `params` for the interpolations.

    Args:
        stages: the `stages` mapping of dvc.yaml.
        params: the content of params.yaml.
    """
    found: list[Stage] = []
    for name, body in stages.items():
        if not isinstance(body, Mapping):
            continue
        if "foreach" in body:
            items = _resolve(body["foreach"], params) or []
            do = body.get("do") or {}
            if isinstance(items, Mapping):
                pairs = [(key, {"key": key, "item": value}) for key, value in items.items()]
            else:
                pairs = [(str(v) if not isinstance(v, Mapping) else str(i), {"item": v}) for i, v in enumerate(items)]
            found.extend(_stage(f"{name}@{key}", do, {**params, **scope}) for key, scope in pairs)
        elif "matrix" in body:
            for key, item in _combinations(body["matrix"], params):
                found.append(_stage(f"{name}@{key}", body, {**params, "item": item, "key": key}))
        else:
            found.append(_stage(name, body, params))
    return tuple(found)


def _feeds(out: str, dep: str) -> bool:
    return out == dep or dep.startswith(out + "/") or out.startswith(dep + "/")


def build_graph(stages: Mapping[str, Any], params: Mapping[str, Any]) -> Graph:
    """Expand the stages and connect each output with its readers; edges that others imply are left out."""
    nodes = expand(stages, params)
    direct = {
        (a.name, b.name)
        for a in nodes
        for b in nodes
        if a is not b and any(_feeds(out, dep) for out in a.outs for dep in b.deps)
    }
    after: dict[str, set[str]] = {node.name: set() for node in nodes}
    for a, b in direct:
        after[a].add(b)

    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        if start == goal:
            return True
        seen.add(start)
        return any(reaches(n, goal, seen) for n in sorted(after[start]) if n not in seen)

    needed = [(a, b) for a, b in sorted(direct) if not any(reaches(m, b, {a}) for m in sorted(after[a]) if m != b)]
    return Graph(nodes, tuple(needed))


def _columns(graph: Graph) -> list[tuple[str, list[Stage]]]:
    known = {kind for _, kinds in COLUMNS for kind in kinds}
    columns = [(title, [s for s in graph.stages if s.kind in kinds]) for title, kinds in COLUMNS]
    columns.append(("Other", [s for s in graph.stages if s.kind not in known]))
    return [(title, stages) for title, stages in columns if stages]


def _bands(graph: Graph) -> dict[str, int | None]:
    """The drawing's band (0: images, 1: text, 2: points) by what a stage descends from; None for several."""
    before: dict[str, list[str]] = {
        stage.name: [a for a, b in graph.edges if b == stage.name] for stage in graph.stages
    }

    def roots(name: str, seen: frozenset[str]) -> set[int]:
        if not before[name] or name in seen:
            return {1 if "text" in name else 2 if "points" in name else 0}
        return set().union(*(roots(parent, seen | {name}) for parent in before[name]))

    found = {name: roots(name, frozenset()) for name in before}
    return {name: next(iter(bands)) if len(bands) == 1 else None for name, bands in found.items()}


def _label(stage: Stage) -> str:
    return stage.name.split("@", 1)[1] if "@" in stage.name else stage.name.split("-", 1)[-1]


BOX, STEP, HEAD = (108.0, 32.0), (152.0, 46.0), 34.0


def _places(graph: Graph, columns: list[tuple[str, list[Stage]]]) -> tuple[dict[str, tuple[float, float]], int]:
    """Upper left corner of every stage's box, and the number of rows: images, text, points, what joins them amid."""
    bands = _bands(graph)
    heights = [max(sum(bands[s.name] == band for s in stages) for _, stages in columns) for band in (0, 1, 2)]
    rows = max(sum(heights), *(len(stages) for _, stages in columns))
    place: dict[str, tuple[float, float]] = {}
    for i, (_, stages) in enumerate(columns):
        starts = (0, heights[0], heights[0] + heights[1])
        for band, start, slots in (*zip((0, 1, 2), starts, heights, strict=True), (None, 0, rows)):
            group = [s for s in stages if bands[s.name] == band]
            for j, stage in enumerate(group):
                lift = (slots - len(group)) / 2
                if stage.kind == "judge":  # to the outer edge, clear of the edges from data to training
                    lift = slots - len(group) if band else 0
                place[stage.name] = (2 + i * STEP[0], HEAD + (start + lift + j) * STEP[1])
    return place, rows


def _edge(a: str, b: str, place: Mapping[str, tuple[float, float]]) -> str:
    (ax, ay), (bx, by) = place[a], place[b]
    x0, y0, x1, y1 = ax + BOX[0], ay + BOX[1] / 2, bx, by + BOX[1] / 2
    bend = max(22.0, (x1 - x0) * 0.45)
    return (
        f'<path class="edge" data-from="{escape(a)}" data-to="{escape(b)}" '
        f'd="M{x0:.0f} {y0:.0f}C{x0 + bend:.0f} {y0:.0f} {x1 - bend:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"/>'
    )


def _node(stage: Stage, x: float, y: float, colour: str) -> str:
    told = f"{stage.name}: {stage.description}" if stage.description else stage.name
    return (
        f'<g class="node" data-stage="{escape(stage.name)}" style="--c:var({colour})"><title>{escape(told)}</title>'
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{BOX[0]:.0f}" height="{BOX[1]:.0f}" rx="7"/>'
        f'<path class="tab" d="M{x + 10:.0f} {y + 10:.0f}v{BOX[1] - 20:.0f}"/>'
        f'<text x="{x + 20:.0f}" y="{y + BOX[1] / 2 + 4.5:.1f}">{escape(_label(stage))}</text></g>'
    )


def draw(graph: Graph, colours: Mapping[str, int]) -> Markup:
    """Draw the graph in columns: data, judge, train, pairs, distill, evaluate, report.

    Args:
        graph: what `build_graph` gave.
        colours: palette index of the models' names; other stages are grey.
    """
    columns = _columns(graph)
    if not columns:
        return Markup()
    place, rows = _places(graph, columns)
    width, height = STEP[0] * len(columns) - (STEP[0] - BOX[0]) + 4, HEAD + STEP[1] * rows
    parts = [
        f'<svg class="lineage" viewBox="0 0 {width:.0f} {height:.0f}" style="min-width:{width * 0.86:.0f}px" '
        f'role="img" aria-label="Graph of the {len(graph.stages)} pipeline stages, from data on the left to this '
        'report on the right; the list below says the same in words.">'
    ]
    for i, (title, _) in enumerate(columns):
        middle = 2 + i * STEP[0] + BOX[0] / 2
        parts.append(f'<text class="head" text-anchor="middle" x="{middle:.0f}" y="14">{title}</text>')
    parts.extend(_edge(a, b, place) for a, b in graph.edges)
    for stage in graph.stages:
        index = colours.get(_label(stage))
        colour = "--line-strong" if index is None else f"--c{index % 8}"
        parts.append(_node(stage, *place[stage.name], colour))
    return Markup("".join(parts) + "</svg>")
