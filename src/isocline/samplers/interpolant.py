"""Transport between the two laws of a stochastic interpolant, in either direction, by its flow or by its SDEs."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from isocline.processes.stochastic_interpolant import StochasticInterpolant
from isocline.randomness import Streams
from isocline.samplers.reverse_sde import StreamIncrements, calculus_of
from isocline.solvers.controller import AbstractController
from isocline.solvers.loop import solve_strict
from isocline.solvers.problem import ODEProblem, SDEProblem, VectorField
from isocline.solvers.sde import AbstractSDEStepper
from isocline.solvers.solution import SaveAt, Solution
from isocline.solvers.stepper import AbstractStepper

__all__ = ["InterpolantTransport"]


class InterpolantTransport:
    """Carry samples of one law of an interpolant to the other one.

    Without noise it is the flow of the velocity, one evaluation a call and invertible. With ``diffusivity`` κ > 0 it is
    the SDE with noise √(2κ) γ dw, which has the same law at every time and forgets where a sample came from; one
    evaluation of it asks both networks.

    Source: *Stochastic Interpolants*, Albergo, Boffi & Vanden-Eijnden, 2023, §2.3.

    Args:
        interpolant: the path that the networks were trained on.
        velocity: b(t, x, cond); see `InterpolantVelocityMatching`.
        noise: E[z | x] as a function of (t, x, cond), see `InterpolantNoiseMatching`; needed for SDEs only.
        diffusivity: κ.

    Raises:
        ValueError: if κ is negative, or above 0 without ``noise``.
    """

    def __init__(
        self,
        interpolant: StochasticInterpolant,
        velocity: VectorField,
        noise: VectorField | None = None,
        diffusivity: float = 0.0,
    ) -> None:
        if diffusivity < 0:
            raise ValueError(f"diffusivity={diffusivity} must not be negative")
        if diffusivity > 0 and noise is None:
            raise ValueError(f"diffusivity={diffusivity} needs noise=, a network of InterpolantNoiseMatching")
        self.interpolant, self.velocity, self.noise, self.diffusivity = interpolant, velocity, noise, diffusivity

    def __call__(
        self,
        x: Tensor,
        stepper: AbstractStepper,
        controller: AbstractController,
        *,
        backward: bool = False,
        cond: Any = None,
        generator: Streams | None = None,
        saveat: SaveAt | None = None,
    ) -> Solution:
        """Carry samples over.

        Args:
            x: of the law at t = 0, or at t = 1 if ``backward``, shape ``(B, *event)``.
            stepper: of ODEs without noise, of SDEs with it.
            controller: the steps; a grid if there is noise.
            backward: whether to go from t = 1 to t = 0.
            cond: handed to the networks.
            generator: source of noise; a list holds one generator per sample.
            saveat: the states to keep; the end by default.

        Returns:
            Solution in x and t; ``stats.nfe`` counts evaluations of the drift.

        Raises:
            ValueError: if there is noise and no generator.
            TypeError: if the stepper is not one of SDEs and there is noise.
        """
        t0, t1 = (1.0, 0.0) if backward else (0.0, 1.0)
        saveat = SaveAt() if saveat is None else saveat
        if self.diffusivity == 0:
            return solve_strict(ODEProblem(self._flow, x, t0, t1, cond), stepper, controller, saveat)
        if not isinstance(stepper, AbstractSDEStepper):
            raise TypeError(f"diffusivity={self.diffusivity} needs a stepper of SDEs, got {type(stepper).__name__}")
        if generator is None:
            raise ValueError(f"diffusivity={self.diffusivity} adds noise; pass generator=torch.Generator()")
        assert self.noise is not None
        drift = self.interpolant.drift(self.velocity, self.noise, self.diffusivity, -1 if backward else 1)
        problem = SDEProblem(
            drift,
            self.interpolant.diffusion(self.diffusivity),
            x,
            t0,
            t1,
            cond,
            noise=StreamIncrements(generator),
            calculus=calculus_of(stepper),
        )
        return solve_strict(problem, stepper, controller, saveat)

    def _flow(self, t: Tensor, x: Tensor, cond: Any) -> Tensor:
        slope: Tensor = self.velocity(self.interpolant.inside(t), x, cond)
        return slope
