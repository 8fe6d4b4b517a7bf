"""Whether a sampler and an objective suit a process, told by their classes before anything is trained.

A sampler of images takes a ``denoiser``; one of text takes a network and a process, and the annotation of that argument
says which processes it can reverse.
"""

from __future__ import annotations

import inspect
import logging
import typing
from collections.abc import Callable, Mapping
from typing import Any

from isocline.app.errors import one_line

__all__ = [
    "EXAMPLES",
    "FAMILIES",
    "ConfigurationError",
    "class_of",
    "family",
    "locate",
    "misfit",
    "objective_misfit",
    "trial",
]

EXAMPLES = {"gaussian": "euler", "kernel": "ancestral", "none": "autoregressive"}
"""A sampler for processes of a family."""

FAMILIES = {
    "gaussian": "a Gaussian process of images",
    "kernel": "a kernel of text",
    "relaxed": "a process of text relaxed to numbers",
    "none": "no process (autoregressive text)",
}
"""What processes of a family are, in words."""


class ConfigurationError(ValueError):
    """A composition that cannot be run; the message names key, value and cure."""


_BASES = ("GaussianProcess", "AbstractCorruption", "AbstractKernel")
"""Classes of processes that stand for their whole family."""

_SOME_STEPS = 8
"""A budget that pays for some steps of any sampler."""


def locate(name: Any) -> Callable[..., Any]:
    """Import what a ``_target_`` names.

    Raises:
        ConfigurationError: if it cannot be imported or called.
    """
    from hydra.utils import get_object

    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it raises: one line is enough
    try:
        found = get_object(name)
    except Exception as error:
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        raise ConfigurationError(f"_target_ {name!r} cannot be imported ({reason[:160]})") from error
    if not callable(found):
        raise ConfigurationError(f"_target_ {name!r} is not callable")
    return found  # type: ignore[no-any-return]


def misfit(sampler: type, process: type | None) -> str | None:
    """Tell by their classes why a sampler cannot sample from a process; None if it can, or if that cannot be told.

    Args:
        sampler: its class.
        process: its class, None for autoregressive models.
    """
    from isocline.processes.gaussian import GaussianProcess

    method = getattr(sampler, "sample", None)
    if method is None:
        return f"{sampler.__name__} has no method sample"
    parameters = inspect.signature(method).parameters
    if "denoiser" in parameters:
        wanted: type | None = GaussianProcess
        if family(process) is None:  # an interpolant, say: its sampler decides
            return None
    elif "process" in parameters:
        hint = _annotation(method, "process")
        if hint is None:
            return None
        wanted = None if hint is type(None) else hint
    else:
        return None
    if wanted is process or (process is not None and wanted is not None and issubclass(process, wanted)):
        return None
    having = "there is none" if process is None else f"this is {process.__name__}"
    return f"{sampler.__name__} needs {_described(wanted)}, and {having}"


def _annotation(function: Callable[..., Any], name: str) -> type | None:
    """The class that annotates an argument, if one class does."""
    try:
        hint = typing.get_type_hints(function).get(name)
    except Exception:  # an annotation that cannot be resolved tells nothing
        return None
    return hint if isinstance(hint, type) else None


def _described(wanted: type | None) -> str:
    """A class of processes in words: its family where it is the base of one, else its name."""
    kin = family(wanted)
    base = wanted is None or wanted.__name__ in _BASES
    return FAMILIES[kin] if base and kin else wanted.__name__ if wanted else ""


def family(process: type | None) -> str | None:
    """The family of a process, a key of `FAMILIES`; None if it is of no known one."""
    from isocline.processes.corruption import AbstractCorruption
    from isocline.processes.gaussian import GaussianProcess

    if process is None:
        return "none"
    if issubclass(process, GaussianProcess):
        return "gaussian"
    if issubclass(process, AbstractCorruption):
        return "kernel"
    return "relaxed" if "vocab_size" in inspect.signature(process).parameters else None


def objective_misfit(objective: Any, process: type | None) -> str | None:
    """Tell by their classes why an objective cannot train on a process; None if it can, or if that cannot be told.

    Args:
        objective: its class or a function that makes it.
        process: its class, None for autoregressive models and classifiers.
    """
    wanted = inspect.signature(objective).parameters.get("process")
    if wanted is None:
        return None if process is None else f"{objective.__name__} takes no process, and this is {process.__name__}"
    if process is None:
        return (
            None if wanted.default is not wanted.empty else f"{objective.__name__} needs a process, and there is none"
        )
    hint = _annotation(objective.__init__ if inspect.isclass(objective) else objective, "process")
    if hint is None or family(hint) is None or issubclass(process, hint):
        return None
    return f"{objective.__name__} needs {hint.__name__}, and this is {process.__name__}"


def class_of(node: Mapping[str, Any]) -> type | None:
    """Return the class that a section's ``_target_`` names, None if it names none that can be imported."""
    try:
        found = locate(node.get("_target_"))
    except ConfigurationError:
        return None
    return found if inspect.isclass(found) else None


def trial(sampler: Mapping[str, Any], process: Mapping[str, Any], budgets: Any, labelled: bool) -> str | None:
    """Try a sampler on its process, with a network that predicts zeros for images; return why it cannot work."""
    import torch
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    from isocline.processes.corruption import AbstractCorruption
    from isocline.processes.denoiser import Denoiser
    from isocline.processes.gaussian import GaussianProcess
    from isocline.samplers.discrete import AbstractDiscreteSampler
    from isocline.solvers.solution import Status

    try:
        made, on = instantiate(dict(sampler), _convert_="all"), instantiate(dict(process), _convert_="all")
    except (InstantiationException, ValueError, TypeError):
        return None
    try:
        if isinstance(made, AbstractDiscreteSampler) and isinstance(on, AbstractCorruption):
            made.stepper(on)
        elif isinstance(on, GaussianProcess) and hasattr(made, "sample"):
            nfe = min(budgets) if isinstance(budgets, list) and budgets and all(map(_whole, budgets)) else 1
            denoiser = Denoiser(lambda t, x, cond: torch.zeros_like(x), on)  # type: ignore[arg-type]
            cond, start = torch.zeros(1, dtype=torch.int64) if labelled else None, torch.ones(1, 1, 2, 2)
            # The least budget has to do, and some steps of any method have to be finite.
            for calls in sorted({max(nfe, 1), max(nfe, _SOME_STEPS)}):
                found = made.sample(denoiser, start, calls, cond=cond, generator=torch.Generator())
            if bool((found.status == int(Status.NON_FINITE)).any()):
                return (
                    f"{type(made).__name__} meets values that are not finite with {type(on.prediction).__name__} from "
                    f"t={on.t_min} to {on.t_max}: a coefficient is infinite at an end; set t_min or t_max a little "
                    "inside, or take another prediction"
                )
    except (ValueError, TypeError) as error:
        return one_line(error)
    return None


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
