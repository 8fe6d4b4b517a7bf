"""Trial steps compiled as a whole: field, stages, error norm, verdict and the merge of what is taken, in one graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from isocline.solvers.columns import SplitColumns
from isocline.solvers.controller import AbstractAdaptiveController
from isocline.solvers.inside import InsideSteps
from isocline.solvers.ledger import RUNNING
from isocline.solvers.problem import AbstractProblem, ODEProblem, VectorField
from isocline.solvers.rows import map_tensors
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.trial import Block, Clocks, Trial, merged, stuck, try_step

__all__ = ["BLOCK", "CompiledStep"]

BLOCK = 4
"""Trial steps in one compiled call, where nothing is to be done between them."""
_FOR_PROCESSORS = {"post_grad_custom_pre_pass": SplitColumns()}


class CompiledStep:
    """Compiles the whole trial step, the vector field included, and keeps what it compiled.

    ``step = CompiledStep()`` and ``solve(problem, Tsit5(), controller, compiled=step)``: the first solve compiles, for
    seconds to a minute; later ones with the same field, stepper, settings of the controller and data types do not,
    whatever their batch size. The size of the batch is a symbol in the compiled code, so that samples may leave
    the batch. Results equal those of the plain step up to rounding.

    Where only the end is asked for, without events, stops and gradients, one call makes four trial steps: what a call
    costs whatever the batch is shared by four, and compiling takes longer. On a CPU and without gradients, states of up
    to four components are computed component by component, each a vector over the batch.

    For `ODEProblem` under per-sample control. Python code in the field runs only while compiling, so that side effects
    (counters, prints) are not repeated.

    Args:
        backend: of `torch.compile`.
        options: options of that backend.
    """

    fewest = 2
    """A batch of one is compiled for itself; a batch that shrinks keeps two rows, lest it is compiled again."""

    def __init__(self, backend: str = "inductor", options: dict[str, Any] | None = None) -> None:
        self._backend, self._options = backend, options
        self._known: dict[tuple[Any, ...], Callable[..., Any]] = {}

    @property
    def compilations(self) -> int:
        """How many combinations of field, stepper and settings were met."""
        return len(self._known)

    def attempt(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractAdaptiveController,
        wants_dense: bool,
    ) -> Callable[[Clocks, Tensor, Any], Trial]:
        """`isocline.solvers.trial.try_step` of clocks, stops and ``cond``, compiled; it merges what is taken as well.

        Raises:
            TypeError: if the problem is no `ODEProblem`.
        """
        return self._compiled(problem, stepper, controller, (wants_dense,), _whole_step)

    def block(
        self, problem: AbstractProblem, stepper: AbstractStepper, controller: AbstractAdaptiveController
    ) -> Callable[[Clocks, Tensor, Any], Block]:
        """`BLOCK` trial steps of clocks, or as many as the second argument says if that is less, and ``cond``.

        Raises:
            TypeError: if the problem is no `ODEProblem`.
        """
        return self._compiled(problem, stepper, controller, (), _whole_block)

    def _compiled(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractAdaptiveController,
        flags: tuple[bool, ...],
        make: Callable[..., Callable[..., Any]],
    ) -> Callable[..., Any]:
        if not isinstance(problem, ODEProblem):
            raise TypeError(f"compiled= is for ODEProblem, not {type(problem).__name__}; leave it out")
        y0 = problem.y0
        tools = (problem.field, problem.jac, _settings(stepper), _settings(controller))
        key = (*tools, y0.dtype, y0.shape[1:], len(y0) == 1, make, flags, torch.is_grad_enabled())
        known = self._known.get(key)
        if known is None:
            step = make(problem.field, problem.jac, stepper, controller, *flags)
            options = self._options
            if self._backend == "inductor" and y0.device.type == "cpu" and not torch.is_grad_enabled():
                options = {**_FOR_PROCESSORS, **(options or {})}
            # Without isolation, many fields that share this code would soon reach the limit on compilations.
            compiler: Any = torch.compile
            compiled = compiler(step, fullgraph=True, backend=self._backend, options=options, isolate_recompiles=True)
            known = self._known[key] = _Marking(compiled)
        return known


class _Marking:
    """Says at the first call which sizes vary; a batch of one is compiled for itself."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call, self._is_first = call, True

    def __call__(self, now: Clocks, stop: Tensor, cond: Any) -> Any:
        if self._is_first and len(now.t) > 1:
            map_tensors(_mark, (now, stop, cond))
        self._is_first = False
        return self._call(now, stop, cond)


def _mark(value: Tensor) -> Tensor:
    torch._dynamo.maybe_mark_dynamic(value, 0)
    return value


def _whole_step(
    field: VectorField,
    jac: VectorField | None,
    stepper: AbstractStepper,
    controller: AbstractAdaptiveController,
    wants_dense: bool,
) -> Callable[[Clocks, Tensor, Any], Trial]:
    def step(now: Clocks, stop: Tensor, cond: Any) -> Trial:
        problem = ODEProblem(field, now.y, 0.0, 1.0, cond, is_separable=False, jac=jac)
        trial = try_step(problem, stepper, controller, now, stop)
        result = trial.result
        if not wants_dense:
            result = result._replace(dense=None)
        return merged(trial._replace(result=result), now, controller.dt_min)

    return step


def _whole_block(
    field: VectorField, jac: VectorField | None, stepper: AbstractStepper, controller: AbstractAdaptiveController
) -> Callable[[Clocks, Tensor, Any], Block]:
    step = _whole_step(field, jac, stepper, controller, wants_dense=False)

    def block(now: Clocks, number: Tensor, cond: Any) -> Block:
        tried = accepted = torch.zeros_like(now.t, dtype=torch.int64)
        totals: list[int | Tensor] = [0, 0, 0]
        alive = now.alive
        for index in range(BLOCK):
            before = now._replace(alive=now.alive & (number > index))
            trial = step(before, now.t1, cond)
            assert trial.moved is not None
            tried, accepted = tried + before.alive, accepted + trial.accept
            result = trial.result
            for kind, work in enumerate((result.nfe, result.jacobians, result.factorizations)):
                is_own = isinstance(work, Tensor)
                totals[kind] = totals[kind] + torch.where(before.alive, work, 0) if is_own else work
            now = trial.moved._replace(alive=trial.moved.alive | (now.alive & ~before.alive))
        # Looked for at the end only, as the plain loop does it.
        fails, reason = stuck(trial, trial.accept, before, now.alive & (number >= BLOCK), controller.dt_min)
        now = now._replace(alive=now.alive & ~fails, t1=torch.where(fails, now.t, now.t1))
        tallies = torch.stack([tried, accepted, torch.where(fails, reason, RUNNING)])
        return Block(now, tallies, torch.stack([(alive & ~now.alive).sum(), fails.sum()]), tuple(totals))

    return block


def _settings(tool: Any) -> Any:
    """What tells a stepper or controller from another one that does the same."""
    if dataclasses.is_dataclass(tool):
        values = tuple(getattr(tool, field.name) for field in dataclasses.fields(tool))
        return type(tool), tuple(value if isinstance(value, Tensor) else _hashable(value) for value in values)
    if isinstance(tool, InsideSteps):
        jumps = None if tool.jumps is None else tuple(tool.jumps.tolist())
        return InsideSteps, _settings(tool.inner), jumps, tool.dtype
    return tool if vars(tool) else type(tool)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
