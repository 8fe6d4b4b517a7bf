"""What a solve depends on besides time: its start, the tensors of ``cond``, and what the field holds or closes over."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

from isocline.solvers.gradient import trees
from isocline.solvers.problem import AbstractProblem, SDEProblem

__all__ = ["Inputs", "detached_problem", "find_inputs", "with_inputs", "with_start"]

# How far, and through how long containers, attributes are followed.
_DEPTH = 8
_LONGEST = 256
# Samples that the field is tried on: not one, which compilers treat apart.
_PROBE = 2
# Names of what a problem starts from; positions and velocities are stacked along the second axis.
_STARTS = (("y0",), ("x0", "v0"), ("q0", "p0"))
_PLAIN = (str, bytes, int, float, complex, bool, type, types.ModuleType, torch.Generator, torch.dtype, torch.device)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Tensors that gradients are wanted for, as the caller knows them (not detached).

    Attributes:
        y0: state at the start.
        cond: tensors of ``cond`` that require grad.
        places: their positions among the tensors of ``cond``.
        parameters: leaves and other tensors that the field uses.
        versions: start, tensors of ``cond`` and parameters that were seen to be used, with their version counters.
    """

    y0: Tensor
    cond: tuple[Tensor, ...]
    places: tuple[int, ...]
    parameters: tuple[Tensor, ...]
    versions: tuple[tuple[Tensor, int], ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them in order."""
        return (self.y0, *self.cond, *self.parameters)

    def check_versions(self) -> None:
        """Compare with the forward pass.

        Raises:
            RuntimeError: if one of them has been changed in place since.
        """
        for tensor, version in self.versions:
            if tensor._version != version:
                raise RuntimeError(
                    f"a tensor of shape {tuple(tensor.shape)} that the solve used (its start, cond or a parameter) was "
                    "changed in place between its forward and backward pass, which evaluates the field again; call "
                    "backward before the optimiser, or change a copy"
                )


def find_inputs(problem: AbstractProblem, parameters: Iterable[Tensor] | None) -> Inputs | None:
    """Find everything that gradients are wanted for; None if there is nothing.

    The field is called once, at the start, on two samples if it takes them apart, to see which tensors it uses; this
    call is in no statistics. Tensors and modules that its modules, closures, partial arguments and attributes hold are
    added, for calls that take another branch.

    Args:
        problem: the equation.
        parameters: tensors that the caller names; needed only where they cannot be found.

    Raises:
        ValueError: if the field uses a tensor that was computed outside of it and is found nowhere.
    """
    tensors = trees.flatten(problem.cond)
    places = tuple(index for index, tensor in enumerate(tensors) if tensor.requires_grad)
    used = _trace(problem)
    named = [tensor for tensor in parameters or () if tensor.requires_grad]
    found, used_tensors = _match(used, named, list(_held(problem)))
    y0 = problem.start
    if not (y0.requires_grad or places or found):
        return None
    known = [tensor for tensor in (y0, *tensors, *used_tensors) if not tensor.is_inference()]
    versions = tuple((tensor, tensor._version) for tensor in known)
    return Inputs(y0, tuple(tensors[index] for index in places), places, found, versions)


def with_start(problem: AbstractProblem, y0: Tensor, cond: Any = None, **times: Any) -> AbstractProblem:
    """The same equation from another start.

    Args:
        problem: the equation.
        y0: start, shape (B, *event).
        cond: other ``cond``; None leaves it as it is.
        times: other ``t0`` and ``t1``.

    Raises:
        TypeError: if the problem is no dataclass with a start that is known here: ``y0``, or positions and velocities.
    """
    template: Any = problem
    for names in _STARTS:
        if all(hasattr(problem, name) for name in names):
            values = [y0] if len(names) == 1 else y0.unbind(1)
            changes = dict(zip(names, values, strict=True)) | times
            if cond is not None:
                changes["cond"] = cond
            changed: AbstractProblem = dataclasses.replace(template, **changes)
            return changed
    raise TypeError(f"{type(problem).__name__} has no y0 that a gradient could reach; take Backpropagation()")


def with_inputs(problem: AbstractProblem, inputs: Inputs, y0: Tensor, cond: Sequence[Tensor]) -> AbstractProblem:
    """The same equation with other tensors in place of ``inputs.y0`` and ``inputs.cond``."""
    tensors = trees.flatten(problem.cond)
    for place, tensor in zip(inputs.places, cond, strict=True):
        tensors[place] = tensor
    return with_start(problem, y0, trees.replace(problem.cond, tensors))


def detached_problem(problem: AbstractProblem) -> AbstractProblem:
    """The same equation with its start and ``cond`` detached."""
    wanted = any(tensor.requires_grad for tensor in trees.flatten(problem.cond))
    return with_start(problem, problem.start.detach(), trees.detach(problem.cond) if wanted else None)


@dataclass(frozen=True, eq=False)
class _Used:
    """What the graph of one call of the field leads to.

    Attributes:
        leaves: parameters.
        edges: tensors computed before the call, by the node that made them and the position among its outputs.
    """

    leaves: tuple[Tensor, ...]
    edges: tuple[tuple[Node, int], ...]


def _trace(problem: AbstractProblem) -> _Used:
    whole = detached_problem(problem)
    if whole.separable and len(whole.start) > _PROBE:
        try:
            return _call(whole.at_rows(torch.arange(_PROBE, device=whole.start.device)))
        except Exception:
            # Under one clock a field may close over tensors of the batch's size. Other errors will come again.
            return _call(whole)
    return _call(whole)


def _call(probe: AbstractProblem) -> _Used:
    with torch.enable_grad():
        y0 = probe.start.detach().requires_grad_()
        t0 = torch.as_tensor(probe.t0, dtype=torch.float64, device=y0.device).detach()
        # Nodes are numbered as they are made: those made before this one are not of the call.
        first = torch.ones((), requires_grad=True).neg().grad_fn
        assert first is not None
        found = [probe.evaluate(t0, y0)]
        if isinstance(probe, SDEProblem):
            found.append(probe.diffusion(t0, y0, probe.cond))
    roots = [value.grad_fn for value in found if value.grad_fn is not None]
    return _walk(roots, first._sequence_nr(), y0)  # type: ignore[attr-defined]


def _walk(roots: list[Node], first: int, y0: Tensor) -> _Used:
    leaves: dict[int, Tensor] = {}
    edges: dict[tuple[int, int], tuple[Node, int]] = {}
    seen: set[Node] = set()
    pending = [(root, 0) for root in roots]
    while pending:
        node, output = pending.pop()
        variable = getattr(node, "variable", None)
        if variable is not None:
            if variable is not y0:
                leaves[id(variable)] = variable
        elif node._sequence_nr() < first:  # type: ignore[attr-defined]
            edges[id(node), output] = (node, output)
        elif node not in seen:
            seen.add(node)
            pending.extend((following, index) for following, index in node.next_functions if following is not None)
    return _Used(tuple(leaves.values()), tuple(edges.values()))


def _match(
    used: _Used, named: Sequence[Tensor], held: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The parameters, and those of them that the call used."""
    by_edge = {_edge(tensor): tensor for tensor in [*held, *named] if not tensor.is_leaf}
    edges = dict.fromkeys([*used.edges, *(_edge(tensor) for tensor in named if not tensor.is_leaf)])
    found = {id(leaf): leaf for leaf in used.leaves}
    lost = 0
    for key in edges:
        tensor = by_edge.get(key)
        if tensor is None:
            lost += 1
        else:
            found[id(tensor)] = tensor
    if lost:
        raise ValueError(
            f"the field uses {lost} tensor(s) that require grad and were computed outside of it; hand them over in "
            "cond, or name them in parameters=, so that their gradient is not lost"
        )
    behind = {id(leaf) for leaf in _ancestors(edges)}
    both = [leaf for leaf in used.leaves if id(leaf) in behind]
    if both:
        raise ValueError(
            f"the field uses a parameter of shape {tuple(both[0].shape)} and also a tensor computed from it outside of "
            "the field; hand that tensor over in cond"
        )
    used_tensors = tuple(found.values())
    for tensor in [*named, *held]:
        if tensor.is_leaf and id(tensor) not in behind:
            found.setdefault(id(tensor), tensor)
    return tuple(found.values()), used_tensors


def _edge(tensor: Tensor) -> tuple[Node, int]:
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _ancestors(edges: Iterable[tuple[Node, int]]) -> Iterator[Tensor]:
    seen: set[Node] = set()
    pending = [node for node, _ in edges]
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable
        pending.extend(following for following, _ in node.next_functions if following is not None)


_NOT_HELD = {"t0", "t1", "cond", *(name for names in _STARTS for name in names)}


def _held(problem: AbstractProblem) -> Iterator[Tensor]:
    if not dataclasses.is_dataclass(problem):
        return
    seen: set[int] = set()
    for field in dataclasses.fields(problem):
        if field.name not in _NOT_HELD:
            yield from _search(getattr(problem, field.name), seen, 0)


def _search(value: Any, seen: set[int], depth: int) -> Iterator[Tensor]:
    """Tensors that require grad, in whatever a callable holds."""
    if value is None or isinstance(value, _PLAIN) or id(value) in seen or depth > _DEPTH:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if value.requires_grad:
            yield value
        return
    for part in _parts(value):
        yield from _search(part, seen, depth + 1)


def _parts(value: Any) -> list[Any]:
    if isinstance(value, nn.Module):
        # Not every attribute: one of them may be the trainer, and lead anywhere.
        made = (held for module in value.modules() for held in vars(module).values())
        return [*value.parameters(), *(held for held in made if isinstance(held, Tensor))]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, types.FunctionType):
        names = (value.__globals__.get(name) for name in value.__code__.co_names)
        outside = [held for held in names if isinstance(held, Tensor | nn.Module)]
        return [*_cells(value), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *outside]
    if isinstance(value, dict | list | tuple | set | frozenset):
        inside = value.values() if isinstance(value, dict) else value
        return list(inside) if len(value) <= _LONGEST else []
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if isinstance(name, str)]
    held = [getattr(value, name) for name in slots if hasattr(value, name)]
    return [*vars(value).values(), *held] if hasattr(value, "__dict__") else held


def _cells(function: types.FunctionType) -> list[Any]:
    held = []
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:  # A name that the enclosing function has not bound yet.
            continue
    return held
