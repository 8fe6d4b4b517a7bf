"""Exponential multistep methods in λ = ln(α/σ): DPM-Solver++ 2M and 3M, their SDE versions, UniPC, DPM-Solver-v3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.randomness import Streams, normal
from isocline.samplers.exponential import AbstractExponentialMethod
from isocline.samplers.log_ratio import AbstractForm
from isocline.samplers.straight_path import required
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stepper import AbstractStepper, StepResult

__all__ = ["ExponentialMultistep"]

_FEW_STEPS = 15


class ExponentialMultistep(AbstractExponentialMethod):
    """Exponential Adams methods: the polynomial in λ through the last ``order`` remainders is integrated exactly.

    One evaluation a step. The first steps use what there is, order 1, 2, …; the last step, to σ = 0 where λ is
    infinite, is of order 1, and with less than 15 steps those before it are of order 2, 3, … at most. A step from α = 0
    is of order 1 and its evaluation is not used again, since it is infinitely far away.
    (The errors of the first steps, h² and h³, bound the order of the whole in the end; at high noise, where they are
    taken, the predicted data hardly change and they do not show.)

    With the corrector, the evaluation at a predicted point also corrects that point: the polynomial of one degree more
    is integrated over the step that led there. It is free, but the point itself is not evaluated again, and kept states
    are the predicted ones. The last step is not corrected.

    Source: *DPM-Solver++*, Lu et al., 2022, Algorithm 2 (2M); *UniPC*, Zhao et al., 2023, Algorithms 1 to 4.

    Args:
        order: of the predictor, at least 1.
        form: what is interpolated, and with which linear part.
        corrector: whether points are corrected.

    Raises:
        ValueError: if the order is below 1, or a corrector is asked for with noise.
    """

    def __init__(self, order: int, form: AbstractForm, corrector: bool = False) -> None:
        if order < 1:
            raise ValueError(f"order={order} must be at least 1")
        if corrector and form.is_stochastic:
            raise ValueError("corrector=True would integrate a step again without its noise; set eta=0 or no corrector")
        self.order = order
        self.form = form
        self.corrector = corrector

    def orders(self, calls: int) -> tuple[int, ...]:
        """As many steps as calls."""
        few = calls < _FEW_STEPS
        return tuple(min(self.order, calls - i) if few or i == calls - 1 else self.order for i in range(calls))

    def stepper(self, positions: Sequence[float], orders: Sequence[int], generator: Streams | None) -> AbstractStepper:
        """See the base class."""
        if self.form.is_stochastic:
            generator = required(generator, "a form with eta > 0")
        return _MultistepStepper(self, positions, orders, generator)


class _Memory(NamedTuple):
    """What a step knows.

    Attributes:
        number: of steps so far.
        nodes: positions of past evaluations, newest first.
        remainders: there.
        origin: state from which the last step started; None if it is not to be corrected.
    """

    number: int = 0
    nodes: tuple[float, ...] = ()
    remainders: tuple[Tensor, ...] = ()
    origin: Tensor | None = None


class _MultistepStepper(AbstractStepper):
    """The method on one grid; weights are numbers of the host, whatever the device."""

    def __init__(
        self,
        method: ExponentialMultistep,
        positions: Sequence[float],
        orders: Sequence[int],
        generator: Streams | None,
    ) -> None:
        self.method, self.positions, self.orders, self.generator = method, positions, orders, generator
        self.order = method.order

    def init(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> _Memory:
        return _Memory()

    def step(self, problem: AbstractProblem, t0: Tensor, t1: Tensor, y0: Tensor, carry: _Memory) -> StepResult:
        form, index = self.method.form, carry.number
        s0, s1 = self.positions[index], self.positions[index + 1]
        slope = problem.evaluate(t0, y0)
        if s0 == 1 or s1 == 0:
            # What was evaluated at λ = −∞ would have no weight in any later polynomial.
            return StepResult(self._add_noise(form.leap(y0, s0, s1, slope), s0, s1), carry=_Memory(index + 1))
        nodes, remainders = (s0, *carry.nodes), (form.remainder(s0, y0, slope), *carry.remainders)
        if carry.origin is not None:
            points = self.orders[index - 1] + 1
            y0 = form.advance(carry.origin, self.positions[index - 1], s0, nodes[:points], remainders[:points])
        order = self.orders[index]
        y1 = form.advance(y0, s0, s1, nodes[:order], remainders[:order])
        kept = self.method.order
        origin = y0 if self.method.corrector else None
        memory = _Memory(index + 1, nodes[:kept], remainders[:kept], origin)
        return StepResult(self._add_noise(y1, s0, s1), carry=memory)

    def _add_noise(self, y: Tensor, s0: float, s1: float) -> Tensor:
        spread = self.method.form.spread(s0, s1)
        if spread == 0:
            return y
        assert self.generator is not None
        return torch.add(y, normal(y.shape, self.generator, y), alpha=spread)
