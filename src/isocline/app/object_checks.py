"""Check the objects that a composition names: each ``_target_`` is imported, bound to its signature and built.

Networks are built on torch's meta device, which allocates nothing, so that whatever a constructor refuses is reported
with the key that holds it.
"""

from __future__ import annotations

import contextlib
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from isocline.app.crosschecks import Problem
from isocline.app.errors import one_line
from isocline.app.fitting import ConfigurationError, locate
from isocline.app.sections import section_of, unknown_arguments
from isocline.app.students import network_of, root_model, teachers

__all__ = ["object_problems", "objects", "show", "student_networks"]

_RUNTIME = {"objective": ("process", "teacher"), "optimizer": ("params",), "ema": ("network", "model")}
"""Arguments that an entry point hands over when it builds the object, by the name of the section."""

_SPECIAL = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")
_VARIADIC = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def show(value: Any) -> str:
    """Return a value as messages show it."""
    text = "a section" if isinstance(value, Mapping) else repr(value)
    return text if isinstance(value, Mapping) else f"{text[:60]} ({type(value).__name__})"


def objects(node: Any, key: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the outermost objects."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, node
            return
        for name, child in node.items():
            yield from objects(child, f"{key}.{name}" if key else str(name))


def student_networks(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the networks that students change, merged with what they inherit."""
    for name in section_of(config, "students"):
        if section_of(config, "students", name, "network"):
            with contextlib.suppress(ValueError):  # a chain of teachers without end is reported by its key
                network = network_of(config, name)
                if "_target_" in network:
                    yield f"students.{name}.network", network


def object_problems(key: str, node: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[Problem]:
    """Bind and build one object; inner objects are bound first, so that the innermost key is named."""
    found = list(_bind(key, node))
    yield from found
    if not found:
        problem = _construct(key, node, config)
        if problem:
            yield problem


def _bind(key: str, node: Mapping[str, Any], role: str | None = None) -> Iterator[Problem]:
    role = role or key.rpartition(".")[2]
    given = {name: value for name, value in node.items() if name not in _SPECIAL}
    for name, value in given.items():
        for inner, child in objects(value, f"{key}.{name}"):
            yield from _bind(inner, child)
    try:
        target = locate(node["_target_"])
        signature = inspect.signature(target)
    except ConfigurationError as error:
        yield Problem(key, str(error))
        return
    except (TypeError, ValueError):
        return
    parameters = signature.parameters
    yield from (Problem(f"{key}.{name}", reason) for name, reason in unknown_arguments(target, given))
    late = _RUNTIME.get(role, ())
    if not node.get("_partial_"):
        for name, parameter in parameters.items():
            optional = parameter.default is not parameter.empty or parameter.kind in _VARIADIC
            if not optional and name not in given and name not in late:
                yield Problem(f"{key}.{name}", f"is missing; {node['_target_'].rpartition('.')[2]} needs it")
    hints = _hints(target)
    for name, value in given.items():
        if name in hints and not _fits(value, hints[name]):
            yield Problem(f"{key}.{name}", f"expected {_name(hints[name])}, got {show(value)}")


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    owner = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(owner)
    except Exception:
        return {}


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a plain value can be what an annotation says; what cannot be told passes."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, Mapping) or hint is Any:
        fits = True
    elif origin in (typing.Union, types.UnionType):
        fits = any(_fits(value, option) for option in arguments)
    elif origin is typing.Literal:
        fits = value in arguments
    elif hint is None or hint is type(None):
        fits = value is None
    elif hint in (int, float, bool, str):
        kinds = (int, float) if hint is float else hint
        fits = hint is bool if isinstance(value, bool) else isinstance(value, kinds)
    elif isinstance(value, list | tuple):
        elements = {argument for argument in arguments if argument is not Ellipsis}
        fits = len(elements) != 1 or all(_fits(item, next(iter(elements))) for item in value)
    else:
        kind = origin or hint
        ours = isinstance(kind, type) and kind.__module__.startswith(("isocline", "torch"))
        fits = value is not None and origin not in (list, tuple) and not ours
    return fits


def _construct(key: str, node: Mapping[str, Any], config: Mapping[str, Any]) -> Problem | None:
    """Build the object; what its constructor refuses is the problem."""
    import torch
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from torch import nn

    role = key.rpartition(".")[2]
    late: dict[str, Any] = {}
    if role == "objective":
        wanted = inspect.signature(locate(node["_target_"])).parameters
        process = _process_of(key, config)
        if "process" in wanted and process is not None:
            try:
                late["process"] = instantiate(dict(process), _convert_="all")
            except InstantiationException:
                return None
        if "teacher" in wanted:
            late["teacher"] = _teacher_of(key, config)
    try:
        with torch.device("meta") if role in ("network", "objective") else torch.device("cpu"):
            built = instantiate(dict(node), **late, _convert_="all")
            if role == "optimizer":
                built([nn.Parameter(torch.zeros(1, device="cpu"))])
            elif role == "ema" and node.get("_partial_"):
                built(nn.Linear(1, 1, device="cpu"))
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, NotImplementedError | RuntimeError) and "meta" in str(cause).lower():
            return None
        if isinstance(cause, FileNotFoundError):  # of data that an earlier stage will have prepared
            return None
        inner = str(error).rpartition("full_key: ")[2].strip() if "full_key: " in str(error) else ""
        return Problem(f"{key}.{inner}" if inner else key, one_line(cause))
    except (ValueError, TypeError, AssertionError) as error:
        return Problem(key, one_line(error))
    return None


def _teacher_of(key: str, config: Mapping[str, Any]) -> Any:
    """Return the network of a student's teacher without memory, or a placeholder where it has problems of its own."""
    import torch
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate
    from torch import nn

    try:
        teacher = next(teachers(config, key.split(".")[1]))
        with torch.device("meta"):
            return instantiate(network_of(config, teacher), _convert_="all")
    except (InstantiationException, StopIteration, ValueError):
        return nn.Identity()


def _process_of(key: str, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the process section beside an objective, or the teacher's."""
    side, name, *_ = key.split(".")
    if side == "students":
        try:
            side, name = "models", root_model(config, name)
        except ValueError:
            return None
    return section_of(config, side, name, "process") or None
