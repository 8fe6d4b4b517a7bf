"""Fixed points followed through time: over a grid of times, or along the curve and round its folds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.augmented import AugmentedProblem
from isocline.dynamics.branch import Branch, BranchEnd
from isocline.dynamics.classify import Kind, classify, point_spectrum
from isocline.dynamics.newton_krylov import NewtonKrylov
from isocline.dynamics.root_finder import AbstractRootFinder, Roots
from isocline.dynamics.system import AbstractSystem, check_states

__all__ = ["BranchFollower", "CurvePoint", "as_branch", "follow_times"]


def follow_times(
    system: AbstractSystem, points: Tensor, times: Sequence[float], finder: AbstractRootFinder | None = None
) -> tuple[Roots, ...]:
    """Natural continuation of many fixed points at once: each time's roots are the next time's starts.

    A point that is lost (its branch turned back) stays where it was and is tried again at the next time; its status
    says so at every time.

    Args:
        system: a `Flow` or `IteratedMap`; its own time does not count.
        points: at or near fixed points at the first time, shape (P, *event).
        times: in order.
        finder: `NewtonKrylov` by default.

    Returns:
        For every time, in order, the roots.

    Raises:
        TypeError, ValueError: if the points are no batch of finite states, or there is no time.
    """
    check_states(points, "points")
    if not len(times):
        raise ValueError("times is empty; give at least one")
    found: list[Roots] = []
    for t in times:
        roots = (finder or NewtonKrylov()).find(system.at_time(float(t)), points)
        kept = roots.converged.reshape(-1, *[1] * (points.ndim - 1))
        points = torch.where(kept, roots.points, points)
        found.append(roots)
    return tuple(found)


class CurvePoint(NamedTuple):
    """A point of a branch in scaled unknowns.

    Attributes:
        u: shape (1, n + 1).
        tangent: unit vector along the branch, likewise.
        residual: root mean square.
        growths: growths of the modes, falling, float64, shape (k,).
        values: their eigenvalues, likewise.
        rising: number of modes known to grow.
        kind: of the fixed point.
        determinant: sign and logarithm of that of the bordered Jacobian, None for large n.
        evaluations: of the law, to find it.
        products: of its Jacobian.
    """

    u: Tensor
    tangent: Tensor
    residual: float
    growths: Tensor
    values: Tensor
    rising: int
    kind: Kind
    determinant: tuple[float, float] | None
    evaluations: int
    products: int


@dataclass(frozen=True)
class BranchFollower:
    """Pseudo-arclength continuation: predict along the tangent, correct in the plane across it.

    The curve is parametrised by its length in scaled unknowns (`isocline.dynamics.augmented.AugmentedProblem`), so that
    it may turn back in time. A step is halved if the corrector fails or the tangent turns by more than ``turn``, and
    grows where few iterations were needed.

    Source: Keller (1977); Govaerts, Numerical Methods for Bifurcations of Dynamical Equilibria (2000), chapter 2.

    Attributes:
        step: first step along the curve; the whole span of times is 1, as is the ``state_scale``.
        step_min: smallest.
        step_max: largest.
        turn: smallest cosine between successive tangents.
        most_steps: along one branch.
        state_scale: size of an entry's changes.
        finder: the corrector; few iterations, so that a bad guess is noticed.
        spectrum: products per spectrum; see `isocline.dynamics.classify.point_spectrum`.

    Raises:
        ValueError: if a value is out of range.
    """

    step: float = 0.01
    step_min: float = 1e-5
    step_max: float = 0.05
    turn: float = 0.9
    most_steps: int = 500
    state_scale: float = 1.0
    finder: AbstractRootFinder = dataclasses.field(default_factory=lambda: NewtonKrylov(iterations=8, forcing=1e-3))
    spectrum: int | None = None

    def __post_init__(self) -> None:
        in_range = {
            "step_min": self.step_min > 0,
            "step": self.step_min <= self.step,
            "step_max": self.step <= self.step_max,
            "turn": 0 < self.turn < 1,
            "most_steps": self.most_steps >= 1,
            "state_scale": self.state_scale > 0,
        }
        for key, ok in in_range.items():
            if not ok:
                raise ValueError(f"{key}={getattr(self, key)} is out of range; see BranchFollower's docstring")

    def problem(self, system: AbstractSystem, point: Tensor, t0: float, t1: float) -> AugmentedProblem:
        """The augmented problem for one state (1, *event).

        Raises:
            TypeError, ValueError: if the point is no finite state, there are several, or the times are equal.
        """
        check_states(point, "point")
        if len(point) != 1 or t0 == t1:
            raise ValueError(f"{len(point)} points from t0={t0} to t1={t1}; expected one point and two times")
        return AugmentedProblem(system, point.shape[1:], self.state_scale, abs(t1 - t0))

    def judge(self, problem: AugmentedProblem, roots: Roots, normal: Tensor, generator: torch.Generator) -> CurvePoint:
        """Tangent, spectrum and determinant at a corrected point."""
        u = roots.points
        tangent = problem.tangent(u, normal)
        x, t = problem.split(u)
        frozen = problem.system.at_time(float(t))
        spectrum = point_spectrum(frozen, x, generator, steps=self.spectrum)
        verdict = classify(frozen, spectrum, x.dtype, problem.size)
        growths = frozen.growth(spectrum.values)[0]
        order = growths.argsort(descending=True, stable=True)
        return CurvePoint(
            u,
            tangent,
            float(roots.residuals),
            growths[order],
            spectrum.values[0, order],
            int(verdict.index),
            verdict.kinds[0],
            problem.log_determinant(u, tangent),
            int(roots.evaluations),
            int(roots.products) + spectrum.values.shape[1],
        )

    def first(
        self, problem: AugmentedProblem, point: Tensor, t0: float, t1: float, generator: torch.Generator
    ) -> CurvePoint | None:
        """The fixed point at ``t0`` near a state (1, *event), its tangent towards ``t1``; None if there is none."""
        guess = problem.join(point, t0)
        normal = torch.zeros_like(guess)
        normal[:, -1] = 1.0 if t1 > t0 else -1.0
        roots = problem.correct(guess, normal, self.finder)
        return self.judge(problem, roots, normal, generator) if bool(roots.converged) else None

    def follow(
        self, problem: AugmentedProblem, start: CurvePoint, t0: float, t1: float, generator: torch.Generator
    ) -> tuple[list[CurvePoint], BranchEnd]:
        """Points from the start until the curve leaves the times between ``t0`` and ``t1``, and why it ends."""
        curve, step = [start], self.step
        low, high = sorted((t0 / problem.time_scale, t1 / problem.time_scale))
        for _ in range(self.most_steps):
            here = curve[-1]
            fresh, fast = self.advance(problem, here, step, generator)
            while fresh is None:
                step /= 2
                if step < self.step_min:
                    return curve, BranchEnd.STUCK
                fresh, fast = self.advance(problem, here, step, generator)
            time = float(fresh.u[0, -1])
            if low <= time <= high:
                curve.append(fresh)
                step = min(self.step_max, 1.5 * step) if fast else step
                continue
            edge = high if time > high else low
            last = self.land(problem, here, fresh, edge, generator)
            if last is not None:
                curve.append(last)
            reached = abs(edge - t1 / problem.time_scale) < abs(edge - t0 / problem.time_scale)
            return curve, BranchEnd.REACHED if reached else BranchEnd.RETURNED
        return curve, BranchEnd.MAX_STEPS

    def advance(
        self, problem: AugmentedProblem, here: CurvePoint, step: float, generator: torch.Generator
    ) -> tuple[CurvePoint | None, bool]:
        """The next point, or None if the step is too long; and whether it was easily found."""
        roots = problem.correct(here.u + step * here.tangent, here.tangent, self.finder)
        if not bool(roots.converged):
            return None, False
        fresh = self.judge(problem, roots, here.tangent, generator)
        if float((fresh.tangent * here.tangent).sum()) < self.turn:
            return None, False
        return fresh, int(roots.iterations) <= 3

    def land(
        self,
        problem: AugmentedProblem,
        before: CurvePoint,
        after: CurvePoint,
        edge: float,
        generator: torch.Generator,
    ) -> CurvePoint | None:
        """The point at a given scaled time between two points of the curve."""
        share = (edge - float(before.u[0, -1])) / float(after.u[0, -1] - before.u[0, -1])
        guess = before.u + share * (after.u - before.u)
        guess[:, -1] = edge
        normal = torch.zeros_like(guess)
        normal[:, -1] = 1.0 if float(after.tangent[0, -1]) > 0 else -1.0
        roots = problem.correct(guess, normal, self.finder)
        return self.judge(problem, roots, normal, generator) if bool(roots.converged) else None


def as_branch(problem: AugmentedProblem, curve: list[CurvePoint], end: BranchEnd) -> Branch:
    """The curve in the units of states and times, without events."""
    points, times = problem.split(torch.cat([one.u for one in curve]))
    return Branch(
        times,
        points,
        torch.tensor([one.residual for one in curve], dtype=torch.float64),
        torch.stack([one.growths[0] for one in curve]),
        torch.tensor([one.rising for one in curve]),
        tuple(one.kind for one in curve),
        (),
        end,
        None,
        sum(one.evaluations for one in curve),
        sum(one.products for one in curve),
    )
