"""Discrete flow matching: cross-entropy training along a mixture path, likelihood by the generalised KL of its rates.

References: "Discrete Flow Matching", Gat et al., 2024 (paths, rates, cross-entropy); "Flow Matching with General
Discrete Paths: A Kinetic-Optimal Perspective", Shaul et al., 2024 (the bound).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.end_terms import prior_divergence, reconstruction
from isocline.objectives.gidd import interpolating_divergence
from isocline.objectives.onset_times import onset_times
from isocline.objectives.reverse_rate_bound import reverse_rates
from isocline.objectives.sequence_likelihood import (
    FLOW_BOUND,
    LikelihoodEstimate,
    stratified_uniforms,
    token_log_probs,
)
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes, TimeRange
from isocline.processes.kernel import AbsorbingKernel, AbstractFixedNoiseKernel, AbstractKernel

__all__ = ["DiscreteFlowMatching", "generalised_kl"]


def generalised_kl(log_probs: Tensor, x0: Tensor, z: Tensor) -> Tensor:
    """Generalised KL divergence between the rates that know x and the model's, in units of the hazard −a'/(1−a).

    Σ_i [1(z_i ≠ x_i)(−log p(x_i|z)) + 1(z_i = x_i) − p(z_i|z)], from
    Σ_{y≠z} u_x log(u_x/u) − u_x + u with u_x = h(δ_x − δ_z) and u = h(p − δ_z).

    Args:
        log_probs: log p(x|z), ``(B, L, V)``.
        x0: clean tokens, ``(B, L)``.
        z: noisy tokens, ``(B, L)``.

    Returns:
        ``(B,)``, at least 0.
    """
    same = z == x0
    surprise = torch.where(same, 0.0, -token_log_probs(log_probs, x0))
    return (surprise + same.to(log_probs.dtype) - token_log_probs(log_probs, z).exp()).sum(-1)


class DiscreteFlowMatching(Objective):
    """Cross-entropy of the clean tokens given z_t ~ q_t(·|x), unweighted over t; per token in nats.

    Args:
        process: kernel whose mixture path is followed.
        times: how t is drawn for a batch; stratified over the batch by default.
        decision_time: time at which the likelihood's model stops following its rates and draws every token from
            p(x|z) (what a sampler's last step does). Below it a trained network's rate 1/t · (1 − p(z|z)) would
            make the bound infinite. 0 integrates to the end, which the absorbing kernel allows.

    Raises:
        ValueError: if ``decision_time`` is not in [0, 1).
    """

    def __init__(
        self,
        process: AbstractKernel,
        times: AbstractTimes[TimeRange] | None = None,
        decision_time: float = 0.01,
    ) -> None:
        super().__init__()
        if not 0.0 <= decision_time < 1.0:
            raise ValueError(f"decision_time = {decision_time}: must be in [0, 1)")
        self.process = process
        self.times = StratifiedTimes() if times is None else times
        self.decision_time = decision_time

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One draw of t and z per sequence of ``batch.x0`` ``(B, L)``."""
        x0 = batch.x0
        t = self.times(x0.shape[0], self.process, generator)
        z = self.process.sample(x0, t, generator)
        log_probs = self.process.clean_log_probs(network(t, z, batch.cond), z)
        total = -token_log_probs(log_probs, x0).mean()
        return Loss(total, {"cross_entropy": total.detach()})

    @torch.no_grad()
    def negative_log_likelihood(
        self,
        network: nn.Module,
        tokens: Tensor,
        generator: torch.Generator,
        strata: int = 32,
        cond: Tensor | None = None,
    ) -> LikelihoodEstimate:
        """Bound ∫_ε^1 E[generalised KL] dt + E[−Σ log p(x_i|z_ε)] + KL(q_1 ‖ prior), ε the decision time.

        For the absorbing kernel and ε = 0 it is the masked bound. For the uniform kernel it is a bound of its own,
        loose even for the exact denoiser, and its kind says so (`FLOW_BOUND`): never compare it with one that uses the
        time-reversal rates (UDLM, SEDD).
        A kernel whose noise law moves (hybrid) has no such simple rates; there the time-reversal rates
        g_t(z) q_t(y|·)/q_t(z|·) are followed, and the bound is GIDD's.

        Args:
            network: ``network(t, z, cond) -> (B, L, V)``.
            tokens: ``(B, L)``.
            generator: source of times and noise.
            strata: cells of t; network evaluations per sequence, one more if ε > 0.
            cond: condition or None.

        Returns:
            Nats per sequence, a bound; of finite variance for every ε (`isocline.objectives.onset_times`).
        """
        start = self.decision_time
        nats = torch.zeros(tokens.shape[0], dtype=torch.float64, device=tokens.device)
        for u in stratified_uniforms(strata, tokens.shape[0], generator):
            t, weight = onset_times(u, self.process.schedule.onset, start)
            z = self.process.sample(tokens, t, generator)
            nats += weight * self.rate_divergence(network(t, z, cond), tokens, z, t)
        nats = nats / strata + prior_divergence(self.process, tokens)
        nats = nats + reconstruction(network, self.process, tokens, start, generator, cond)
        return LikelihoodEstimate(nats, FLOW_BOUND if self.loose else "bound")

    @property
    def loose(self) -> bool:
        """Whether the bound is above the entropy even for the exact denoiser."""
        return isinstance(self.process, AbstractFixedNoiseKernel) and not isinstance(self.process, AbsorbingKernel)

    def rate_divergence(self, logits: Tensor, x0: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """Generalised KL of the rates that know ``x0`` from the model's, nats per unit of time, ``(B,)`` float64."""
        if isinstance(self.process, AbstractFixedNoiseKernel):
            log_probs = self.process.clean_log_probs(logits, z).double()
            return self.process.schedule.hazard(t) * generalised_kl(log_probs, x0, z)
        return interpolating_divergence(reverse_rates(self.process, logits, x0, z, t)).sum(-1)
