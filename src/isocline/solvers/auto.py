"""Automatic choice between an explicit and a stiff method, for each sample by itself."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from isocline.solvers.dense import AbstractInterpolant, StageInterpolant
from isocline.solvers.explicit import AbstractRungeKutta, Tsit5
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.rosenbrock import Rodas5P
from isocline.solvers.rows import map_tensors, select_rows
from isocline.solvers.stepper import AbstractStepper, StepResult
from isocline.solvers.stiff import AbstractStiffStepper
from isocline.solvers.tableau import Tableau

__all__ = ["Auto"]

# Modes of a sample. One that has just changed over has no carry yet for the method that it goes on with.
_NONSTIFF, _TO_NONSTIFF, _STIFF, _TO_STIFF = range(4)


class AutoCarry(NamedTuple):
    """What a step of `Auto` hands to the next.

    Attributes:
        nonstiff: carry of the explicit method; stale for samples in stiff mode.
        stiff: carry of the stiff method; stale for the others.
        mode: int8, shape (B,).
        evidence: how often of late the other method would have been the better one, int8, shape (B,).
        split: the batch taken apart, kept as long as modes stay as they are.
    """

    nonstiff: Any
    stiff: Any
    mode: Tensor
    evidence: Tensor
    split: Split | None = None


class Auto(AbstractStepper):
    """Steps each sample by an explicit method until it turns out to be stiff, then by a stiff one, and back.

    An explicit step tells the stiffness by its last two stages, which lie at the same time: ``‖k_S - k_{S-1}‖ /
    ‖Y_S - Y_{S-1}‖`` estimates the modulus of the dominant eigenvalue. A sample is stiff if ``patience`` steps more
    than not have been as long as stability allows, ``h |λ| > 0.9 s`` with the real stability boundary s of the method.
    It is so no longer when as many steps of the stiff method have been shorter than half of that, by a bound of the
    Jacobian's spectral radius. Samples in different modes are stepped apart; where they cannot be, all are stiff when
    one is.

    Source: Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.2 (stiffness detection); Petzold,
    Automatic selection of methods for solving stiff and nonstiff systems (1983).
    """

    compiles = False

    def __init__(
        self,
        nonstiff: AbstractRungeKutta | None = None,
        stiff: AbstractStiffStepper | None = None,
        patience: int = 5,
    ) -> None:
        """Choose the methods.

        Args:
            nonstiff: `Tsit5` by default; needs an error estimate, and two last stages at the end of the step.
            stiff: `Rodas5P` by default.
            patience: steps of evidence before a sample changes over.

        Raises:
            ValueError: if ``nonstiff`` cannot tell stiffness, or ``patience`` is below one.
        """
        self._nonstiff = Tsit5() if nonstiff is None else nonstiff
        self._stiff = (Rodas5P() if stiff is None else stiff).measuring()
        if not 1 <= patience <= 100:
            raise ValueError(f"patience={patience}; expected 1 to 100 steps")
        self._patience = patience
        table = self._nonstiff.tableau
        last = len(table.c) - 1
        if table.error_order is None or last < 2 or table.c[last - 1] != 1 or table.c[last] != 1:
            raise ValueError(
                f"nonstiff={type(self._nonstiff).__name__} has no two stages at the end of its step, by which "
                "stiffness is told; take Tsit5, Dopri5 or Dopri8"
            )
        # Weights of h k_j in the distance between the last two stages.
        before = (*table.a[last - 1], 0.0)
        self._distance = tuple(a - other for a, other in zip(table.a[last], before, strict=True))
        self._boundary = real_stability_boundary(table)
        self.order = min(self._nonstiff.order, self._stiff.order)
        assert self._nonstiff.error_order is not None
        assert self._stiff.error_order is not None
        self.error_order = min(self._nonstiff.error_order, self._stiff.error_order)
        self.nfe_per_step = self._nonstiff.nfe_per_step
        self.init_nfe = self._nonstiff.init_nfe + self._stiff.init_nfe

    def for_tolerance(self, rtol: float, atol: float | Tensor) -> Self:
        """The same choice with methods adapted to these tolerances."""
        adapted = copy.copy(self)
        adapted._stiff = self._stiff.for_tolerance(rtol, atol)
        return adapted

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> AutoCarry:
        """The carries of both methods; every sample starts out nonstiff."""
        mode = torch.full((len(y0),), _NONSTIFF, dtype=torch.int8, device=y0.device)
        return AutoCarry(
            self._nonstiff.init(problem, t0, y0), self._stiff.init(problem, t0, y0), mode, torch.zeros_like(mode)
        )

    def initial_slope(self, carry: AutoCarry) -> Tensor | None:
        """The explicit method's, or else the stiff one's."""
        slope = self._nonstiff.initial_slope(carry.nonstiff)
        return self._stiff.initial_slope(carry.stiff) if slope is None else slope

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: AutoCarry) -> StepResult:
        """Advance every sample by the method of its mode; see the base class."""
        lowest, highest = (int(bound) for bound in torch.aminmax(carry.mode))
        if highest == _NONSTIFF:
            return self._step_nonstiff(problem, t0, t1, y0, carry)
        if lowest == _STIFF == highest:
            return self._step_stiff(problem, t0, t1, y0, carry)
        if not problem.separable and highest >= _STIFF:
            carry = carry._replace(mode=torch.where(carry.mode < _STIFF, _TO_STIFF, carry.mode))
        carry, extra = self._renew(problem, t0, y0, carry)
        stiff = carry.mode == _STIFF
        count = int(stiff.sum())
        if count == len(stiff):
            result = self._step_stiff(problem, t0, t1, y0, carry)
        elif count == 0:
            result = self._step_nonstiff(problem, t0, t1, y0, carry)
        else:
            result = self._step_apart(problem, t0, t1, y0, carry, stiff)
        return result if extra is None else result._replace(nfe=result.nfe + extra)

    def _step_nonstiff(
        self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: AutoCarry
    ) -> StepResult:
        """One explicit step of samples that are all in nonstiff mode."""
        result = self._nonstiff.step(problem, t0, t1, y0, carry.nonstiff)
        with torch.no_grad():
            over, evidence = self._weigh(self._is_limited(result), carry.evidence)
            if not problem.separable:
                over = over.any().expand_as(over)
            mode = over.to(torch.int8).mul_(_TO_STIFF)
        return self._ended(self._nonstiff, result, AutoCarry(result.carry, carry.stiff, mode, evidence, carry.split))

    def _step_stiff(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: AutoCarry) -> StepResult:
        """One step of samples that are all in stiff mode."""
        result = self._stiff.step(problem, t0, t1, y0, carry.stiff)
        with torch.no_grad():
            short = (t1 - t0).abs() * self._stiff.radius(result.carry) < 0.5 * self._boundary
            over, evidence = self._weigh(short, carry.evidence)
            if not problem.separable:
                over = over.all().expand_as(over)
            mode = _STIFF - over.to(torch.int8)
        return self._ended(self._stiff, result, AutoCarry(carry.nonstiff, result.carry, mode, evidence, carry.split))

    def _ended(self, stepper: AbstractStepper, result: StepResult, carry: AutoCarry) -> StepResult:
        order = result.error_order
        if order is None and stepper.error_order != self.error_order:
            order = torch.full_like(carry.mode, stepper.error_order or 0, dtype=torch.int64)
        return result._replace(carry=carry, error_order=order)

    def _weigh(self, sign: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
        """Who changes over, and the evidence that is kept."""
        evidence = torch.where(sign, evidence + 1, evidence - 1).clamp_(min=0)
        over = evidence >= self._patience
        return over, evidence.masked_fill_(over, 0)

    def _is_limited(self, result: StepResult) -> Tensor:
        """Samples whose step was as long as stability allows."""
        assert isinstance(result.dense, StageInterpolant)
        rises = _rises(result.dense)
        distance = rises[0] * self._distance[0]
        for weight, rise in zip(self._distance[1:], rises[1:], strict=False):
            if weight:
                distance = torch.add(distance, rise, alpha=weight)
        last = len(self._distance)
        return _square(rises[last] - rises[last - 1]) > _square(distance) * (0.9 * self._boundary) ** 2

    def _renew(
        self, problem: AbstractProblem, t0: Tensor, y0: Tensor, carry: AutoCarry
    ) -> tuple[AutoCarry, Tensor | None]:
        """Prepare the carries of samples that have just changed over, and count what that costs each of them."""
        carries, mode, extra = {_NONSTIFF: carry.nonstiff, _STIFF: carry.stiff}, carry.mode, None
        for target, stepper in ((_NONSTIFF, self._nonstiff), (_STIFF, self._stiff)):
            rows = torch.nonzero(carry.mode == target + 1).flatten()
            if not len(rows):
                continue
            if problem.separable:
                fresh = stepper.init(problem.at_rows(rows), *_at(rows, t0, y0))
            else:
                fresh = select_rows(stepper.init(problem, t0, y0), rows)
            carries[target] = _put(rows, fresh, carries[target])
            mode = mode.index_fill(0, rows, target)
            extra = torch.zeros_like(mode, dtype=torch.int64) if extra is None else extra
            extra[rows] = stepper.init_nfe
        return AutoCarry(carries[_NONSTIFF], carries[_STIFF], mode, carry.evidence, carry.split), extra

    def _step_apart(
        self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: AutoCarry, stiff: Tensor
    ) -> StepResult:
        """One step of samples in different modes."""
        split = carry.split
        if split is None or split.problem is not problem or not torch.equal(split.stiff, stiff):
            split = Split.of(problem, stiff)
        (easy, hard), (easy_rows, hard_rows) = split.parts, split.rows
        some, mode, evidence = _at(easy_rows, t0, t1, y0), carry.mode[easy_rows], carry.evidence[easy_rows]
        own = AutoCarry(select_rows(carry.nonstiff, easy_rows), None, mode, evidence)
        first = self._step_nonstiff(easy, some[0], some[1], some[2], own)
        some, mode, evidence = _at(hard_rows, t0, t1, y0), carry.mode[hard_rows], carry.evidence[hard_rows]
        own = AutoCarry(None, select_rows(carry.stiff, hard_rows), mode, evidence)
        second = self._step_stiff(hard, some[0], some[1], some[2], own)
        merged = AutoCarry(
            _put(easy_rows, first.carry.nonstiff, carry.nonstiff),
            _put(hard_rows, second.carry.stiff, carry.stiff),
            split.join(first.carry.mode, second.carry.mode),
            split.join(first.carry.evidence, second.carry.evidence),
            split,
        )
        return split.join_results(first, second, merged)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A batch taken apart by mode.

    Attributes:
        problem: the equation of the whole batch.
        stiff: who is in stiff mode, bool, shape (B,).
        parts: the equation of the others, and of those.
        rows: their places in the batch.
        places: for each sample its place among both, one after the other.
    """

    problem: AbstractProblem
    stiff: Tensor
    parts: tuple[AbstractProblem, AbstractProblem]
    rows: tuple[Tensor, Tensor]
    places: Tensor

    @classmethod
    def of(cls, problem: AbstractProblem, stiff: Tensor) -> Split:
        """Take a batch apart."""
        rows = (torch.nonzero(~stiff).flatten(), torch.nonzero(stiff).flatten())
        parts = (problem.at_rows(rows[0]), problem.at_rows(rows[1]))
        return cls(problem, stiff, parts, rows, torch.argsort(torch.cat(rows)))

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        """Values of all samples from those of both parts."""
        return torch.cat((first, second)).index_select(0, self.places)

    def join_results(self, first: StepResult, second: StepResult, carry: AutoCarry) -> StepResult:
        """One result from those of both parts."""
        assert first.error is not None
        assert second.error is not None
        assert first.dense is not None
        assert second.dense is not None
        failed, orders = (first.failed, second.failed), (first.error_order, second.error_order)
        return StepResult(
            self.join(first.y1, second.y1),
            self.join(first.error, second.error),
            carry,
            self._join_counts(first.nfe, second.nfe),
            SplitInterpolant(self, first.dense, second.dense),
            None if failed == (None, None) else self._join_counts(*failed, dtype=torch.bool),
            None if orders == (None, None) else self._join_counts(*orders),
            self._join_counts(first.jacobians, second.jacobians),
            self._join_counts(first.factorizations, second.factorizations),
        )

    def _join_counts(
        self, first: int | Tensor | None, second: int | Tensor | None, dtype: torch.dtype = torch.int64
    ) -> Tensor:
        spread = [
            value if isinstance(value, Tensor) else torch.full_like(rows, value or 0, dtype=dtype)
            for value, rows in zip((first, second), self.rows, strict=True)
        ]
        return self.join(*spread)


class SplitInterpolant(AbstractInterpolant):
    """States within a step that two methods have taken, each for some samples."""

    def __init__(self, split: Split, first: AbstractInterpolant, second: AbstractInterpolant) -> None:
        """Keep both parts' interpolants."""
        self.nfe = max(first.nfe, second.nfe)
        self._split, self._parts = split, (first, second)

    def evaluate(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """Ask each part for its samples."""
        split = self._split
        if rows is None:
            return split.join(*(part.evaluate(theta) for part in self._parts))
        # A sample's place among both parts is its place in its own, after that of the first.
        places = split.places.index_select(0, rows)
        count = len(split.rows[0])
        wanted = [torch.nonzero(places < count).flatten(), torch.nonzero(places >= count).flatten()]
        found = [
            part.evaluate(theta[asked], places[asked] - offset)
            for part, asked, offset in zip(self._parts, wanted, (0, count), strict=True)
        ]
        return torch.cat(found).index_select(0, torch.argsort(torch.cat(wanted)))


def real_stability_boundary(table: Tableau) -> float:
    """The largest s for which an explicit Runge–Kutta method is stable for ``h λ`` in all of [-s, 0].

    Its stability polynomial is ``1 + z bᵀ (I - zA)⁻¹ 1``.

    Source: Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.2, Eq. 2.6.
    """
    step, s = 1e-3, 0.0
    while s < 1e3:
        stages: list[float] = []
        for row in table.a:
            stages.append(1 - (s + step) * sum(a * stage for a, stage in zip(row, stages, strict=True)))
        if abs(1 - (s + step) * sum(b * stage for b, stage in zip(table.b, stages, strict=True))) > 1 + 1e-9:
            break
        s += step
    return s


def _rises(dense: StageInterpolant) -> tuple[Tensor, ...]:
    """The slopes k_i times the step, or, for samples in any number, all by the same factor for each of them."""
    return dense._stages if dense._is_scaled else tuple(dense._h * stage for stage in dense._stages)


def _square(x: Tensor) -> Tensor:
    flat = x.abs().reshape(len(x), -1)
    return (flat * flat).sum(1)


def _at(rows: Tensor, *values: Tensor) -> list[Tensor]:
    return [value.index_select(0, rows) if value.ndim else value for value in values]


def _put(rows: Tensor, new: Any, old: Any) -> Any:
    return map_tensors(lambda some, whole: whole.index_copy(0, rows, some), new, old)
