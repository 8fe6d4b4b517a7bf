"""Continuous-time consistency models: the consistency function's own derivative along the flow is taken to 0."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.distillation.consistency_function import ConsistencyDistiller
from isocline.distillation.direction import AbstractDirection, TeacherDirection
from isocline.distillation.tangent import tangent_along
from isocline.objectives.base import Loss
from isocline.objectives.time_sampling import AbstractTimes, LogNormalNoiseTimes
from isocline.processes.denoiser import Denoiser
from isocline.processes.gaussian import GaussianProcess, PathSample
from isocline.processes.prediction import PreconditionedPrediction
from isocline.shapes import expand_like

__all__ = ["ContinuousConsistency"]


class ContinuousConsistency(ConsistencyDistiller):
    """sCM: ‖F_θ − sg(F_θ + g/(‖g‖ + c))‖², g = cos θ df/dθ the tangent of the consistency function f in TrigFlow.

    Any process is TrigFlow in the angle θ = arctan(σ/(α σ_d)) and the state z = x/ρ, ρ = √(α² + σ²/σ_d²):
    z = cos θ x_0 + sin θ σ_d ε. There f = cos θ z − sin θ σ_d F, with F unit-variance and, up to its sign, EDM's raw
    output, into which the network's own prediction is converted. So the student stays in its process, and f = x exactly
    where σ = 0. With dz/dθ from the teacher (distillation) or the data (training),

        g = −cos² θ (σ_d F − dz/dθ) − r cos θ sin θ (z + σ_d dF/dθ),

    where dF/dθ is one forward-mode product along dz/dθ, taken with the factor cos θ sin θ in it, so that nothing is
    large near θ = π/2, and r rises from 0 to 1: without its second part g is that of the diffusion objective, which is
    stable. ‖g‖ is a root mean square over the event. It is this loss whose gradient counts, not its value, which is
    ‖g‖²/(‖g‖ + c)² and does not fall; watch the logged ``tangent``. The article's learnt weight e^w(θ) is least at
    w = −ln of that value, which normalisation has made much the same at all angles: there is none here.

    Times above the largest noise that sampling starts from are not drawn. If that is σ/α = 80 at σ_d = ½, say, the end
    is arctan(160), 0.996021 of a quarter turn: give a process with α(1) = 0 that t_max to begin there.

    Source: *Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models*, Lu & Song, 2025, §4, Algorithm 1.

    Args:
        process: the teacher's, with σ(0) = 0.
        teacher: the frozen network; asked only under a `TeacherDirection`.
        sigma_data: σ_d, the data's standard deviation.
        direction: dz/dθ: the teacher's by default, or the data's.
        times: law of t; the article's, log-normal in tan θ, by default (its σ_d tan θ is σ/α).
        warmup: optimiser steps in which r rises.
        offset: c.

    Raises:
        ValueError: if f(x, 0) = x cannot hold, or a number is out of range.
    """

    def __init__(
        self,
        process: GaussianProcess,
        teacher: nn.Module,
        sigma_data: float = 0.5,
        direction: AbstractDirection | None = None,
        times: AbstractTimes[GaussianProcess] | None = None,
        warmup: int = 1000,
        offset: float = 0.1,
    ) -> None:
        super().__init__(process, teacher)
        if not (warmup >= 0 and offset > 0):
            raise ValueError(f"warmup={warmup} must not be negative and offset={offset} must be above 0")
        self.prediction = PreconditionedPrediction(sigma_data)
        self.direction = TeacherDirection() if direction is None else direction
        self.times = LogNormalNoiseTimes(-1.0, 1.4) if times is None else times
        self.warmup = warmup
        self.offset = offset

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate on ``batch.x0 (B, *event)``; logged are the tangent's root mean square and the warm-up's r."""
        x0 = batch.x0
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        path = self.process.sample(x0, noise, self.times(len(x0), self.process, generator))
        rising = min(1.0, self.step / self.warmup) if self.warmup else 1.0
        found, tangent = self.tangent(network, path, batch.cond, rising)
        size = tangent.square().flatten(1).mean(1).sqrt()
        wanted = found.detach() + tangent / expand_like(size + self.offset, tangent)
        terms = {"tangent": size.mean(), "warmup": torch.tensor(rising)}
        return Loss((found - wanted).square().mean(), terms)

    def tangent(
        self, network: nn.Module, path: PathSample, cond: Tensor | None, rising: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return F with gradient and g without, both ``(B, *event)``.

        Args:
            network: the student.
            path: points of the process.
            cond: condition or None.
            rising: r.
        """
        process, scale = self.process, self.prediction.sigma_data
        student = Denoiser(network, process).towards(0.0)

        def output(t: Tensor, z: Tensor) -> Tensor:
            values = process.schedule(t)
            radius = torch.hypot(values.alpha, values.sigma / scale)
            return -student.predict(t, z * expand_like(radius.to(z.dtype), z), cond, self.prediction)

        values = path.values
        radius = torch.hypot(values.alpha, values.sigma / scale)
        cosine, sine = values.alpha / radius, values.sigma / scale / radius
        # dt/dθ; 0 where σ̇ is infinite.
        pace = scale * radius.square() / (values.dsigma * values.alpha - values.sigma * values.dalpha)

        def expand(factor: Tensor) -> Tensor:
            return expand_like(factor.to(path.x.dtype), path.x)

        z = path.x / expand(radius)
        turn = -scale * self.direction(self.teacher, process, path, cond, self.prediction)
        product = cosine * sine
        found, change = tangent_along(output, path.t, z, product * pace, expand(product) * turn)
        slope = expand(cosine.square()) * (scale * found.detach() - turn)
        return found, -slope - rising * (expand(product) * z + scale * change)
