"""Language models side by side: distance to the autoregressive one, the frontier of perplexity and entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from isocline.metrics.uncertainty import Estimate
from isocline.report import tables
from isocline.report.charts import Chart, legend, nfe_chart, style
from isocline.report.figures import NARROW, WIDE, Axis, Series, count, line_chart, number
from isocline.report.sources import Model, Reading
from isocline.report.students import ratio

__all__ = ["distance", "headline", "protocol_facts", "text_charts", "text_tables"]

FLOOR = "held-out text"

WAYS = {"own": "its objective", "left_to_right": "left to right", "any_order": "random orders"}
"""Names of likelihoods in words."""


def text_charts(models: Sequence[Model], colours: Mapping[str, int]) -> dict[str, list[Chart]]:
    """The frontier (`lead`) and curves over NFE (`more`)."""
    lead = _frontier(models, colours)
    more = [
        nfe_chart(models, metric, title, unit, colours, floor_name=FLOOR)
        for metric, title, unit in (
            ("generative_perplexity", "Generative perplexity", "perplexity under the judge (lower is better)"),
            ("entropy", "Entropy", "entropy of generated tokens, nats"),
            ("jensen_shannon", "N-gram divergence", "Jensen–Shannon from held-out text"),
            ("dictionary_share", "Real words", "share of words in the training vocabulary"),
        )
    ]
    return {"lead": [lead] if lead else [], "more": [chart for chart in more if chart]}


def _frontier(models: Sequence[Model], colours: Mapping[str, int]) -> Chart | None:
    """Generative perplexity against entropy, one point per NFE: down and to the right is better."""
    series = []
    for model in models:
        perplexity, entropy = model.curve("generative_perplexity"), model.curve("entropy")
        shared = [k for k in perplexity if k in entropy]
        if shared:
            series.append(
                Series(
                    model.name,
                    tuple(entropy[k].mean for k in shared),
                    tuple(perplexity[k].mean for k in shared),
                    notes=tuple(str(k) for k in shared),
                    **style(model, colours),
                )
            )
    if not series:
        return None
    floors = [tables.floor_reading(models, name) for name in ("entropy", "generative_perplexity")]
    if floors[0] is not None and floors[1] is not None:
        point = Series(FLOOR, (floors[0].mean,), (floors[1].mean,), colour=7, marker="cross", notes=("real",))
        series.append(point)
    x = Axis("entropy of the generated tokens, nats")
    y = Axis("perplexity under the judge (lower is better)", "log")
    said = "Frontier of generative perplexity and entropy. " + "; ".join(
        f"{s.label}: perplexity {number(min(s.y))} to {number(max(s.y))}, entropy {min(s.x):.2f} to {max(s.x):.2f}"
        for s in series
    )
    return Chart(
        "Frontier: perplexity and entropy",
        line_chart(series, x, y, description=said, size=NARROW),
        line_chart(series, x, y, description=said, size=WIDE),
        legend(series),
        "Numbers beside the points are NFE; dashed curves are students. Low perplexity at low entropy is dull text, "
        "not good text: of two curves the better one is lower at the same entropy.",
    )


def text_tables(models: Sequence[Model], colours: Mapping[str, int]) -> list[tables.Table]:
    """Likelihood and distance to the autoregressive model, the frontier, what else the texts are like."""
    found = [
        _likelihood_table(models, colours),
        _frontier_table(models, colours),
        _variety_table(models, colours),
        tables.difference_table(
            models, "generative_perplexity", "Difference in generative perplexity at the same NFE", colours
        ),
    ]
    return [table for table in found if not table.empty]


def baseline(models: Sequence[Model]) -> Model | None:
    """The model that the others are held against: of those with an exact likelihood of their own, the best."""
    exact = [(m, r) for m in models if (r := m.reading("bits_per_char")) is not None and r.kind == "exact"]
    return min(exact, key=lambda entry: entry[1].mean)[0] if exact else None


def _tightest(model: Model) -> tuple[str, Reading] | None:
    """The name and value of the likelihood that the evaluation found tightest; the model's own where it says none."""
    raw, reading = model.metrics.get("bits_per_char_tightest"), model.reading("bits_per_char_tightest")
    if reading is None:
        reading = model.reading("bits_per_char")
        return None if reading is None else ("own", reading)
    named = raw.get("likelihood") if isinstance(raw, Mapping) else None
    return str(named or "own"), reading


def distance(model: Model, base: Model) -> Estimate | None:
    """Bits per character of a model over those of another, each by its tightest likelihood, less one.

    Paired over the sequences that both scored, where the evaluations kept them, else from the two means.

    Args:
        model: what is measured.
        base: what it is held against.
    """
    mine, theirs = _tightest(model), _tightest(base)
    if mine is None or theirs is None:
        return None
    a, b = model.nats.get(mine[0]), base.nats.get(theirs[0])
    if a is not None and b is not None and len(a) == len(b):
        both = np.isfinite(a) & np.isfinite(b)
        if both.sum() > 1:
            return Estimate.from_ratio(a[both], b[both]).map(lambda value: value - 1.0, 1.0)
    return ratio(mine[1], theirs[1]).map(lambda value: value - 1.0, 1.0)


def _distance_cell(model: Model, base: Model | None) -> tables.Cell:
    if base is None or model is base:
        return tables.Cell()
    found, named = distance(model, base), _tightest(model)
    if found is None or named is None:
        return tables.Cell()
    error = "" if found.se is None else f"± {tables.error(100 * found.se)}, "
    way = WAYS.get(named[0], named[0])
    kind = f" ({named[1].kind})" if named[1].kind else ""
    title = f"{100 * found.mean:.3f} %, n = {found.n}; {named[1].kind or 'likelihood'} by {way}"
    text = tables.signed(100 * found.mean)
    return tables.Cell(f"{text} %", f"{error}{way}{kind}", title=title, value=found.mean)


def _tighter_cell(model: Model, name: str) -> tables.Cell:
    """A likelihood less the model's own over the sequences that both scored, bits per character."""
    other, own, characters = model.nats.get(name), model.nats.get("own"), model.nats.get("characters")
    if other is None or own is None or characters is None:
        return tables.Cell()
    both = np.isfinite(other) & np.isfinite(own)
    if both.sum() < 2:
        return tables.Cell()
    found = Estimate.from_ratio((other - own)[both] / np.log(2.0), characters[both])
    kind = (model.reading(f"bits_per_char_{name}") or Reading(0.0)).kind
    title = f"{kind or 'likelihood'}, paired over {found.n} sequences"
    small = "" if found.se is None else f"se {tables.error(found.se)}"
    return tables.Cell(tables.signed(round(found.mean, 4)), small, title=title)


def _effort(model: Model) -> tables.Cell:
    """Arithmetic of training: 6 operations a weight and token, forward and backward (Kaplan et al., 2020)."""
    trainer = model.settings.get("trainer") or {}
    steps, batch = model.training.get("steps", trainer.get("steps")), trainer.get("batch_size")
    length = (model.metrics.get("protocol") or {}).get("length")
    if not (model.parameters and steps and batch and length):
        return tables.Cell()
    tera = 6e-12 * model.parameters * steps * batch * length
    return tables.Cell(f"{number(tera)} TFLOP", f"{count(steps)} × {count(batch)}", value=tera)


def _likelihood_table(models: Sequence[Model], colours: Mapping[str, int]) -> tables.Table:
    base, flow = baseline(models), any(model.reading("bits_per_char_flow") for model in models)
    rows = []
    for model in models:
        cells = (
            tables.likelihood_cell(model.reading("bits_per_char")),
            _distance_cell(model, base),
            _effort(model),
            tables.Cell(run=f"{'distill' if model.teacher else 'train'}@{model.name}"),
            tables.Cell(count(model.parameters), value=model.parameters) if model.parameters else tables.Cell(),
            tables.likelihood_cell(model.reading("perplexity")),
            _tighter_cell(model, "left_to_right"),
            _tighter_cell(model, "any_order"),
            *((tables.likelihood_cell(model.reading("bits_per_char_flow")),) if flow else ()),
        )
        objective = str((model.settings.get("objective") or {}).get("_target_", "")).rpartition(".")[2]
        note = tables.origin(model) if model.teacher or not objective else objective
        rows.append(tables.Row(model.name, cells, note, colours.get(model.name)))
    columns = (
        "bits/char",
        f"distance to {base.name}" if base else "distance",
        "training",
        "time",
        "parameters",
        "perplexity",
        "left to right",
        "random orders",
        *(("flow bound",) if flow else ()),
    )
    note = (
        "Exact: the model’s own probability. Bound: the model is at least this good. Left to right: the model writing "
        "one token at a time from the start, an exact likelihood of a masked model; random orders: a bound, equal to "
        "the masked one on average. Both are bits/char more (+) or less than the first column, on the same sequences. "
        "Distance: bits/char over the autoregressive model’s by the tightest valid likelihood, paired over sequences, "
        "± one standard error. A dash: the model has no such likelihood, or is the one that is compared with. "
        "Training: 6 × weights × tokens, of a student without its teacher’s; the time is wall-clock, and comes with "
        "runs.js."
    )
    if flow:
        note += (
            " Flow bound: bits/char by the rates of discrete flow matching under noise of real symbols, loose even for "
            "the exact model, and held against nothing else."
        )
    return tables.Table(
        "Held-out likelihood (lower is better)", columns, tables.mark_best(rows, {0: True, 1: True, 5: True}), note
    )


def sampler_of(model: Model) -> str:
    """The sampler that the model was evaluated with, and what is inside it, by the names of their classes."""
    section = (model.metrics.get("protocol") or {}).get("sampler")
    if not isinstance(section, Mapping):
        return ""
    inside = [str(part["_target_"]) for part in section.values() if isinstance(part, Mapping) and "_target_" in part]
    first, *more = (
        name.rpartition(".")[2].removesuffix("Sampler") for name in (str(section.get("_target_", "")), *inside)
    )
    return f"{first} ({', '.join(more)})" if more else first


def _frontier_table(models: Sequence[Model], colours: Mapping[str, int]) -> tables.Table:
    """Perplexity over NFE with the entropy of the same texts below it."""
    steps = tables.budgets(models, "generative_perplexity")

    def cell(perplexity: Reading | None, entropy: Reading | None) -> tables.Cell:
        if perplexity is None:
            return tables.Cell()
        title = tables.story(perplexity)
        small = tables.spread(perplexity)
        if entropy is not None:
            small, title = f"{small} entropy {entropy.mean:.2f}".strip(), f"{title}; entropy {tables.story(entropy)}"
        return tables.Cell(number(perplexity.mean), small, title=title, value=perplexity.mean)

    rows = []
    for model in models:
        perplexity, entropy = model.curve("generative_perplexity"), model.curve("entropy")
        cells = tuple(cell(perplexity.get(nfe), entropy.get(nfe)) for nfe in steps)
        note = ", ".join(part for part in (tables.origin(model), sampler_of(model)) if part)
        rows.append(tables.Row(model.name, cells, note, colours.get(model.name)))
    floors = [tables.floor_reading(models, name) for name in ("generative_perplexity", "entropy")]
    if steps and floors[0] is not None:
        cells = (cell(*floors), *(tables.Cell("") for _ in steps[1:]))
        rows.append(tables.Row(FLOOR, cells, "reference", reference=True))
    seeds = next((r.n for m in models for r in m.curve("generative_perplexity").values() if r.n), None)
    spread = f"± standard deviation over {seeds} sampling seeds. " if seeds and seeds > 1 else ""
    note = (
        f"Under each name its sampler. Perplexity under the judge, {spread}"
        "Below it the mean entropy of a text’s own tokens, nats: a perplexity "
        "lower than real text’s at a lower entropy is bought with repetition, so no best is marked."
    )
    return tables.Table("Frontier: generative perplexity and entropy by NFE", tuple(map(str, steps)), tuple(rows), note)


def _variety_table(models: Sequence[Model], colours: Mapping[str, int]) -> tables.Table:
    """What else the texts are like, at each model's most evaluations."""
    kept = {
        metric: name
        for metric, name in (
            ("jensen_shannon", "Jensen–Shannon"),
            ("dictionary_share", "real words"),
            ("distinct_1", "distinct words"),
            ("distinct_2", "distinct pairs"),
            ("self_bleu_3", "self-BLEU-3"),
            ("self_bleu_4", "self-BLEU-4"),
            ("mauve", "MAUVE"),
            ("mauve_judge", "MAUVE (judge)"),
        )
        if any(model.curve(metric) for model in models)
    }
    rows = []
    for model in models:
        curves = [model.curve(metric) for metric in kept]
        nfe = max((max(curve) for curve in curves if curve), default=None)
        if nfe is None:
            continue
        speed = tables.Cell(run=f"evaluate-text@{model.name}", timing=f"tokens_per_second_nfe_{nfe}")
        spent = model.curve("spent_nfe").get(nfe)
        asked = tables.Cell(str(nfe), "" if spent is None else f"{number(spent.mean)} spent")
        cells = (asked, *(tables.cell(curve.get(nfe)) for curve in curves), speed)
        rows.append(tables.Row(model.name, cells, tables.origin(model), colours.get(model.name)))
    floors = [tables.floor_reading(models, metric) for metric in kept]
    if rows and any(floor is not None for floor in floors):
        cells = (tables.Cell(""), *map(tables.cell, floors), tables.Cell(""))
        rows.append(tables.Row(FLOOR, cells, "reference", reference=True))
    areas = "MAUVE: overlap with held-out text among clusters of texts, 1 at most, higher is nearer. "
    note = (
        "At each model’s most evaluations, below them what a sequence spent on average; over sets of the same size. "
        "Jensen–Shannon: from the character 3-grams of "
        "held-out text, bits, lower is nearer. Real words: share that the training text knows, higher is nearer. "
        "Distinct: share of word n-grams that are not repeats. Self-BLEU: how much the texts repeat one another. "
        f"{areas if any(name.startswith('mauve') for name in kept) else ''}The row of held-out text says what real "
        "text reaches; distinct and self-BLEU have no better end. Tokens per second are wall-clock and come with "
        "runs.js."
    )
    return tables.Table("The texts themselves", ("NFE", *kept.values(), "tokens/s"), tuple(rows), note)


def headline(models: Sequence[Model]) -> str:
    """How near the nearest model comes to the autoregressive one in a sentence, or nothing."""
    base = baseline(models)
    reading = base.reading("bits_per_char") if base else None
    if base is None or reading is None:
        return ""
    sentence = f"Held-out text: {base.name} needs {reading.mean:.2f} bits per character"
    others = [(found, m) for m in models if m is not base and (found := distance(m, base)) is not None]
    if others:
        found, model = min(others, key=lambda entry: entry[0].mean)
        named = _tightest(model)
        way = f", {named[1].kind or 'measured'} by {WAYS.get(named[0], named[0])}" if named else ""
        error = f" ± {tables.error(100 * found.se)}" if found.se is not None else ""
        sentence += f"; closest is {model.name}, {tables.signed(100 * found.mean)} %{error}{way}"
    return f"{sentence}."


def protocol_facts(models: Sequence[Model], card: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How text was made and measured, as (name, value) pairs; what no artefact says is left out."""
    protocol = next((p for m in models if isinstance(p := m.metrics.get("protocol"), Mapping)), {})
    tokenizer = str((card.get("tokenizer") or {}).get("_target_", "")).rpartition(".")[2]
    size, each = card.get("vocab_size"), card.get("characters_per_token")
    sequences, seeds = protocol.get("sequences"), protocol.get("seeds")
    scored, chained, strata = (protocol.get(k) for k in ("likelihood_sequences", "chain_sequences", "strata"))
    facts = {
        "Tokenizer": ", ".join(
            part
            for part in (
                tokenizer,
                f"{count(size)} tokens with the mask" if size else "",
                f"{number(each)} characters a token" if each else "",
            )
            if part
        ),
        "Packing": card.get("packing"),
        "Sequence length": f"{protocol.get('length') or card.get('length') or ''} tokens".removeprefix(" tokens"),
        "End of text": "no token for it: a sequence is a window cut from running text, and is written to its end"
        if "no end-of-text" in str(card.get("packing", ""))
        else "",
        "Scored": f"{count(scored)} test sequences, evenly spaced, {strata} strata of t each"
        + (f"; {count(chained)} of them by the chain rule" if chained else "")
        if scored
        else "",
        "Classes": protocol.get("classes"),
        "Generated": f"{count(sequences)} sequences at each NFE and each of {seeds} sampling seeds"
        if sequences
        else "",
        "Last step": protocol.get("last_step"),
        "Real text": protocol.get("floor"),
    }
    return [(name, str(value)) for name, value in facts.items() if value]
