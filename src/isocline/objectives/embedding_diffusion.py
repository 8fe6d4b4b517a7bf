"""Diffusion of token embeddings that are trained with the network, and its likelihood bound.

References: "Diffusion-LM Improves Controllable Text Generation", Li et al., 2022; "Continuous Diffusion for Categorical
Data", Dieleman et al., 2022; "Analog Bits", Chen et al., 2023 (self-conditioning); "Likelihood-Based Diffusion Language
Models", Gulrajani & Hashimoto, 2023.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.objectives.base import Loss, Objective
from isocline.objectives.embedding_terms import AbstractEmbeddingTerm, EmbeddingPoint, TokenTerm
from isocline.objectives.gaussian_bound import AbstractBoundTimes, gaussian_bound
from isocline.objectives.given_positions import GivenPositions
from isocline.objectives.sequence_likelihood import LikelihoodEstimate, token_log_probs
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes
from isocline.processes.embedding import EmbeddingProcess, ask, expected_embedding
from isocline.processes.gaussian import GaussianProcess

__all__ = ["EmbeddingDiffusion"]


class EmbeddingDiffusion(Objective):
    """A sum of terms at x_t = α e(x) + σ ε, with e(x) the network's own embeddings.

    The default is the cross-entropy of the clean tokens. `RegressionTerm`, `PriorTerm` and `RoundingTerm` together are
    Diffusion-LM's loss. Gradients reach the embeddings through x_t and through every term.

    With self-conditioning a network that takes it is asked twice in a share of the steps: first without a guess, then
    with the embeddings that it then expected, through which no gradient flows. Given positions show their embeddings
    in the guess, as prompts do in sampling, and are left out of the loss.

    Args:
        process: the embeddings' process.
        terms: by name, under which they are logged.
        times: how t is drawn for a batch; stratified over the batch by default.
        self_conditioning: share of the steps with a guess.
        given: which positions are given in training; none by default.
        bound_times: law of t in the likelihood; uniform by default.

    Raises:
        ValueError: if there is no term or the share is outside [0, 1].
    """

    def __init__(
        self,
        process: EmbeddingProcess,
        terms: Mapping[str, AbstractEmbeddingTerm] | None = None,
        times: AbstractTimes[GaussianProcess] | None = None,
        self_conditioning: float = 0.5,
        given: GivenPositions | None = None,
        bound_times: AbstractBoundTimes | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= self_conditioning <= 1.0:
            raise ValueError(f"self_conditioning = {self_conditioning}: must be in [0, 1]")
        self.terms = {"nats_per_token": TokenTerm()} if terms is None else dict(terms)
        if not self.terms:
            raise ValueError("terms is empty; give at least one, such as TokenTerm")
        self.process = process
        self.times = StratifiedTimes() if times is None else times
        self.self_conditioning = self_conditioning
        self.given = given
        self.bound_times = bound_times

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """One draw of t and x_t per sequence of ``batch.x0`` ``(B, L)``.

        Raises:
            ValueError: if positions are given to a network that takes no guess.
        """
        process, tokens = self.process.gaussian, batch.x0
        table = network.table()  # type: ignore[operator]
        clean = network.embed(tokens)  # type: ignore[operator]
        t = self.times(len(tokens), process, generator)
        state = process.mix(clean, process.noise(clean.shape, generator, clean.dtype), process.schedule(t))
        held = self._held(network, tokens, generator)
        shown = None if self.given is None else clean.detach() * held.unsqueeze(-1)
        previous = self._guess(network, t, state, batch.cond, shown, generator)
        if shown is not None and previous is not None:
            previous = torch.where(held.unsqueeze(-1), shown, previous)
        log_probs = self.process.clean_log_probs(ask(network, t, state, batch.cond, previous))
        predicted = expected_embedding(log_probs.exp(), table)
        point = EmbeddingPoint(tokens, clean, log_probs, predicted, table, ~held, batch.cond)
        found = {name: term(network, self.process, point, generator) for name, term in self.terms.items()}
        total = torch.stack([self.terms[name].weight * value for name, value in found.items()]).sum()
        return Loss(total, {name: value.detach() for name, value in found.items()})

    def _held(self, network: nn.Module, tokens: Tensor, generator: torch.Generator) -> Tensor:
        if self.given is None:
            return torch.zeros_like(tokens, dtype=torch.bool)
        if not getattr(network, "takes_previous", False):
            raise ValueError("given positions are shown in the guess: set network.self_conditioning = true")
        batch, length = tokens.shape
        return self.given(batch, length, generator).to(tokens.device)

    def _guess(
        self,
        network: nn.Module,
        t: Tensor,
        state: Tensor,
        cond: Tensor | None,
        first: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor | None:
        """The embeddings expected after the guess ``first``, in the share of the steps that has them."""
        if not getattr(network, "takes_previous", False) or self.self_conditioning == 0:
            return first
        draw = torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)
        if float(draw) >= self.self_conditioning:
            return first
        with torch.no_grad():
            return self._expected(network, t, state.detach(), cond, first)

    def _expected(
        self, network: nn.Module, t: Tensor, state: Tensor, cond: Tensor | None, previous: Tensor | None
    ) -> Tensor:
        log_probs = self.process.clean_log_probs(ask(network, t, state, cond, previous))
        return expected_embedding(log_probs.exp(), network.table())  # type: ignore[operator]

    @torch.no_grad()
    def negative_log_likelihood(
        self,
        network: nn.Module,
        tokens: Tensor,
        generator: torch.Generator,
        strata: int = 32,
        cond: Tensor | None = None,
    ) -> LikelihoodEstimate:
        """The variational bound with the expected embedding as x̂ and the network's own law of tokens at t_min.

        A self-conditioned network is asked twice at each point, so that x̂ is a function of x_t alone.

        Args:
            network: see `EmbeddingProcess`.
            tokens: ``(B, L)``.
            generator: source of times and noise.
            strata: points per sequence.
            cond: condition or None.

        Returns:
            Nats per sequence, a bound.
        """

        def guess(t: Tensor, z: Tensor) -> Tensor | None:
            takes = getattr(network, "takes_previous", False) and self.self_conditioning > 0
            return self._expected(network, t, z, cond, None) if takes else None

        def denoise(t: Tensor, z: Tensor) -> Tensor:
            return self._expected(network, t, z, cond, guess(t, z))

        def decode(t: Tensor, z: Tensor) -> Tensor:
            log_probs = self.process.clean_log_probs(ask(network, t, z, cond, guess(t, z)))
            return token_log_probs(log_probs, tokens).double().sum(-1)

        clean = network.embed(tokens)  # type: ignore[operator]
        return gaussian_bound(self.process.gaussian, clean, denoise, decode, generator, strata, self.bound_times)
