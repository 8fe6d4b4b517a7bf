"""Newton's iteration for the stage equations of implicit methods, with gradients by the implicit function theorem."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from isocline.solvers.jacobian import Derivative, Linearizer, RealRows
from isocline.solvers.linear import AbstractFactors, factorize
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.stage_solvers import AbstractStageSolver, Preparation, StageSolution, StageSystem, check_iteration

__all__ = ["Newton"]

_SLOW = 0.3


@dataclass(frozen=True)
class Newton(AbstractStageSolver):
    """Simplified Newton iteration ``(I - h A ⊗ J) Δ = h A f(base + z) - z`` with the Jacobian at the step's start.

    A sample that converges too slowly gets the Jacobians at its own stages. Gradients come from the implicit function
    theorem: the solution is followed by one Newton correction with the exact matrix, which changes nothing but carries
    the derivative; the matrix is a constant to it, so first derivatives only.

    Attributes:
        iterations: the most that are made; samples that have not converged by then have failed.
        tol: a sample is done once its estimated error, the largest over stages and components, is at most ``tol`` times
            the largest component. None takes ``eps^(5/6)``: 9e-14 for float64, 2e-6 for float32. A sample whose changes
            no longer shrink is also done if they are below ``eps^(2/3)``: rounding errors of the field allow no better.
        derivative: how the field is differentiated; None takes the problem's ``jac``, or else the best way that the
            field supports.

    Raises:
        ValueError: if ``iterations`` is below one, or ``tol`` is not positive.

    Source: Hairer, Wanner, Solving Ordinary Differential Equations II, section IV.8; the gradient as in Bai, Kolter,
    Koltun, Deep equilibrium models (2019), theorem 1.
    """

    iterations: int = 20
    tol: float | None = None
    derivative: Derivative | None = None

    init_nfe: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_iteration(self.iterations, self.tol)

    def prepare(self, problem: AbstractProblem, t0: Tensor, y0: Tensor) -> Preparation:
        """Find out how the field can be differentiated."""
        return Preparation(*Linearizer.probe(problem, t0, y0, self.derivative, rate=False))

    def solve(self, system: StageSystem) -> StageSolution:
        """Iterate, then attach the derivative; see the base class."""
        work = _Work(len(system.base), system.base.device)
        equations = _Equations(system, work)
        with torch.no_grad():
            z, failed = self._iterate(equations)
        if torch.is_grad_enabled() or _is_forward():
            z = _attach(equations, z, failed)
        return StageSolution(equations.stages(z), work.nfe, failed, work.jacobians, work.factorizations)

    def least_nfe(self, stages: int) -> int:
        """One evaluation of every stage."""
        return stages

    def _iterate(self, equations: _Equations) -> tuple[Tensor, Tensor]:
        base = equations.base.detach()
        eps = torch.finfo(base.dtype).eps
        tol = eps ** (5 / 6) if self.tol is None else self.tol
        floor = max(tol, eps ** (2 / 3))
        matrix, factors = equations.start_matrix()
        done = torch.zeros(len(base), dtype=torch.bool, device=base.device)
        last = torch.full((len(base),), math.nan, dtype=base.dtype, device=base.device)
        size = _largest(base)
        z = torch.zeros_like(base).expand(-1, len(equations.system.a), -1)
        for turn in range(self.iterations):
            image = equations.image(z if turn else None, ~done)
            change = _solve(factors, image - z)
            new = z + change
            step, scale = _largest(change), torch.maximum(size, _largest(new))
            rate = step / last
            # The error left is at most rate / (1 - rate) times the last change.
            small = (step <= tol * scale) | ((rate < 1) & (rate * step <= tol * scale * (1 - rate)))
            stalled = (rate >= 1) & (step <= floor * scale)
            z, last = torch.where(done[:, None, None], z, new), step
            done = done | small | stalled
            if bool(done.all()):
                break
            left = self.iterations - 1 - turn
            slow = ~done & ((rate > _SLOW) | (rate**left * step > tol * scale))
            if bool(slow.any()):
                matrix = torch.where(slow[:, None, None], equations.stage_matrix(z, slow), matrix)
                factors = factorize(matrix)
        return z.detach(), ~done


class _Work:
    """Counts per sample."""

    def __init__(self, batch: int, device: torch.device) -> None:
        zero = torch.zeros(batch, dtype=torch.int64, device=device)
        self.nfe, self.jacobians, self.factorizations = zero, zero, zero

    def add(self, *, nfe: int = 0, jacobians: int = 0, factorizations: int = 0, samples: Tensor | None = None) -> None:
        share = 1 if samples is None else samples.long()
        self.nfe = self.nfe + nfe * share
        self.jacobians = self.jacobians + jacobians * share
        self.factorizations = self.factorizations + factorizations * share


class _Equations:
    """A stage system in rows of real numbers: displacements of shape (B, S, N).

    Attributes:
        system: as it was given.
        base: shape (B, 1, N).
    """

    def __init__(self, system: StageSystem, work: _Work) -> None:
        self.system, self._work, self._rows = system, work, RealRows(system.base)
        self.base = self._rows.flatten(system.base)[:, None]
        h = system.h.real if system.h.is_complex() else system.h
        self._h = h.reshape(-1, 1, 1) if h.ndim else h
        self._a = torch.tensor(system.a, dtype=self.base.dtype, device=self.base.device)

    def stages(self, z: Tensor) -> tuple[Tensor, ...]:
        """The displacements as states."""
        return tuple(self._rows.restore(part) for part in z.unbind(1))

    def image(self, z: Tensor | None, samples: Tensor | None = None) -> Tensor:
        """``h A f(base + z)``, counted for some of the samples; None for ``z`` stands for zero."""
        times, rows, problem = self.system.times, self._rows, self.system.start.problem
        self._work.add(nfe=len(times), samples=samples)
        # A field that looks whether its argument requires grad must not find a graph that is not recorded.
        base = self.base if torch.is_grad_enabled() else self.base.detach()
        points = [base[:, 0]] * len(times) if z is None else (base + z).unbind(1)
        slopes = [
            rows.flatten(problem.evaluate(time, rows.restore(point))) for time, point in zip(times, points, strict=True)
        ]
        # Term by term, so that a sample's result does not depend on the batch it is computed in.
        total = self._a[:, 0, None] * slopes[0][:, None]
        for column, slope in enumerate(slopes[1:], 1):
            total = torch.addcmul(total, self._a[:, column, None], slope[:, None])
        return self._h * total

    def start_matrix(self) -> tuple[Tensor, AbstractFactors]:
        """``I - h A ⊗ J`` with the Jacobian at the step's start, and its factors.

        The step's stage equations share the Jacobian, those of equal coefficients the factors, too.
        """
        start, key = self.system.start, self.system.a
        if "jacobian" not in start.memory:
            start.memory["jacobian"] = self._jacobian(start.t0, start.y0.detach(), None)
        if key not in start.memory:
            matrix = self._matrix(start.memory["jacobian"][:, None])
            start.memory[key] = (matrix, factorize(matrix))
            self._work.add(factorizations=1)
        found: tuple[Tensor, AbstractFactors] = start.memory[key]
        return found

    def stage_matrix(self, z: Tensor, samples: Tensor | None = None) -> Tensor:
        """The matrix with every stage's Jacobian at ``z``, counted for some of the samples as factorized, too."""
        points = (self.base + z).detach().unbind(1)
        found = [
            self._jacobian(time, self._rows.restore(point), samples)
            for time, point in zip(self.system.times, points, strict=True)
        ]
        self._work.add(factorizations=1, samples=samples)
        return self._matrix(torch.stack(found, 1))

    def _matrix(self, jacobians: Tensor) -> Tensor:
        """From Jacobians of shape (B, S, N, N), or (B, 1, N, N) where those of all stages are the same."""
        size = len(self._a) * self._rows.width
        h = self._h.detach()
        blocks = (h[..., None, None] if h.ndim else h) * self._a[:, None, :, None] * jacobians.transpose(1, 2)[:, None]
        identity = torch.eye(size, dtype=blocks.dtype, device=blocks.device)
        return identity - blocks.reshape(-1, size, size)

    def _jacobian(self, time: Tensor, y: Tensor, samples: Tensor | None) -> Tensor:
        start = self.system.start
        assert start.linearizer is not None
        found = start.linearizer.evaluate(start.problem, time.detach(), y, self._rows)
        self._work.add(jacobians=1, nfe=found.nfe, samples=samples)
        return found.jacobian.detach()


def _attach(equations: _Equations, z: Tensor, failed: Tensor) -> Tensor:
    """The same values with the derivative of the implicit function; samples that failed get none."""
    # What is not finite would make 0 · inf = NaN of the gradient of shared parameters.
    mask = failed[:, None, None]
    safe = torch.where(mask, 0, z)
    image = equations.image(safe)
    if not (image.requires_grad or _is_forward()):
        return z
    with torch.no_grad():
        matrix = equations.stage_matrix(safe)
        factors = factorize(torch.where(mask, torch.eye(matrix.shape[1]).to(matrix), matrix))
    return torch.where(mask, z, z + _solve(factors, image - image.detach()))


def _solve(factors: AbstractFactors, right: Tensor) -> Tensor:
    return factors.solve(right.flatten(1)).view(right.shape)


def _is_forward() -> bool:
    return forward_ad._current_level >= 0


def _largest(rows: Tensor) -> Tensor:
    """Largest absolute value of each sample, shape (B,)."""
    return rows.abs().flatten(1).amax(1)
