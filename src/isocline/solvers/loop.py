"""The integration loop: steps, acceptance, saving, statistics and status, for every stepper.

On a grid the host never waits for the device. Under adaptive control each sample has its own time and step; samples
that are done leave the batch, so that they cost nothing more.
"""

from __future__ import annotations

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.adaptive import solve_adaptive
from isocline.solvers.controller import AbstractAdaptiveController, AbstractController, AbstractGrid
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.saving import GridRecorder
from isocline.solvers.solution import SaveAt, Solution, Statistics, Status
from isocline.solvers.stepper import AbstractStepper

__all__ = ["solve", "solve_strict"]

_END = SaveAt()


def solve(
    problem: AbstractProblem, stepper: AbstractStepper, controller: AbstractController, saveat: SaveAt = _END
) -> Solution:
    """Integrate a problem from its t0 to its t1, in either direction of time.

    Differentiable by backpropagation through the steps (with respect to y0, cond and the field's parameters); step
    sizes are constants to it. A numeric failure is a status of its sample and leaves the other samples untouched.

    Args:
        problem: what to integrate.
        stepper: the method.
        controller: the steps.
        saveat: the states to keep; the end by default.

    Returns:
        Solution with ``ys`` of shape (K, B, *event), and statistics and status per sample.

    Raises:
        ValueError: if controller and stepper do not go together, or a save time lies outside the span.
        TypeError: if the controller is of neither kind.
    """
    if isinstance(controller, AbstractGrid):
        return _solve_on_grid(problem, stepper, controller, saveat, watch=False)
    if isinstance(controller, AbstractAdaptiveController):
        return solve_adaptive(problem, stepper, controller, saveat)
    raise TypeError(f"controller is a {type(controller).__name__}; expected FixedGrid, ConstantSteps or PIDController")


def solve_strict(
    problem: AbstractProblem, stepper: AbstractStepper, controller: AbstractController, saveat: SaveAt = _END
) -> Solution:
    """As `solve`, but a sample that fails is an exception that names sample, time, step and cure.

    On a grid every step is checked (on the device, without waiting for it), which costs a little time.

    Raises:
        SolverError: if any sample does not reach the end of its span.
        ValueError: as `solve`.
        TypeError: as `solve`.
    """
    if isinstance(controller, AbstractGrid):
        return _solve_on_grid(problem, stepper, controller, saveat, watch=True).raise_on_failure()
    return solve(problem, stepper, controller, saveat).raise_on_failure()


def _solve_on_grid(
    problem: AbstractProblem, stepper: AbstractStepper, controller: AbstractGrid, saveat: SaveAt, watch: bool
) -> Solution:
    y = problem.start
    grid = controller.times(problem)
    recorder = GridRecorder(saveat, grid)
    device_grid = grid.to(y.device)
    times = device_grid.unbind(0)
    nfe: int | Tensor = stepper.init_nfe
    verdict = _GridVerdict(y, len(times) - 1)
    carry = stepper.init(problem, times[0], y)
    recorder.point(0, y)
    for index in range(1, len(times)):
        result = stepper.step(problem, times[index - 1], times[index], y, carry)
        y, carry = result.y1, result.carry
        nfe = nfe + result.nfe + recorder.step(index, result)
        recorder.point(index, y)
        if result.failed is not None:
            verdict.fail(result.failed, Status.STEP_FAILED, index)
        if watch:
            verdict.fail(~_finite(y), Status.NON_FINITE, index)
    verdict.fail(~_finite(y), Status.NON_FINITE, len(times) - 1)
    return verdict.solution(recorder, device_grid, nfe)


class _GridVerdict:
    """First failure of every sample, kept on the device."""

    def __init__(self, y: Tensor, steps: int) -> None:
        self._status = torch.zeros(len(y), dtype=torch.int64, device=y.device)
        self._step = torch.full_like(self._status, steps)
        self._steps = steps

    def fail(self, failed: Tensor, status: Status, index: int) -> None:
        first = failed & (self._status == 0)
        self._status = torch.where(first, int(status), self._status)
        self._step = torch.where(first, index, self._step)

    def solution(self, recorder: GridRecorder, grid: Tensor, nfe: int | Tensor) -> Solution:
        failed = self._status != 0
        accepted = torch.where(failed, self._step - 1, self._steps)
        stopped = grid[self._step] if grid.ndim == 1 else grid.gather(0, self._step[None]).squeeze(0)
        nfe = nfe if isinstance(nfe, Tensor) else torch.full_like(self._status, nfe)
        stats = Statistics(nfe, accepted, torch.zeros_like(accepted))
        return Solution(recorder.ts.to(grid.device), recorder.states(), stats, self._status, stopped)


def _finite(y: Tensor) -> Tensor:
    if not (y.is_floating_point() or y.is_complex()):
        return expand_like(torch.ones((), dtype=torch.bool, device=y.device), y).expand(len(y))
    return y.detach().isfinite().reshape(len(y), -1).all(1)
