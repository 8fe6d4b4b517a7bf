"""Continuous-time bounds that compare the reverse rates of the data with the model's, whatever they are written in.

Given x, the time reversal jumps from z to y at the rate g_t(z) q_t(y|x)/q_t(z|x), g = n' − (a'/a) n; the model has its
plug-in x_θ in place of x. The divergence of the two, integrated over t, bounds −ln p(x), and is the entropy for the
leave-one-out law of the exact denoiser. Score entropy, UDLM and GIDD are three ways to write it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.corrupted_laws import CorruptedLaws, corrupted_laws
from isocline.objectives.end_terms import prior_divergence, reconstruction
from isocline.objectives.onset_times import OnsetTimes, onset_times
from isocline.objectives.sequence_likelihood import LikelihoodEstimate, stratified_uniforms
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes, TimeRange
from isocline.processes.kernel import AbstractKernel
from isocline.processes.leave_one_out import leave_one_out_log_probs, noise_of
from isocline.shapes import expand_like

__all__ = ["ReverseRateBound", "ReverseRates", "reverse_rates"]

_EDGE = 1e-12
"""Distance from the ends of time, where weights are infinite; a draw comes closer with probability 1e-12."""


class ReverseRates(NamedTuple):
    """What the reverse rates of the data and of the model are made of, at every position.

    Attributes:
        decay: −a'/a, rate at which a token is lost, ``(B, 1)`` float64.
        inflow: g_t(z) = n'(z) + decay · n(z), rate at which noise turns any other symbol into z, ``(B, L)`` float64.
        laws: q_t(·|x) and q_t(·|x_θ).
    """

    decay: Tensor
    inflow: Tensor
    laws: CorruptedLaws


def reverse_rates(kernel: AbstractKernel, logits: Tensor, x0: Tensor, z: Tensor, t: Tensor) -> ReverseRates:
    """Compare the reverse rates at ``z`` that know ``x0`` with those of a network, its leave-one-out law plugged in.

    Args:
        kernel: the corruption.
        logits: of p(x|z), ``(B, L, V)``.
        x0: clean tokens, ``(B, L)``.
        z: noisy tokens, ``(B, L)``.
        t: time inside (0, 1), ``(B,)``.
    """
    plug_in = leave_one_out_log_probs(kernel, logits, z, t)
    a = kernel.schedule.a(t)
    decay = torch.where(a > 0, -kernel.schedule.da(t) / a, 0.0)
    inflow = noise_of(kernel.noise_rate(t) + decay.unsqueeze(-1) * kernel.noise(t), z)
    return ReverseRates(expand_like(decay, z), inflow, corrupted_laws(kernel, plug_in, x0, z, t))


class ReverseRateBound(Objective):
    """∫ E Σ_i D_t(z_i) dt with D the divergence of the reverse rates; per token in nats.

    Args:
        process: kernel q_t = a δ_x + n_t.
        times: how the uniform draws are made from which `bound_times` takes t for a batch; stratified over the batch
            by default.
        start: time below which the likelihood's model follows no rates, but draws every token from p(x|z). 0
            integrates to the end.

    Raises:
        TypeError: if the kernel is not of that form.
        ValueError: if ``start`` is not in [0, 1).
    """

    def __init__(
        self, process: AbstractKernel, times: AbstractTimes[TimeRange] | None = None, start: float = 0.0
    ) -> None:
        super().__init__()
        if not isinstance(process, AbstractKernel):
            raise TypeError(f"process = {type(process).__name__}: needs a kernel of survival and noise, AbstractKernel")
        if not 0.0 <= start < 1.0:
            raise ValueError(f"start = {start}: must be in [0, 1)")
        self.process = process
        self.times = StratifiedTimes() if times is None else times
        self.start = start

    @abstractmethod
    def divergence(self, rates: ReverseRates) -> Tensor:
        """D_t(z_i), nats per unit of time and position, ``(B, L)`` float64, at least 0."""

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One draw of t and z per sequence of ``batch.x0`` ``(B, L)``."""
        x0 = batch.x0
        t, weight = self.bound_times(self.times(x0.shape[0], self.process, generator))
        z = self.process.sample(x0, t, generator)
        rates = reverse_rates(self.process, network(t, z, batch.cond), x0, z, t)
        total = (weight * self.divergence(rates).mean(-1)).mean()
        return Loss(total, {"nats_per_token": total.detach()})

    def bound_times(self, u: Tensor, start: float = 0.0) -> OnsetTimes:
        """Times and weights for uniform draws ``u`` ``(B,)`` that give the bound from ``start`` a finite variance."""
        t, weight = onset_times(u, self.process.schedule.onset, start)
        return OnsetTimes(t.clamp(_EDGE, 1.0 - _EDGE), weight)

    @torch.no_grad()
    def negative_log_likelihood(
        self,
        network: nn.Module,
        tokens: Tensor,
        generator: torch.Generator,
        strata: int = 32,
        cond: Tensor | None = None,
    ) -> LikelihoodEstimate:
        """The integral from ``start`` to 1, KL(q_1 ‖ prior) and the reconstruction at ``start``.

        Args:
            network: ``network(t, z, cond) -> (B, L, V)`` logits of p(x|z).
            tokens: ``(B, L)``.
            generator: source of times and noise.
            strata: cells of t; network evaluations per sequence, one more for a reconstruction.
            cond: condition or None.

        Returns:
            Nats per sequence, a bound.
        """
        nats = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        for u in stratified_uniforms(strata, len(tokens), generator):
            t, weight = self.bound_times(u, self.start)
            z = self.process.sample(tokens, t, generator)
            rates = reverse_rates(self.process, network(t, z, cond), tokens, z, t)
            nats += weight * self.divergence(rates).sum(-1)
        nats = nats / strata + prior_divergence(self.process, tokens)
        return LikelihoodEstimate(
            nats + reconstruction(network, self.process, tokens, self.start, generator, cond), "bound"
        )
