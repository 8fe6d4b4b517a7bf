"""The continuous adjoint along the dense output of the forward solve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from isocline.solvers.controller import AbstractController, AbstractGrid
from isocline.solvers.explicit import AbstractRungeKutta
from isocline.solvers.gradient.adjoint import AbstractAdjointSystem, way_back
from isocline.solvers.gradient.base import AbstractAdjoint, Forward, Integrate
from isocline.solvers.gradient.continuous import BackwardSolver, ContinuousReverse
from isocline.solvers.gradient.inputs import Inputs, detached_problem
from isocline.solvers.gradient.stops import Stops
from isocline.solvers.kept import kept
from isocline.solvers.problem import AbstractProblem
from isocline.solvers.solution import SaveAt
from isocline.solvers.stepper import AbstractStepper
from isocline.solvers.tape import AbstractTape, Saved, StepRecord

__all__ = ["InterpolatedAdjoint"]

# Exact for the dense output of every method here; for others as good as their order.
_DEGREE = 7


class InterpolatedAdjoint(AbstractAdjoint):
    """The continuous adjoint, solved backward along the forward solution's dense output.

    The state is never solved backward, so that contracting and stiff equations pose no difficulty; the cotangent has
    steps of its own, chosen for it alone. Memory is one state more than the degree of the dense output per step. It is
    the gradient of the exact solution, up to tolerances. Parameters are treated as by
    `isocline.solvers.gradient.BacksolveAdjoint`.

    Source: Daulbaev et al., Interpolation technique to speed up gradients propagation in neural ODEs (2020); Rackauckas
    et al., A comparison of automatic differentiation and continuous sensitivity analysis (2018), section II.
    """

    def __init__(
        self,
        stepper: AbstractStepper | None = None,
        controller: AbstractController | None = None,
        parameters: Sequence[Tensor] | None = None,
    ) -> None:
        """Choose the way back.

        Args:
            stepper: of the way back; by default the forward one, or Tsit5 if that is for special equations only.
            controller: of the way back; by default the forward one, of a grid the same points.
            parameters: as for `isocline.solvers.gradient.DiscreteAdjoint`.
        """
        self.stepper, self.controller, self.parameters = stepper, controller, parameters

    def forward(
        self,
        problem: AbstractProblem,
        stepper: AbstractStepper,
        controller: AbstractController,
        saveat: SaveAt,
        integrate: Integrate,
        inputs: Inputs,
    ) -> Forward:
        """Solve and keep the dense output; see the base class."""
        constant = detached_problem(problem)
        path = _Path(constant.start)
        solution = integrate(constant, stepper, controller, saveat, path)
        path.close()
        stops = Stops.of(constant, controller, saveat, solution)
        control = self.controller
        if control is None and not isinstance(controller, AbstractGrid):
            control = controller
        solver = BackwardSolver(way_back(problem, stepper, self.stepper), control, integrate)
        system = _AlongPath(constant, path)
        return Forward(solution, ContinuousReverse(system, inputs, stops, solution.ys, solver, math.inf))


class _AlongPath(AbstractAdjointSystem):
    """The cotangent alone."""

    def __init__(self, problem: AbstractProblem, path: _Path) -> None:
        super().__init__(problem)
        self._path = path

    def begin(self, y: Tensor, a: Tensor) -> Tensor:
        return a

    def split(self, t: Tensor, z: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self._path.evaluate(t, rows), z

    def join(self, slope: Tensor, product: Tensor) -> Tensor:
        return -product


class _Path(AbstractTape):
    """The forward solution at any time: each sample's steps, each a polynomial given by its values at nodes."""

    def __init__(self, like: Tensor) -> None:
        self._batch, self._event = len(like), like.shape[1:]
        self._like = like
        self._rows: list[Tensor] = []
        self._starts: list[Tensor] = []
        self._ends: list[Tensor] = []
        self._values: list[Tensor] = []
        self._degree = _DEGREE

    def start(self, problem: AbstractProblem, stepper: AbstractStepper, t0: Tensor, saved: tuple[Saved, ...]) -> None:
        """Find the degree."""
        if isinstance(stepper, AbstractRungeKutta):
            dense = stepper.tableau.dense
            self._degree = 3 if dense is None else len(dense[0])

    def step(self, record: StepRecord) -> None:
        """Keep a step.

        Raises:
            ValueError: if the stepper has no dense output.
        """
        if record.dense is None:
            raise ValueError("InterpolatedAdjoint needs a stepper with dense output; take Tsit5, Dopri5 or RK4")
        device = record.y0.device
        local = torch.arange(len(record.y0), device=device)
        if record.accept is not None:
            local = local[record.accept]
        nodes, _ = _lagrange(self._degree, device)
        count = len(local)
        values = record.dense.evaluate(nodes.repeat_interleave(count), local.repeat(len(nodes)))
        self._values.append(values.reshape(len(nodes), count, *self._event))
        self._rows.append(local if record.rows is None else record.rows[local])
        for times, time in ((self._starts, record.t0), (self._ends, record.t1)):
            times.append(time[local] if time.ndim else time.expand(count))

    def close(self) -> None:
        """Sort the steps by sample."""
        device = self._like.device
        if not self._rows:
            return
        rows, starts, ends = (torch.cat(parts) for parts in (self._rows, self._starts, self._ends))
        # Records come in the order of time, which a stable sort keeps for every sample.
        order = rows.argsort(stable=True)
        count = torch.bincount(rows, minlength=self._batch)
        first = count.cumsum(0) - count
        place = torch.arange(len(rows), device=device) - first[rows[order]]
        shape = (self._batch, int(count.max()))
        self._count = count
        self._sign = torch.ones(self._batch, dtype=torch.float64, device=device)
        self._sign[rows] = torch.where(ends >= starts, 1.0, -1.0).to(torch.float64)
        self._table = torch.zeros(shape, dtype=torch.int64, device=device)
        self._table[rows[order], place] = order
        self._times = torch.full(shape, math.inf, dtype=torch.float64, device=device)
        self._times[rows[order], place] = (self._sign[rows] * starts)[order]
        self._first, self._length = starts, ends - starts
        self._all = torch.cat(self._values, 1)
        self._values, self._starts, self._ends = [], [], []

    def evaluate(self, t: Tensor, rows: Tensor) -> Tensor:
        """The state of some samples.

        Args:
            t: shape () or (n,).
            rows: the samples, shape (n,).
        """
        t = t.expand(len(rows))
        signed = (self._sign[rows] * t.detach())[:, None]
        step = torch.searchsorted(self._times[rows], signed, right=True)[:, 0] - 1
        step = torch.minimum(step.clamp(min=0), self._count[rows] - 1)
        place = self._table[rows, step]
        theta = (t - self._first[place]) / self._length[place]
        _, basis = _lagrange(self._degree, t.device)
        weights = (_chebyshev(2 * theta - 1, self._degree) @ basis).T
        values = self._all[:, place]
        return (weights.reshape(*weights.shape, *[1] * len(self._event)).to(values.dtype) * values).sum(0)


def _chebyshev(x: Tensor, degree: int) -> Tensor:
    """Chebyshev polynomials of the first kind at ``x``, shape (n, degree + 1); powers would lose digits."""
    found = [torch.ones_like(x), x]
    while len(found) <= degree:
        found.append(2 * x * found[-1] - found[-2])
    return torch.stack(found[: degree + 1], 1)


@kept(maxsize=32)
def _lagrange(degree: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Chebyshev–Lobatto nodes on [0, 1], and the matrix from Chebyshev polynomials to their Lagrange basis."""
    nodes = 0.5 - 0.5 * np.cos(np.pi * np.arange(degree + 1) / degree)
    vandermonde = np.polynomial.chebyshev.chebvander(2 * nodes - 1, degree)
    return (
        torch.tensor(nodes, dtype=torch.float64, device=device),
        torch.tensor(np.linalg.inv(vandermonde), dtype=torch.float64, device=device),
    )
