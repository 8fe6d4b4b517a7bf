"""What explicit and stiff solvers cost at equal error: tolerances are swept, errors measured, costs read off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.cost_curve import CostAt, CostCurve, SolverCandidate
from isocline.metrics.uncertainty import Estimate
from isocline.solvers import (
    RK4,
    AbstractStepper,
    AdamsBashforth,
    Auto,
    Bosh3,
    ConstantSteps,
    Dopri5,
    Dopri8,
    Euler,
    Heun,
    KenCarp4,
    Kvaerno3,
    Kvaerno5,
    ODEProblem,
    PIDController,
    RadauIIA5,
    Rodas4,
    Rodas5P,
    Solution,
    Tsit5,
    solve,
    solve_strict,
)
from isocline.solvers.controller import AbstractController
from isocline.solvers.jacobian import Derivative, Linearizer

__all__ = ["CANDIDATES", "Advantage", "CostRow", "SolverCosts", "SolverSweep", "measure_solver_costs"]

Progress = Callable[[str], None]

CANDIDATES = (
    SolverCandidate("bosh3", Bosh3()),
    SolverCandidate("dopri5", Dopri5()),
    SolverCandidate("tsit5", Tsit5()),
    SolverCandidate("dopri8", Dopri8()),
    SolverCandidate("auto", Auto()),
    SolverCandidate("rodas4", Rodas4()),
    SolverCandidate("rodas5p", Rodas5P()),
    SolverCandidate("kvaerno3", Kvaerno3()),
    SolverCandidate("kvaerno5", Kvaerno5()),
    SolverCandidate("kencarp4", KenCarp4()),
    SolverCandidate("euler", Euler(), adaptive=False),
    SolverCandidate("heun", Heun(), adaptive=False),
    SolverCandidate("rk4", RK4(), adaptive=False),
    SolverCandidate("ab4", AdamsBashforth(4), adaptive=False),
    SolverCandidate("radau5", RadauIIA5(), adaptive=False),
)


@dataclass(frozen=True)
class SolverSweep:
    """What is run.

    Attributes:
        candidates: the solvers.
        tolerances: relative tolerances of adaptive ones, from loose to tight.
        steps: numbers of steps of the others, from few to many.
        levels: errors at which costs are compared.
        absolute: absolute tolerance as a share of the relative one, a number or a value per component.
        scale: size of each component, by which errors are divided; None divides by the solution's root mean square.
        max_steps: that a sample may use, rejected ones included.
        largest_dense: most components of a state for which solvers with Jacobians are run.

    Raises:
        ValueError: if a list is empty or a number not positive.
    """

    candidates: Sequence[SolverCandidate] = CANDIDATES
    tolerances: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
    steps: Sequence[int] = (2, 4, 8, 16, 32, 64, 128)
    levels: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4)
    absolute: float | Tensor = 1e-2
    scale: Tensor | None = field(default=None, repr=False)
    max_steps: int = 5_000
    largest_dense: int = 256

    def __post_init__(self) -> None:
        for key in ("candidates", "tolerances", "steps", "levels"):
            if not len(getattr(self, key)):
                raise ValueError(f"{key} is empty; name at least one")
        for key in ("tolerances", "steps", "levels"):
            if min(getattr(self, key)) <= 0:
                raise ValueError(f"{key}={getattr(self, key)}; expected positive numbers")
        if self.max_steps < 1 or self.largest_dense < 0:
            raise ValueError(f"max_steps={self.max_steps}, largest_dense={self.largest_dense}; expected at least 1, 0")


class CostRow(NamedTuple):
    """One solver at one error.

    Attributes:
        solver: its name.
        kind: ``explicit``, ``implicit`` or ``switching``.
        level: the error.
        cost: what it takes there; None where not every sample reached the error.
        note: why there is no cost, or that it is an upper bound; empty otherwise.
    """

    solver: str
    kind: str
    level: float
    cost: CostAt | None
    note: str


class Advantage(NamedTuple):
    """The cheapest explicit solver against the cheapest that asks for Jacobians from the start.

    Attributes:
        level: the error.
        explicit: name of the former.
        implicit: name of the latter.
        ratio: work of the latter over that of the former, geometric mean over samples: above 1 explicit wins.
        low: lower end of the 95 % interval; None for one sample.
        high: upper end.
    """

    level: float
    explicit: str
    implicit: str
    ratio: float
    low: float | None
    high: float | None

    @property
    def winner(self) -> str:
        """The cheaper of both."""
        return self.explicit if self.ratio >= 1 else self.implicit


@dataclass(frozen=True, eq=False)
class SolverCosts:
    """Costs of all solvers on one problem.

    Attributes:
        curves: of the solvers that were run.
        left_out: names of the others, with the reason.
        levels: errors at which costs are compared.
    """

    curves: tuple[CostCurve, ...]
    left_out: tuple[tuple[SolverCandidate, str], ...]
    levels: tuple[float, ...]

    def curve(self, name: str) -> CostCurve:
        """The curve of one solver.

        Raises:
            ValueError: if it was not run.
        """
        for curve in self.curves:
            if curve.candidate.name == name:
                return curve
        known = ", ".join(curve.candidate.name for curve in self.curves)
        raise ValueError(f"name={name!r} was not run; there are {known}")

    def rows(self) -> list[CostRow]:
        """One row per solver and level."""
        found = []
        for curve in self.curves:
            for level in self.levels:
                cost = curve.at(level)
                note = "not reached by all samples" if cost is None else "at most" if cost.is_bound else ""
                found.append(CostRow(curve.candidate.name, curve.candidate.kind, level, cost, note))
        for candidate, reason in self.left_out:
            found += [CostRow(candidate.name, candidate.kind, level, None, reason) for level in self.levels]
        return found

    def best(self, level: float, kinds: Sequence[str] = ("explicit", "implicit", "switching")) -> str | None:
        """The solver of least mean work at an error among some kinds; None where none reaches it."""
        costs = {curve.candidate.name: curve.at(level) for curve in self.curves if curve.candidate.kind in kinds}
        reached = {name: cost.work.mean for name, cost in costs.items() if cost is not None}
        return min(reached, key=lambda name: reached[name]) if reached else None

    def advantage(self, level: float) -> Advantage | None:
        """Explicit against implicit at an error, paired by sample; None where either has no solver that gets there."""
        explicit, implicit = self.best(level, ("explicit",)), self.best(level, ("implicit",))
        if explicit is None or implicit is None:
            return None
        logs = (self.curve(implicit).works(level) / self.curve(explicit).works(level)).log()
        estimate = Estimate.from_values(logs.tolist())
        low, high = estimate.interval()
        known = math.isfinite(low)
        return Advantage(
            level,
            explicit,
            implicit,
            math.exp(estimate.mean),
            math.exp(low) if known else None,
            math.exp(high) if known else None,
        )


def measure_solver_costs(
    problem: ODEProblem,
    sweep: SolverSweep,
    *,
    exact: Tensor | None = None,
    progress: Progress = lambda _: None,
) -> SolverCosts:
    """Run every solver at every tolerance, or number of steps, and measure its error at the end of the span.

    A field in float64 on states in float64 measures the solvers alone; in float32 errors below about 1e-5 are rounding.

    Args:
        problem: what is solved.
        sweep: by what, and how.
        exact: an accurate end, of the start's shape; None finds it by `Dopri8` at a relative tolerance of 1e-10 in
            float64 (1e-6 in float32), switching to `Rodas5P` where states are small enough.
        progress: told what has just been measured.

    Raises:
        SolverError: if the accurate solve fails.
    """
    size = problem.y0[0].numel()
    with torch.no_grad():
        truth = _reference(problem, sweep, size) if exact is None else exact
        directions = _extra_directions(problem, size)
        curves: list[CostCurve] = []
        left_out: list[tuple[SolverCandidate, str]] = []
        for candidate in sweep.candidates:
            if candidate.needs_jacobians and size > sweep.largest_dense:
                reason = f"not run: {size} components, dense Jacobians up to {sweep.largest_dense}"
                left_out.append((candidate, reason))
                continue
            curves.append(_sweep_one(problem, candidate, sweep, truth, directions))
            progress(f"{candidate.name}: errors {', '.join(f'{error:.1e}' for error in curves[-1].errors.mean(1))}")
    return SolverCosts(tuple(curves), tuple(left_out), tuple(sweep.levels))


def _sweep_one(
    problem: ODEProblem, candidate: SolverCandidate, sweep: SolverSweep, truth: Tensor, directions: int
) -> CostCurve:
    settings = sweep.tolerances if candidate.adaptive else sweep.steps
    errors, solutions = [], []
    for setting in settings:
        controller: AbstractController
        if candidate.adaptive:
            controller = PIDController(rtol=setting, atol=setting * sweep.absolute, max_steps=sweep.max_steps)
        else:
            controller = ConstantSteps(int(setting))
        solution = solve(problem, candidate.stepper, controller)
        errors.append(_errors(solution, truth, sweep.scale))
        solutions.append(solution.stats)
    nfe, jacobians, factorizations = (
        torch.stack([getattr(stats, key) for stats in solutions]).double().cpu()
        for key in ("nfe", "jacobians", "factorizations")
    )
    return CostCurve(
        candidate,
        tuple(float(setting) for setting in settings),
        torch.stack(errors).cpu(),
        nfe,
        jacobians,
        factorizations,
        nfe + directions * jacobians,
    )


def _errors(solution: Solution, truth: Tensor, scale: Tensor | None) -> Tensor:
    """Relative errors at the end, float64, shape (B,); infinite for samples that failed."""
    exact = truth.double().flatten(1)
    apart = solution.final.double().flatten(1) - exact
    if scale is not None:
        error = (apart / scale.double().flatten()).square().mean(1).sqrt()
    else:
        size = exact.square().mean(1).sqrt()
        error = apart.square().mean(1).sqrt() / torch.where(size > 0, size, 1.0)
    return torch.where(solution.succeeded & error.isfinite(), error, math.inf)


def _reference(problem: ODEProblem, sweep: SolverSweep, size: int) -> Tensor:
    rtol = 1e-10 if problem.y0.dtype == torch.float64 else 1e-6
    stepper: AbstractStepper = Auto(Dopri8(), Rodas5P()) if size <= sweep.largest_dense else Dopri8()
    controller = PIDController(rtol=rtol, atol=rtol * sweep.absolute, max_steps=50_000)
    return solve_strict(problem, stepper, controller).final


def _extra_directions(problem: ODEProblem, size: int) -> int:
    """Evaluations that a Jacobian is worth and the solver's count leaves out.

    Dual numbers carry every direction in one call, which is counted as one evaluation; the other ways count each.
    """
    t0 = torch.as_tensor(problem.t0, dtype=torch.float64, device=problem.y0.device)
    linearizer, _ = Linearizer.probe(problem, t0, problem.y0, rate=False)
    return size if linearizer.derivative in (Derivative.DUAL, Derivative.GIVEN) else 0
