"""Check a whole composition before anything is written or run: keys, types, ranges, and every object that it names.

Three layers. A declarative table (`RULES`) holds the plain values: which keys there are, their type and their range.
`isocline.app.crosschecks` compares the parts with each other. Then `isocline.app.object_checks` builds every object.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isocline.app.crosschecks import Problem, disagreements
from isocline.app.fitting import ConfigurationError
from isocline.app.object_checks import object_problems, objects, show, student_networks
from isocline.app.regulariser_checks import findings
from isocline.app.student_checks import student_problems

__all__ = ["RULES", "ConfigurationError", "Problem", "Rule", "check", "problems"]


@dataclass(frozen=True)
class Rule:
    """What a plain value must be.

    Attributes:
        kind: accepted Python types; an int passes for a float, a bool for neither.
        low: least value (numbers).
        high: largest value (numbers).
        choices: the accepted values, if they are few.
        optional: whether the key may be absent or null.
    """

    kind: type | tuple[type, ...]
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[Any, ...] = ()
    optional: bool = False


_SECTION = Rule(dict)
_COUNT = Rule(int, low=1)
_MODALITY = Rule(str, choices=("images", "latents", "text"))
_ACCELERATOR = Rule(str, choices=("cpu", "auto", "gpu", "cuda", "mps"))
RULES: dict[str, Rule] = {
    "seed": Rule(int, low=0, high=2**63 - 1),
    "threads": Rule(int, low=1, high=1024),
    "accelerator": _ACCELERATOR,
    "profile": Rule(str),
    "matrix": _SECTION,
    "matrix.images": _SECTION,
    "matrix.text": _SECTION,
    "matrix.classifiers": _SECTION,
    "matrix.solvers": _SECTION,
    "matrix.stability": _SECTION,
    "matrix.analysis": _SECTION,
    "matrix.*.*": Rule(str, choices=("models", "students", "densities")),
    "data": _SECTION,
    "data.images": _SECTION,
    "data.text": _SECTION,
    "data.images.dataset": _SECTION,
    "data.images.splits": _SECTION,
    "data.images.splits.*": Rule(int, low=1, optional=True),
    "data.images.classes": Rule(int, low=1, high=2**16, optional=True),
    "data.images.channels": Rule(int, low=1, high=16, optional=True),
    "data.images.size": Rule(int, low=2, high=4096, optional=True),
    "data.text.dataset": _SECTION,
    "data.text.normalise": _SECTION,
    "data.text.tokenizer": _SECTION,
    "data.text.splits": _SECTION,
    "data.text.splits.*": Rule(float),
    "data.text.vocab_size": Rule(int, low=2, high=2**24, optional=True),
    "data.text.classes": Rule(int, low=1, high=2**16, optional=True),
    "data.text.length": Rule(int, low=2, high=2**20, optional=True),
    "data.points": _SECTION,
    "data.points.*": _SECTION,
    "data.points.*.dataset": _SECTION,
    "data.points.*.splits": _SECTION,
    "data.points.*.splits.*": Rule(int, low=1, optional=True),
    "data.points.*.dim": Rule(int, low=2, high=4096),
    "judge": _SECTION,
    "judge.images": _SECTION,
    "judge.text": _SECTION,
    "judge.*.training": Rule(dict, optional=True),
    "judge.*.training.steps": _COUNT,
    "judge.*.training.batch_size": _COUNT,
    "judge.*.training.lr": Rule(float, low=0.0, high=10.0),
    "judge.text.order": Rule(int, low=1, high=16, optional=True),
    "judge.text.test_rows": Rule(int, low=1, optional=True),
    "models": _SECTION,
    "models.*": _SECTION,
    "models.*.modality": _MODALITY,
    "models.*.process": Rule(dict, optional=True),
    "models.*.network": _SECTION,
    "autoencoders": _SECTION,
    "autoencoders.*": _SECTION,
    "autoencoders.*.network": _SECTION,
    "students": _SECTION,
    "students.*": _SECTION,
    "students.*.modality": _MODALITY,
    "students.*.teacher": Rule(str),
    "students.*.network": Rule(dict, optional=True),
    "students.*.start": Rule(str, choices=("teacher", "scratch")),
    "students.*.data": Rule(str),
    "pairs": _SECTION,
    "pairs.*": _SECTION,
    "pairs.*.sampler": _SECTION,
    "pairs.*.count": _COUNT,
    "pairs.*.nfe": _COUNT,
    "pairs.*.batch_size": _COUNT,
    "densities": _SECTION,
    "densities.*": _SECTION,
    "densities.*.data": Rule(str),
    "densities.*.network": _SECTION,
    "evaluation": _SECTION,
    "evaluation.images": _SECTION,
    "evaluation.images.likelihood.models.*.steps": Rule(int, low=1, optional=True),
    "evaluation.text": _SECTION,
    "evaluation.points": _SECTION,
    "evaluation.classifiers": _SECTION,
    "evaluation.optimisation": _SECTION,
    "evaluation.solvers": _SECTION,
    "evaluation.stability": _SECTION,
    "evaluation.analysis": _SECTION,
    "plugins": _SECTION,
    "plugins.*": _SECTION,
    "plugins.*.samples": _COUNT,
    "plugins.*.reference_nfe": Rule(int, low=1, optional=True),
    "plugins.*.nfe": Rule(list, optional=True),
    "depth": _SECTION,
    "depth.study": _SECTION,
    "depth.variants": _SECTION,
    "depth.variants.*": _SECTION,
    "report": Rule(dict, optional=True),
}
for _side in ("models.*", "students.*", "densities.*", "autoencoders.*"):
    for _part in ("objective", "optimizer", "ema", "trainer", "sampler"):
        if _part != "sampler" or _side in ("models.*", "students.*"):  # its network or its field is the sampler
            RULES[f"{_side}.{_part}"] = _SECTION
    RULES[f"{_side}.trainer.accelerator"] = _ACCELERATOR
    RULES[f"{_side}.regularisers"] = Rule(dict, optional=True)
    RULES[f"{_side}.regularisers.*"] = _SECTION
RULES["models.*.sampler"] = Rule(dict, optional=True)  # `crosschecks` says which models need none
"""Dotted patterns (``*`` is one name) to rules. A section that has rules and no ``_target_`` holds no other keys,
except those in `OPEN`, whose owners check them."""

OPEN = (
    "data.*",
    "judge.*",
    "evaluation.*",
    "plugins.*",
    "depth.*",
    "depth.variants.*",
    "report",
    "matrix.*",
    "models",
    "students",
    "students.*.network",
    "densities",
    "autoencoders",
)


def check(config: Mapping[str, Any]) -> None:
    """Raise unless the composition can be run.

    Args:
        config: the composition as plain containers.

    Raises:
        ConfigurationError: with the first problem, and how many more there are.
    """
    found = list(problems(config))
    if found:
        more = f" (and {len(found) - 1} more: {', '.join(p.key for p in found[1:4])})" if len(found) > 1 else ""
        raise ConfigurationError(f"{found[0]}{more}")


def problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield every problem of a composition: plain values first, then references and pairings, then objects."""
    plain = [*_plain(config), *_not_finite(config), *_references(config)]
    plain += [*disagreements(config), *student_problems(config)]
    plain += [] if plain else [Problem(*finding) for finding in findings(config)]
    yield from plain
    broken = {problem.key for problem in plain}
    # A student's network is whole only with what it inherits.
    for key, node in {**dict(objects(config)), **dict(student_networks(config))}.items():
        if not any(name == key or name.startswith(f"{key}.") for name in broken):
            yield from object_problems(key, node, config)


def _matches(key: str, pattern: str) -> bool:
    parts, wanted = key.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _lookup(config: Mapping[str, Any], pattern: str) -> Iterator[tuple[str, bool, Any]]:
    """Yield ``(key, present, value)`` of every place that a pattern stands for; its parents exist."""
    *parents, last = pattern.split(".")
    places: list[tuple[str, Mapping[str, Any]]] = [("", config)]
    for part in parents:
        places = [
            (f"{key}.{name}".lstrip("."), child)
            for key, node in places
            for name, child in node.items()
            if fnmatch.fnmatchcase(str(name), part) and isinstance(child, Mapping)
        ]
    for key, node in places:
        for name in node if last == "*" else (last,):
            yield f"{key}.{name}".lstrip("."), name in node, node.get(name)


def _plain(config: Mapping[str, Any]) -> Iterator[Problem]:
    for pattern, rule in RULES.items():
        for key, present, value in _lookup(config, pattern):
            if not present or value is None:
                if not rule.optional:
                    yield Problem(key, "is missing; every composition of conf/config.yaml has it")
                continue
            if value == "???":
                yield Problem(key, f"has no value; give one with `isocline compose {key}=…`")
                continue
            message = _violation(value, rule)
            if message:
                yield Problem(key, message)
    yield from _unknown(config, "")


def _not_finite(node: Any, key: str = "") -> Iterator[Problem]:
    """Yield infinities and NaNs, also as the text that Hydra makes of ``.inf`` on the command line."""
    if isinstance(node, Mapping | list):
        for name, child in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _not_finite(child, f"{key}.{name}".lstrip("."))
    elif str(node).lower().lstrip("+-.") in ("inf", "nan", "infinity") and not key.startswith("report."):
        yield Problem(key, f"{node} is not a finite number; give one, for instance 0.001")


def _violation(value: Any, rule: Rule) -> str | None:
    kinds = rule.kind if isinstance(rule.kind, tuple) else (rule.kind,)
    if (isinstance(value, bool) and bool not in kinds) or not isinstance(
        value, (*kinds, int) if float in kinds else kinds
    ):
        names = " or ".join({"dict": "section", "str": "text"}.get(k.__name__, k.__name__) for k in kinds)
        return f"expected {names}, got {show(value)}"
    if rule.choices and value not in rule.choices:
        return f"{value!r} is not one of {', '.join(map(str, rule.choices))}"
    if isinstance(value, int | float) and not rule.low <= value <= rule.high:
        return f"{value} is out of range {_range(rule)}"
    return None


def _range(rule: Rule) -> str:
    if math.isinf(rule.high):
        return f"[{rule.low}, ∞); give at least {rule.low}"
    return f"[{rule.low}, {rule.high}]"


def _unknown(config: Mapping[str, Any], prefix: str) -> Iterator[Problem]:
    """Yield keys that no rule knows, in sections that are neither open nor objects."""
    closed = not any(_matches(prefix, pattern) for pattern in OPEN) if prefix else True
    for name, value in config.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        patterns = [pattern for pattern in RULES if _matches(key, pattern)]
        if closed and not patterns:
            known = [p.rsplit(".", 1)[-1] for p in RULES if _matches(prefix, p.rpartition(".")[0]) or not prefix]
            known = sorted({name for name in known if name != "*"} if prefix else {p for p in RULES if "." not in p})
            near = difflib.get_close_matches(str(name), known, 1)
            yield Problem(key, f"unknown key; {f'did you mean {near[0]!r}?' if near else 'known: ' + ', '.join(known)}")
        elif patterns and isinstance(value, Mapping) and "_target_" not in value:
            yield from _unknown(value, key)


def _references(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield names that point nowhere: a student's teacher, the models to evaluate."""
    models, students = (config.get(name) or {} for name in ("models", "students"))
    if not isinstance(models, Mapping) or not isinstance(students, Mapping):
        return
    for name, student in students.items():
        teacher = student.get("teacher") if isinstance(student, Mapping) else None
        if isinstance(teacher, str) and teacher not in models and teacher not in students:
            known = f"models are {', '.join(models)}, students {', '.join(students)}"
            yield Problem(f"students.{name}.teacher", f"no model or student {teacher!r}; {known}")
    matrix = config.get("matrix")
    for modality, chosen in matrix.items() if isinstance(matrix, Mapping) else ():
        for name, side in chosen.items() if isinstance(chosen, Mapping) else ():
            section = config.get(side) if side in ("models", "students", "densities") else None
            if isinstance(section, Mapping) and name not in section:
                yield Problem(f"matrix.{modality}.{name}", f"there is no {side}.{name}")
