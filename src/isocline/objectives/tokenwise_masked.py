"""Masked diffusion with a schedule per token, trained beside the network for a tighter bound.

Source: "Simplified and Generalized Masked Diffusion for Discrete Data", Shi et al., 2024, section 6 and appendix D (the
bound, and its gradient by leave-one-out REINFORCE).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.onset_times import OnsetTimes, onset_times
from isocline.objectives.sequence_likelihood import LikelihoodEstimate, stratified_uniforms, token_log_probs
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes, TimeRange
from isocline.processes.corruption import AbstractCorruption
from isocline.processes.tokenwise_kernel import TokenwiseAbsorbingKernel

__all__ = ["TokenwiseMaskedDiffusion"]


class TokenwiseMaskedDiffusion(Objective):
    """∫ E Σ_masked [h_x (−log p(x|z)) + Σ_v h_v p(v|z) − h_x] dt, h_v = −a_v'/(1 − a_v); per token in nats.

    The generalised KL divergence between the rates h_x δ_x of the true reversal and h_v p(v|z) of the model's, an upper
    bound on −log p(x), tight for the exact denoiser p(x|z_t) of this kernel. With one schedule for all tokens it is the
    masked bound. It depends on the exponents through the rates and through the law of the masks: two draws of masks per
    sequence, each the other's baseline, give an unbiased gradient (REINFORCE leave-one-out).

    Args:
        process: the kernel whose schedules are trained.
        times: how the uniform draws are made from which `bound_times` takes t for a batch; stratified over the batch
            by default.

    Raises:
        TypeError: if the kernel has no schedule per token.
    """

    def __init__(self, process: AbstractCorruption, times: AbstractTimes[TimeRange] | None = None) -> None:
        super().__init__()
        if not isinstance(process, TokenwiseAbsorbingKernel):
            raise TypeError(f"process = {type(process).__name__}: a schedule per token needs TokenwiseAbsorbingKernel")
        self.process = process
        self.schedule = process.schedule
        self.times = StratifiedTimes() if times is None else times

    def divergence(self, network: nn.Module, x0: Tensor, z: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """The integrand at ``t`` ``(B,)`` for masks ``z`` ``(B, L)``, per sequence, ``(B,)`` float64."""
        masked = self.process.undecided(z)
        log_probs = self.process.clean_log_probs(network(t, z, cond), z).double()
        hazard = self.schedule.hazard(t)
        true = hazard.gather(-1, x0)
        model = (log_probs.exp() * hazard.unsqueeze(-2)).sum(-1)
        return torch.where(masked, model - true * (1.0 + token_log_probs(log_probs, x0)), 0.0).sum(-1)

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One draw of t and two of z per sequence of ``batch.x0`` ``(B, L)``; two evaluations of the network."""
        x0, length = batch.x0, batch.x0.shape[1]
        t, weight = self.bound_times(self.times(x0.shape[0], self.process, generator))
        first, second = (self.process.sample(x0, t, generator) for _ in range(2))
        one, other = (weight * self.divergence(network, x0, z, t, batch.cond) for z in (first, second))
        score = self.process.log_law(x0, first, t) - self.process.log_law(x0, second, t)
        baseline = 0.5 * (one - other).detach() * (score - score.detach())
        value = 0.5 * (one + other)
        total = (value + baseline).mean() / length
        spread = self.schedule.log_exponents[:-1].detach().std()
        return Loss(total, {"nats_per_token": total.detach(), "exponent_spread": spread})

    def bound_times(self, u: Tensor) -> OnsetTimes:
        """Times and weights for uniform draws ``u`` ``(B,)``, by which the bound has a finite variance.

        They follow the least of the exponents as it is now, and carry no gradient to it.
        """
        t, weight = onset_times(u, self.schedule.onset)
        # At t = 0 rates are infinite, though nothing is masked there.
        return OnsetTimes(t.clamp_min(1e-12), weight)

    @torch.no_grad()
    def negative_log_likelihood(
        self,
        network: nn.Module,
        tokens: Tensor,
        generator: torch.Generator,
        strata: int = 32,
        cond: Tensor | None = None,
    ) -> LikelihoodEstimate:
        """The bound, stratified over t; nothing is added at the ends, which every exponent meets exactly.

        Args:
            network: ``network(t, z, cond) -> (B, L, V)``.
            tokens: ``(B, L)``.
            generator: source of times and masks.
            strata: cells of t; network evaluations per sequence.
            cond: condition or None.

        Returns:
            Nats per sequence, a bound.
        """
        nats = torch.zeros(tokens.shape[0], dtype=torch.float64, device=tokens.device)
        for u in stratified_uniforms(strata, tokens.shape[0], generator):
            t, weight = self.bound_times(u)
            nats += weight * self.divergence(network, tokens, self.process.sample(tokens, t, generator), t, cond)
        return LikelihoodEstimate(nats / strata, "bound")
