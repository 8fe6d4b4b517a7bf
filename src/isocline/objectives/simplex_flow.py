"""Flow matching of relaxed tokens: a cross-entropy denoiser along any path, and the likelihood of the Gaussian one.

References: "Dirichlet Flow Matching", Stark et al., 2024, §3.2; "Continuous Diffusion for Categorical Data", Dieleman
et al., 2022 (cross-entropy in place of regression); "Variational Diffusion Models", Kingma et al., 2021 (the bound).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.gaussian_bound import AbstractBoundTimes, LogNoiseShareTimes, gaussian_bound
from isocline.objectives.given_positions import GivenPositions
from isocline.objectives.sequence_likelihood import LikelihoodEstimate, token_log_probs
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes, TimeRange
from isocline.processes.kernel import uniforms
from isocline.processes.onehot_path import OneHotGaussianPath
from isocline.processes.token_path import AbstractTokenPath

__all__ = ["OneHotGaussianFlow", "SimplexFlow"]


class SimplexFlow(Objective):
    """E_t E_x Σ_i −log p(x_i|x_t), unweighted over t; per token in nats.

    In some sequences some tokens are shown as they are, as prompts are, and cost nothing.

    The velocity of every path is linear in p(k|x_t), so that the denoiser of least cross-entropy gives the marginal
    flow whatever the path. There is no likelihood: the flow has a density of states, but no bound on the probability
    of tokens comes from it without integrating its divergence, S L numbers, along every path.

    Args:
        process: the path.
        times: how t is drawn for a batch; stratified over the batch by default.
        self_conditioning: share of batches in which a network that takes an earlier prediction is given its own one,
            made without gradient; it is given none in the others.
        given: which positions are known in training; none by default.

    Raises:
        ValueError: if the share is not in [0, 1].
    """

    process: AbstractTokenPath

    def __init__(
        self,
        process: AbstractTokenPath,
        times: AbstractTimes[TimeRange] | None = None,
        self_conditioning: float = 0.5,
        given: GivenPositions | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= self_conditioning <= 1.0:
            raise ValueError(f"self_conditioning = {self_conditioning}: a share, in [0, 1]")
        self.process = process
        self.times = StratifiedTimes() if times is None else times
        self.self_conditioning = self_conditioning
        self.given = given

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One draw of t and x per sequence of ``batch.x0`` ``(B, L)``."""
        tokens = batch.x0
        t = self.times(len(tokens), self.process, generator)
        x = self.process.sample(tokens, t, generator)
        known = self._known(tokens, generator)
        given: dict[str, Tensor] = {}
        if getattr(network, "takes_previous", False):
            coin = uniforms((1,), generator)
            if float(coin) < self.self_conditioning:
                with torch.no_grad():
                    given["previous"] = self.process.log_probs(network, t, x, batch.cond, known).exp()
        log_probs = self.process.log_probs(network, t, x, batch.cond, known, **given)
        cost = -token_log_probs(log_probs, tokens)
        total = cost.mean() if known is None else cost[known < 0].mean()
        return Loss(total, {"cross_entropy": total.detach()})

    def _known(self, tokens: Tensor, generator: torch.Generator) -> Tensor | None:
        """The tokens that are shown as they are, −1 elsewhere; None if there are none to show."""
        if self.given is None:
            return None
        return torch.where(self.given(len(tokens), tokens.shape[1], generator).to(tokens.device), tokens, -1)


class OneHotGaussianFlow(SimplexFlow):
    """The same along a Gaussian path of one-hot vectors, for which a bound on the likelihood of tokens is known.

    Args:
        process: the path.
        times: how t is drawn for a batch; stratified over the batch by default.
        self_conditioning: as for the base class.
        given: as for the base class.
        bound_times: how t is drawn for the likelihood; by default `LogNoiseShareTimes`, which has less variance than
            uniform times under `DecidedShareSchedule`.

    Raises:
        TypeError: if the path is not Gaussian.
    """

    process: OneHotGaussianPath

    def __init__(
        self,
        process: OneHotGaussianPath,
        times: AbstractTimes[TimeRange] | None = None,
        self_conditioning: float = 0.5,
        given: GivenPositions | None = None,
        bound_times: AbstractBoundTimes | None = None,
    ) -> None:
        super().__init__(process, times, self_conditioning, given)
        if not isinstance(process, OneHotGaussianPath):
            raise TypeError(
                f"process = {type(process).__name__}: the bound needs OneHotGaussianPath; use SimplexFlow for others"
            )
        self.bound_times = LogNoiseShareTimes() if bound_times is None else bound_times

    @torch.no_grad()
    def negative_log_likelihood(
        self,
        network: nn.Module,
        tokens: Tensor,
        generator: torch.Generator,
        strata: int = 32,
        cond: Tensor | None = None,
    ) -> LikelihoodEstimate:
        """The bound of `isocline.objectives.gaussian_bound`, with x̂ = s p(·|z_t) and decoded by p(x|z_{t_min}).

        Nothing is paid at t = 1, where the state is noise.

        Args:
            network: ``network(t, view, cond) -> (B, L, S)``.
            tokens: ``(B, L)``.
            generator: source of times and noise.
            strata: cells of t; network evaluations per sequence, and one more.
            cond: condition or None.

        Returns:
            Nats per sequence, a bound.
        """
        path = self.process

        def denoise(t: Tensor, z: Tensor) -> Tensor:
            return path.scale * path.log_probs(network, t, z, cond).exp()

        def decode(t: Tensor, z: Tensor) -> Tensor:
            return token_log_probs(path.log_probs(network, t, z, cond).double(), tokens).sum(-1)

        return gaussian_bound(path.gaussian, path.corner(tokens), denoise, decode, generator, strata, self.bound_times)
