"""Continuous normalising flows: a field that carries data (t = 0) to noise (t = 1), read as a density.

ln p(x) = ln N(x(1); 0, I) + ∫_0^1 tr(∂f/∂x) dt along dx/dt = f(t, x) from x(0) = x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from isocline.objectives.trace import AbstractTrace, ExactTrace
from isocline.solvers.controller import AbstractController, ConstantSteps, PIDController
from isocline.solvers.explicit import RK4, Tsit5
from isocline.solvers.gradient.base import AbstractGradient
from isocline.solvers.gradient.discrete import DiscreteAdjoint
from isocline.solvers.loop import solve_strict
from isocline.solvers.problem import ODEProblem
from isocline.solvers.stepper import AbstractStepper

__all__ = ["ContinuousFlow", "FlowDensity", "FlowSamples", "joint_control", "standard_normal"]


class FlowDensity(NamedTuple):
    """Log densities under a continuous flow, with what its path cost.

    Attributes:
        nats: ln p(x), float64 ``(B,)``.
        z: x(1), float64 ``(B, d)``.
        kinetic: ∫ ‖f‖² dt, ``(B,)``; zeros where it was not asked for.
        jacobian: ∫ ‖∂f/∂x‖_F² dt, ``(B,)``, exact or estimated like the trace; zeros where it was not asked for.
        nfe: network forwards per sample, int64 ``(B,)``; backward passes of the trace are not counted.
        kind: ``exact`` or ``estimate``, by the trace; both up to the solver's error.
    """

    nats: Tensor
    z: Tensor
    kinetic: Tensor
    jacobian: Tensor
    nfe: Tensor
    kind: str


class FlowSamples(NamedTuple):
    """Samples ``x`` (B, d), float64, and the network forwards ``nfe`` (B,) that they took."""

    x: Tensor
    nfe: Tensor


def standard_normal(z: Tensor) -> Tensor:
    """Log density of N(0, I) at ``(B, d)``: float64 ``(B,)``."""
    z = z.to(torch.float64)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi))


def joint_control(rtol: float) -> PIDController:
    """One step size for the whole batch at relative and absolute tolerance ``rtol``."""
    return PIDController(rtol=rtol, atol=rtol, joint=True)


@dataclass(frozen=True)
class ContinuousFlow:
    """How a field is integrated, and its divergence found, where it serves as a density.

    States are integrated in float64 with the accumulators beside them; the network is called in the data's dtype.

    Source: *Neural Ordinary Differential Equations*, Chen et al., 2018, §4; *FFJORD*, Grathwohl et al., 2019;
    *How to Train Your Neural ODE*, Finlay et al., 2020, Eq. 7 (the two integrals).

    Attributes:
        trace: how the divergence is found.
        stepper: the method.
        controller: the steps.
        gradient: how gradients pass through the solve.
    """

    trace: AbstractTrace = field(default_factory=ExactTrace)
    stepper: AbstractStepper = field(default_factory=Tsit5)
    controller: AbstractController = field(default_factory=lambda: joint_control(1e-5))
    gradient: AbstractGradient = field(default_factory=DiscreteAdjoint)

    @classmethod
    def on_grid(cls, steps: int, trace: AbstractTrace | None = None) -> ContinuousFlow:
        """Equal steps of the classical Runge–Kutta method, 4 evaluations each: for a cost known in advance."""
        return cls(ExactTrace() if trace is None else trace, RK4(), ConstantSteps(steps))

    def log_density(
        self, network: nn.Module, x: Tensor, generator: torch.Generator | None = None, *, path: bool = False
    ) -> FlowDensity:
        """Evaluate ln p(x), differentiable in the network's parameters where gradients are recorded.

        Args:
            network: the field, ``network(t, x, cond)``.
            x: data ``(B, d)``.
            generator: source of the trace's probe, on x's device.
            path: whether to integrate ‖f‖² and ‖∂f/∂x‖_F² too.

        Raises:
            isocline.solvers.SolverError: if an integration fails.
            ValueError: if x is not ``(B, d)``, or the trace draws and there is no generator.
        """
        if x.ndim != 2:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (B, d)")
        if torch.is_inference_mode_enabled():
            # The divergence is a derivative, which inference mode has not.
            with torch.inference_mode(False), torch.no_grad():
                return self.log_density(network, x.clone(), generator, path=path)
        dimension = x.shape[1]
        extra = torch.zeros(len(x), 3 if path else 1, dtype=torch.float64, device=x.device)
        state = torch.cat([x.detach().to(torch.float64), extra], dim=1)
        augmented = _Augmented(network, self.trace, x.dtype, dimension, path)
        problem = ODEProblem(augmented, state, 0.0, 1.0, self.trace.probe(x, generator))
        gradient = self.gradient if torch.is_grad_enabled() else None
        solution = solve_strict(problem, self.stepper, self.controller, gradient=gradient)
        z, sums = solution.final[:, :dimension], solution.final[:, dimension:]
        none = torch.zeros_like(sums[:, 0])
        kinetic, jacobian = (sums[:, 1], sums[:, 2]) if path else (none, none)
        nats = standard_normal(z) + sums[:, 0]
        return FlowDensity(nats, z, kinetic, jacobian, solution.stats.nfe, self.trace.kind)

    def encode(self, network: nn.Module, x: Tensor) -> FlowSamples:
        """Carry data to noise, t = 0 to 1; no gradients."""
        return self._carry(network, x, 0.0, 1.0)

    def decode(self, network: nn.Module, z: Tensor) -> FlowSamples:
        """Carry noise to data, t = 1 to 0: ``z`` from N(0, I) gives samples; no gradients."""
        return self._carry(network, z, 1.0, 0.0)

    def _carry(self, network: nn.Module, x: Tensor, start: float, end: float) -> FlowSamples:
        def field(t: Tensor, y: Tensor, cond: Any) -> Tensor:
            return network(t, y.to(x.dtype), None).to(torch.float64)

        with torch.no_grad():
            problem = ODEProblem(field, x.to(torch.float64), start, end)
            solution = solve_strict(problem, self.stepper, self.controller)
        return FlowSamples(solution.final, solution.stats.nfe)


class _Augmented(nn.Module):
    """The field with its divergence and, for a path, ‖f‖² and ‖∂f/∂x‖_F², on packed float64 states.

    A module, so that a gradient finds the network's parameters.
    """

    def __init__(self, network: nn.Module, trace: AbstractTrace, dtype: torch.dtype, dimension: int, path: bool):
        super().__init__()
        self.network = network
        self.trace = trace
        self.dtype = dtype
        self.dimension = dimension
        self.path = path

    def forward(self, t: Tensor, state: Tensor, probe: Tensor) -> Tensor:
        record = torch.is_grad_enabled()
        with torch.enable_grad():
            y = state[:, : self.dimension].to(self.dtype)
            if not (record and y.requires_grad):
                y = y.detach().requires_grad_()
            slope = self.network(t, y, None)
            found = self.trace.measure(slope, y, probe, create_graph=record)
        wide = slope.to(torch.float64)
        parts = [wide, found.trace[:, None]]
        if self.path:
            parts += [wide.square().sum(1, keepdim=True), found.square[:, None]]
        packed = torch.cat(parts, dim=1)
        return packed if record else packed.detach()
