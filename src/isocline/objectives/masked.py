"""Masked diffusion in continuous time: weighted cross-entropies on the masked tokens.

References: "Simple and Effective Masked Diffusion Language Models", Sahoo et al., 2024; "Simplified and Generalized
Masked Diffusion for Discrete Data", Shi et al., 2024; fixed-count form: "Your Absorbing Discrete Diffusion Secretly
Models the Conditional Distributions of Clean Data", Ou et al., 2024.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.sequence_likelihood import LikelihoodEstimate, stratified_uniforms, token_log_probs
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes, TimeRange
from isocline.processes.kernel import AbsorbingKernel, AbstractKernel

__all__ = ["MaskedDiffusion", "mask_exactly"]


def mask_exactly(tokens: Tensor, count: Tensor, mask: int, generator: torch.Generator) -> Tensor:
    """Mask a uniformly drawn subset of exactly ``count`` ``(B,)`` positions of each row of ``tokens`` ``(B, L)``."""
    keys = torch.rand(tokens.shape, generator=generator, device=tokens.device, dtype=torch.float64)
    rank = keys.argsort(dim=-1).argsort(dim=-1)
    return tokens.masked_fill(rank < count.unsqueeze(-1), mask)


class MaskedDiffusion(Objective):
    """∫ −a'/(1−a) E Σ_masked −log p(x_i|z_t) dt, an upper bound on −log p(x); per token in nats.

    The bound is tight for the exact denoiser.

    Args:
        process: the absorbing kernel.
        times: how t is drawn for a batch; stratified over the batch by default.

    Raises:
        TypeError: if the kernel is not absorbing.
    """

    def __init__(self, process: AbstractKernel, times: AbstractTimes[TimeRange] | None = None) -> None:
        super().__init__()
        if not isinstance(process, AbsorbingKernel):
            raise TypeError(f"process = {type(process).__name__}: masked diffusion needs AbsorbingKernel")
        self.process = process
        self.times = StratifiedTimes() if times is None else times

    def cross_entropy(self, network: nn.Module, x0: Tensor, z: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """Σ_masked −log p(x_i|z) per sequence, ``(B,)``: visible tokens are copied and cost nothing."""
        log_probs = self.process.clean_log_probs(network(t, z, cond), z)
        return -token_log_probs(log_probs, x0).sum(-1)

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One draw of t and z per sequence of ``batch.x0`` ``(B, L)``."""
        t = self.times(batch.x0.shape[0], self.process, generator)
        return self.loss(network, batch, t, generator)[0]

    def loss(self, network: nn.Module, batch: Batch, t: Tensor, generator: torch.Generator) -> tuple[Loss, Tensor]:
        """The loss at given times ``t`` ``(B,)``, and each sequence's part of it, in nats, ``(B,)`` detached."""
        x0 = batch.x0
        z = self.process.sample(x0, t, generator)
        cost = self.cross_entropy(network, x0, z, t, batch.cond)
        masked = self.process.undecided(z).sum(-1)
        # A row without masks costs 0 whatever its weight, which is infinite at t = 0.
        weight = torch.where(masked > 0, self.process.schedule.hazard(t).detach(), 0.0).to(cost.dtype)
        nats = weight * cost
        total = nats.mean() / x0.shape[1]
        plain = cost.sum() / masked.sum().clamp_min(1)
        return Loss(total, {"nats_per_token": total.detach(), "nats_per_mask": plain.detach()}), nats.detach()

    @torch.no_grad()
    def negative_log_likelihood(
        self,
        network: nn.Module,
        tokens: Tensor,
        generator: torch.Generator,
        strata: int = 32,
        cond: Tensor | None = None,
    ) -> LikelihoodEstimate:
        """The bound in its fixed-count form, E_{l ~ U{1..L}} (L/l) Σ_masked −log p(x_i|z), stratified over l.

        The same value as the integral over t, with no singularity at 0. With ``strata`` a multiple of L every l is
        visited equally often. A network that looks at t is shown the t at which l masks are expected.

        Args:
            network: ``network(t, z, cond) -> (B, L, V)``.
            tokens: ``(B, L)``.
            generator: source of subsets.
            strata: network evaluations per sequence.
            cond: condition or None.

        Returns:
            Nats per sequence, a bound.
        """
        batch, length = tokens.shape
        nats = torch.zeros(batch, dtype=torch.float64, device=tokens.device)
        for u in stratified_uniforms(strata, batch, generator):
            count = (u * length).ceil().clamp(1, length).long()
            t = self.process.schedule.inverse(1.0 - count / length)
            z = mask_exactly(tokens, count, self.process.mask, generator)
            nats += self.cross_entropy(network, tokens, z, t, cond).double() * (length / count)
        return LikelihoodEstimate(nats / strata, "bound")
