"""D3PM: diffusion of tokens in T discrete steps, by the Kullback-Leibler divergences of its posteriors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.corrupted_laws import corrupted_laws
from isocline.objectives.end_terms import prior_divergence
from isocline.objectives.sequence_likelihood import LikelihoodEstimate, stratified_uniforms, token_log_probs
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes, TimeRange
from isocline.processes.corruption import AbstractCorruption
from isocline.processes.kernel import AbstractKernel
from isocline.processes.leave_one_out import leave_one_out_log_probs, noise_of
from isocline.shapes import expand_like

__all__ = ["DiscreteTimeDiffusion", "StepCosts", "posterior_costs", "survival_costs"]


class StepCosts(NamedTuple):
    """Costs of one step at every position, ``(B, L)`` float64 each.

    Attributes:
        divergence: KL(q(z_s|z_t, x) ‖ p_θ(z_s|z_t)).
        surprise: −ln p_θ(x|z_t).
    """

    divergence: Tensor
    surprise: Tensor


def posterior_costs(
    process: AbstractCorruption, logits: Tensor, x0: Tensor, z: Tensor, s: Tensor, t: Tensor
) -> StepCosts:
    """Costs of the step from t to s for any chain, by its posteriors over the vocabulary in float64.

    Args:
        process: the corruption.
        logits: a network's output at ``z`` and ``t``, ``(B, L, V)``.
        x0: clean tokens, ``(B, L)``.
        z: tokens at t, ``(B, L)``.
        s: earlier time, ``()`` or ``(B,)``, above 0.
        t: later time, likewise.
    """
    log_probs = process.clean_log_probs(logits, z).double()
    onehot = torch.nn.functional.one_hot(x0, process.vocab_size).double()
    truth, model = process.posterior(z, s, t, onehot), process.posterior(z, s, t, log_probs.exp())
    # A symbol that cannot be reached has probability 0 under both; its logarithm must not enter the gradient.
    divergence = torch.xlogy(truth, truth) - truth * torch.where(truth > 0, model, 1.0).log()
    return StepCosts(divergence.sum(-1), -token_log_probs(log_probs, x0))


def survival_costs(kernel: AbstractKernel, logits: Tensor, x0: Tensor, z: Tensor, s: Tensor, t: Tensor) -> StepCosts:
    """`posterior_costs` of a kernel q_t = a δ_x + n_t, by one pass over the vocabulary.

    With m = n_t − (a_t/a_s) n_s the posterior is [(a_t/a_s) δ_z(y) + m_z] q_s(y|x)/q_t(z|x), and the model's has the
    leave-one-out law x_θ in place of x, so that the divergence is
    [m_z KL(q_s(·|x) ‖ q_s(·|x_θ)) + (a_t/a_s) q_s(z|x) ln(q_s(z|x)/q_s(z|x_θ))]/q_t(z|x) + ln(q_t(z|x_θ)/q_t(z|x)).
    """
    plug_in = leave_one_out_log_probs(kernel, logits, z, t)
    before = corrupted_laws(kernel, plug_in, x0, z, s)
    log_x, log_z = plug_in.gather(-1, torch.stack([x0, z], dim=-1)).double().unbind(-1)
    a_t, ratio = kernel.schedule.a(t), kernel.schedule.a(t) / kernel.schedule.a(s)
    noise = noise_of(kernel.noise(t), z)
    a_t, ratio = expand_like(a_t, z), expand_like(ratio, z)
    truth, model = a_t * (z == x0) + noise, a_t * log_z.exp() + noise
    fresh = (noise - ratio * noise_of(kernel.noise(s), z)).clamp_min(0.0)
    stayed = ratio * before.truth * (before.truth / before.model).log().nan_to_num(0.0)
    loss_of_z = (model / truth).log()
    return StepCosts((fresh * before.divergence + stayed) / truth + loss_of_z, loss_of_z - log_x)


class DiscreteTimeDiffusion(Objective):
    """Σ_{i=2}^T E KL(q(z_s|z_t, x) ‖ p_θ(z_s|z_t)) − E ln p_θ(x|z_{1/T}) + KL(q_1 ‖ prior), t = i/T, s = t − 1/T.

    p_θ(z_s|z_t) = Σ_k p(k|z_t) q(z_s|z_t, x=k). A bound on −ln p(x) for every T; with the exact denoiser the value
    falls towards the continuous-time limit about like 1/T. Per token in nats.

    Source: "Structured Denoising Diffusion Models in Discrete State-Spaces", Austin et al., 2021, Eq. 1 and 5.

    Args:
        process: any corruption; cheap for kernels of survival and noise.
        steps: T.
        cross_entropy: weight of an added mean cross-entropy −ln p(x|z) per token (Austin et al., Eq. 5).
        times: how the step is drawn for a batch: that in which t falls. Stratified over the batch by default.

    Raises:
        ValueError: if ``steps`` is not positive or ``cross_entropy`` is negative.
    """

    def __init__(
        self,
        process: AbstractCorruption,
        steps: int = 1000,
        cross_entropy: float = 0.0,
        times: AbstractTimes[TimeRange] | None = None,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps = {steps}: needs at least one step")
        if cross_entropy < 0:
            raise ValueError(f"cross_entropy = {cross_entropy}: must not be negative; 0 leaves the bound alone")
        self.process = process
        self.steps = steps
        self.cross_entropy = cross_entropy
        self.times = StratifiedTimes() if times is None else times

    def step_costs(
        self, network: nn.Module, x0: Tensor, z: Tensor, step: Tensor, cond: Tensor | None = None
    ) -> StepCosts:
        """Costs of one step; that of step 1 is its reconstruction.

        Args:
            network: ``network(t, z, cond) -> (B, L, V)`` logits of p(x|z).
            x0: clean tokens, ``(B, L)``.
            z: tokens at t = step/T, ``(B, L)``.
            step: i, from 1 to T, ``(B,)`` int64.
            cond: condition or None.
        """
        first, t = step == 1, step.double() / self.steps
        # Half a step back keeps the divergence finite where it is not used: a gradient would carry a NaN along.
        s = torch.where(first, 0.5, step - 1.0) / self.steps
        logits = network(t, z, cond)
        if isinstance(self.process, AbstractKernel):
            costs = survival_costs(self.process, logits, x0, z, s, t)
        else:
            costs = posterior_costs(self.process, logits, x0, z, s, t)
        return costs._replace(divergence=torch.where(first.unsqueeze(-1), costs.surprise, costs.divergence))

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One draw of the step and of z per sequence of ``batch.x0`` ``(B, L)``, the constant KL(q_1 ‖ prior) apart."""
        x0 = batch.x0
        step = self._step(self.times(x0.shape[0], self.process, generator))
        z = self.process.sample(x0, step / self.steps, generator)
        costs = self.step_costs(network, x0, z, step, batch.cond)
        bound, surprise = self.steps * costs.divergence.mean(), costs.surprise.mean()
        terms = {"nats_per_token": bound.detach(), "cross_entropy": surprise.detach()}
        return Loss(bound + self.cross_entropy * surprise, terms)

    @torch.no_grad()
    def negative_log_likelihood(
        self,
        network: nn.Module,
        tokens: Tensor,
        generator: torch.Generator,
        strata: int = 32,
        cond: Tensor | None = None,
    ) -> LikelihoodEstimate:
        """The bound of T steps, stratified over the steps; with ``strata`` a multiple of T each is visited as often.

        Args:
            network: ``network(t, z, cond) -> (B, L, V)`` logits of p(x|z).
            tokens: ``(B, L)``.
            generator: source of steps and noise.
            strata: network evaluations per sequence.
            cond: condition or None.

        Returns:
            Nats per sequence, a bound.
        """
        nats = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        for u in stratified_uniforms(strata, len(tokens), generator):
            step = self._step(u)
            z = self.process.sample(tokens, step / self.steps, generator)
            nats += self.step_costs(network, tokens, z, step, cond).divergence.sum(-1)
        return LikelihoodEstimate(nats * self.steps / strata + prior_divergence(self.process, tokens), "bound")

    def _step(self, t: Tensor) -> Tensor:
        return (t * self.steps).ceil().clamp(1, self.steps).long()
