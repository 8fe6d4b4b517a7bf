"""What students must agree on with their teachers, with their data and with the pairs made for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from isocline.app.crosschecks import Problem, network_problems, uses
from isocline.app.fitting import class_of, misfit, trial
from isocline.app.sections import section_of
from isocline.app.students import network_of, root_model

__all__ = ["student_problems"]


def student_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what does not fit together; parts that are malformed by themselves are passed over."""
    models, students = section_of(config, "models"), section_of(config, "students")
    for name in students:
        if name in models:
            yield Problem(f"students.{name}", f"models.{name} has the same name and writes data/models/{name}; rename")
        elif section_of(students, name):
            yield from _student(name, config)
    for name in section_of(config, "pairs"):
        yield from _pairs(name, config)


def _student(name: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    key, student = f"students.{name}", section_of(config, "students", name)
    models, modality, chosen = section_of(config, "models"), student.get("modality"), student.get("teacher")
    try:
        root = root_model(config, name)
    except ValueError as error:
        yield Problem(f"{key}.teacher", str(error))
        return
    teacher = section_of(models, root)
    if teacher and modality in ("images", "text") and teacher.get("modality") != modality:
        fitting = [other for other in models if section_of(models, other).get("modality") == modality]
        yield Problem(
            f"{key}.teacher",
            f"{chosen!r} is a model of {teacher.get('modality')}, {key} one of {modality}; "
            f"choose {' or '.join(fitting) or 'another modality'}",
        )
    elif teacher:
        yield from uses(key, student, root, config)
    if section_of(student, "network"):
        yield from network_problems(f"{key}.network", network_of(config, name), modality, config)
    yield from _data(key, student, config)
    yield from _rounds(key, student)


def _data(key: str, student: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare a student's data with what the stages write."""
    from isocline.distillation.one_step import OneStepDistillation
    from isocline.distillation.reflow import Reflow

    modality, teacher, data = student.get("modality"), student.get("teacher"), student.get("data")
    pairs, kind = f"data/pairs/{teacher}", class_of(section_of(student, "objective"))
    known = [f"data/{modality}", *([pairs] if modality != "text" else [])]
    if kind is not None and issubclass(kind, Reflow | OneStepDistillation):
        known = [pairs]
    if not isinstance(data, str):
        return
    if data not in known:
        yield Problem(f"{key}.data", f"{data!r} is not what a stage writes for it; set {' or '.join(known)}")
    elif data == pairs and teacher not in section_of(config, "pairs"):
        cure = f"add `+pairs@pairs.{teacher}=heun`"
        yield Problem(f"{key}.data", f"{pairs!r} would be made by pairs.{teacher}, which is missing; {cure}")


def _rounds(key: str, student: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that the last round of several is reached."""
    objective, steps = section_of(student, "objective"), section_of(student, "trainer").get("steps")
    rounds, length = objective.get("rounds"), objective.get("round_length")
    if not (isinstance(rounds, int) and isinstance(length, int) and isinstance(steps, int)):
        return
    if steps <= (rounds - 1) * length:
        asked = f"{rounds} rounds of {length} steps, but {key}.trainer.steps is {steps}"
        cure = f"set {key}.trainer.steps={rounds * length}"
        yield Problem(f"{key}.objective.rounds", f"{asked} and the last one never begins; {cure}")


def _pairs(name: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that pairs can be made: a model or student with a probability flow, and a sampler that follows it."""
    models, students, pairs = section_of(config, "models"), section_of(config, "students"), section_of(config, "pairs")
    if name not in models and name not in students:
        yield Problem(f"pairs.{name}", f"there is no model or student {name!r} to make pairs with; remove it")
        return
    try:
        root = section_of(models, root_model(config, name))
    except ValueError:
        return  # the student's own problem
    process, section = section_of(root, "process"), section_of(pairs, name)
    kind, sampler = class_of(process), class_of(section_of(section, "sampler"))
    if root.get("modality") == "text":
        yield Problem(f"pairs.{name}", f"{name} is a model of text, which has no probability flow; remove it")
    elif kind is not None and sampler is not None:
        labelled = bool(network_of(config, name).get("classes"))
        reason = misfit(sampler, kind)
        reason = reason or trial(section_of(section, "sampler"), process, [section.get("nfe")], labelled)
        if reason:
            yield Problem(f"pairs.{name}.sampler", f"{reason}; for instance sampler@pairs.{name}.sampler=adaptive")
