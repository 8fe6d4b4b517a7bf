"""Dense output: the state anywhere within a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from isocline.shapes import expand_like
from isocline.solvers.problem import AbstractProblem

if TYPE_CHECKING:
    from isocline.solvers.tableau import Tableau

__all__ = ["AbstractInterpolant", "HermiteInterpolant", "StageInterpolant", "hermite_weights"]


def hermite_weights(b: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """Dense-output coefficients of the cubic Hermite interpolant of a method whose last stage is the slope at the end.

    With the increment ``y1 - y0 = h Σ b_i k_i`` the cubic through both states and slopes has the weights
    ``b_i (3θ² - 2θ³)``, plus ``θ - 2θ² + θ³`` for the first stage and ``-θ² + θ³`` for the last.

    Args:
        b: weights of the method, S values.

    Returns:
        S rows of coefficients of θ, θ², θ³, θ⁴.

    Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, section II.6, Eq. 6.7.
    """
    rows = [[0.0, 3 * weight, -2 * weight, 0.0] for weight in b]
    for power, (first, last) in enumerate(((1.0, 0.0), (-2.0, -1.0), (1.0, 1.0))):
        rows[0][power] += first
        rows[-1][power] += last
    return tuple(tuple(row) for row in rows)


class AbstractInterpolant(ABC):
    """States within one step.

    Attributes:
        nfe: evaluations that the first call of `evaluate` costs every sample.
    """

    nfe: int = 0

    @abstractmethod
    def evaluate(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """The state a share ``theta`` of the step after its start.

        Args:
            theta: shape (n,), in [0, 1], float64; or () with ``rows=None``, the same share for all samples.
            rows: samples that ``theta`` belongs to, int64, shape (n,), repetitions allowed.

        Returns:
            shape (n, *event), or (B, *event) with ``rows=None``.
        """


class StageInterpolant(AbstractInterpolant):
    """Continuous extension of a Runge–Kutta method: ``y(t0 + θh) = y0 + h Σ_i b_i(θ) k_i`` with polynomials ``b_i``.

    Extra stages that the extension needs are evaluated once, when it is first asked for a state.
    """

    def __init__(
        self,
        table: Tableau,
        problem: AbstractProblem,
        t0: Tensor,
        t1: Tensor,
        y0: Tensor,
        h: Tensor,
        stages: tuple[Tensor, ...],
        is_scaled: bool,
    ) -> None:
        """Keep what the extension needs.

        Args:
            table: the method, with ``dense``.
            problem: the equation, for extra stages.
            t0: start of the step, shape () or (B,).
            t1: its end.
            y0: state at the start, shape (B, *event).
            h: step, broadcastable to ``y0``.
            stages: the slopes k_i.
            is_scaled: whether they are multiplied by ``h`` already.
        """
        self.nfe = len(table.extra_c)
        self._table, self._problem, self._t0, self._t1 = table, problem, t0, t1
        self._y0, self._h, self._stages, self._is_scaled = y0, h, stages, is_scaled

    def evaluate(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """Sum the stages with the weights ``b_i(θ)``."""
        assert self._table.dense is not None
        if len(self._stages) < len(self._table.dense):
            self._extend()
        start = _take(self._y0, rows)
        total = None
        for stage, row in zip(self._stages, self._table.dense, strict=True):
            if not any(row):
                continue
            share = expand_like(_polynomial(row, theta), start).to(start.dtype)
            term = share * _take(stage, rows)
            total = term if total is None else total + term
        assert total is not None
        if self._is_scaled:
            return start + total
        return start + (_take(self._h, rows) if self._h.ndim else self._h) * total

    def _extend(self) -> None:
        stages = list(self._stages)
        for node, row in zip(self._table.extra_c, self._table.extra_a, strict=True):
            rise = sum(weight * stage for weight, stage in zip(row, stages, strict=True) if weight)
            point = self._y0 + (rise if self._is_scaled else self._h * rise)
            slope = self._problem.evaluate(torch.add(self._t0, self._t1 - self._t0, alpha=node), point)
            stages.append(slope * self._h if self._is_scaled else slope)
        self._stages = tuple(stages)


class HermiteInterpolant(AbstractInterpolant):
    """Cubic Hermite interpolant of a method that does not evaluate the slope at the end of its step: it costs one call.

    Source: Hairer, Nørsett, Wanner, Solving Ordinary Differential Equations I, section II.6, Eq. 6.7.
    """

    nfe = 1

    def __init__(
        self,
        problem: AbstractProblem,
        t1: Tensor,
        y0: Tensor,
        y1: Tensor,
        h: Tensor,
        slope: Tensor,
        is_scaled: bool = False,
    ) -> None:
        """Keep what the cubic needs.

        Args:
            problem: the equation, for the slope at the end.
            t1: end of the step.
            y0: state at the start.
            y1: state at the end.
            h: step, broadcastable to ``y0``.
            slope: slope at the start.
            is_scaled: whether it is multiplied by ``h`` already.
        """
        self._is_scaled = is_scaled
        self._problem, self._t1, self._y0, self._y1, self._h, self._slope = problem, t1, y0, y1, h, slope
        self._end_slope: Tensor | None = None

    def evaluate(self, theta: Tensor, rows: Tensor | None = None) -> Tensor:
        """Evaluate the cubic; the first call makes one function evaluation."""
        if self._end_slope is None:
            slope = self._problem.evaluate(self._t1, self._y1)
            self._end_slope = slope * self._h if self._is_scaled else slope
        y0, y1 = _take(self._y0, rows), _take(self._y1, rows)
        h = _take(self._h, rows) if self._h.ndim else self._h
        share = expand_like(theta, y0)
        rise = (share * share * (3 - 2 * share)).to(y0.dtype)
        first = (share * (1 - share) ** 2).to(y0.dtype)
        last = (-share * share * (1 - share)).to(y0.dtype)
        bend = first * _take(self._slope, rows) + last * _take(self._end_slope, rows)
        return y0 + rise * (y1 - y0) + (bend if self._is_scaled else h * bend)


def _take(value: Tensor, rows: Tensor | None) -> Tensor:
    return value if rows is None else value.index_select(0, rows)


def _polynomial(coefficients: tuple[float, ...], theta: Tensor) -> Tensor:
    value = coefficients[-1] * theta
    for coefficient in reversed(coefficients[:-1]):
        value = (value + coefficient) * theta
    return value
