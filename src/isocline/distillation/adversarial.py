"""An adversarial term beside any distillation of flow maps: one step of the student is to look like data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from isocline.datasets.batch import Batch
from isocline.distillation.adversarial_loss import AbstractAdversarialLoss, HingeLoss
from isocline.distillation.discriminator import AbstractDiscriminator
from isocline.distillation.shared_dropout import SharedDropout
from isocline.objectives.base import Distiller, Loss
from isocline.objectives.time_sampling import AbstractTimes, StratifiedTimes
from isocline.processes.denoiser import Denoiser
from isocline.processes.flow_map import flow_map
from isocline.processes.gaussian import GaussianProcess

__all__ = ["Adversarial", "NonFiniteDiscriminatorError", "adversarial"]


class NonFiniteDiscriminatorError(ValueError):
    """The discriminator's loss became NaN or infinite; neither it nor the student has taken the step."""


class Adversarial(Distiller):
    """loss + λ ℓ(D(x̂_τ)), x̂_τ = α_τ X_{1→0}(noise) + σ_τ ε, while D learns to tell x̂_τ from data at the same τ.

    D sees layers of the teacher (`FeatureDiscriminator`) or the images (`ImageDiscriminator`). As the teacher was
    trained on noisy states, both sides are noised. D has an optimiser of its own: its gradient is taken in `forward`
    and applied in `after_step`, so that it sees neither the student's learning rate nor its clipping, and a checkpoint
    has both. D learns while λ is 0; λ rises linearly over ``warmup`` steps.

    With λ = 0 the loss, its random draws and the student are those of the wrapped distiller to the bit. What is judged
    is the map from noise to data in one step: the term suits students that learn that map.

    Source: *Adversarial Diffusion Distillation*, Sauer et al., 2023, Eqs. 1 to 3; *Fast High-Resolution Image
    Synthesis with Latent Adversarial Diffusion Distillation*, Sauer et al., 2024, §3.

    Args:
        distiller: whose loss is kept.
        process: the teacher's.
        discriminator: called with the teacher, returns D.
        weight: λ.
        warmup: optimiser steps until λ is reached.
        r1: weight of the penalty ½ ‖∂D/∂features‖² on data, of each head.
        loss: hinge by default.
        times: law of τ.
        optimizer: called with D's parameters; Adam with learning rate 0.001 and betas 0 and 0.99 by default.

    Raises:
        ValueError: if a weight or the warm-up is negative, or from ``discriminator``.
    """

    def __init__(
        self,
        distiller: Distiller,
        process: GaussianProcess,
        discriminator: Callable[[nn.Module], AbstractDiscriminator],
        weight: float = 0.1,
        warmup: int = 0,
        r1: float = 0.0,
        loss: AbstractAdversarialLoss | None = None,
        times: AbstractTimes[GaussianProcess] | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] | None = None,
    ) -> None:
        super().__init__(distiller.teacher)
        if min(weight, warmup, r1) < 0:
            raise ValueError(f"weight={weight}, warmup={warmup} and r1={r1} must not be negative")
        self.distiller = distiller
        self.process = process
        self.weight, self.warmup, self.r1 = weight, warmup, r1
        self.loss = HingeLoss() if loss is None else loss
        self.times = StratifiedTimes() if times is None else times
        # The streams go on as if nothing had been drawn: dropout would show it otherwise.
        with torch.random.fork_rng(devices=[]):
            # Frozen for the student's optimiser, which takes what an objective has to train.
            self.discriminator = discriminator(distiller.teacher).requires_grad_(False)
        build = partial(torch.optim.Adam, lr=1e-3, betas=(0.0, 0.99)) if optimizer is None else optimizer
        self.optimizer = build(self.discriminator.parameters())
        self.step = 0

    @property
    def present_weight(self) -> float:
        """λ at the present step."""
        return self.weight * (min(1.0, self.step / self.warmup) if self.warmup else 1.0)

    def forward(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Loss:
        """Evaluate the loss and D's gradient.

        The logged terms beside the distiller's are ``adversarial`` (the student's, unweighted), ``discriminator`` (D's)
        and ``lead``, by how much D's logits are higher for data than for the student's samples.

        Raises:
            NonFiniteDiscriminatorError: on the CPU, if D's loss is no number though the student's samples are: the
                student's loss would show that a step later, and while λ is 0 not at all.
        """
        weight = self.present_weight
        dropout = SharedDropout(batch.x0.device)
        inner: Loss = self.distiller(network, batch, generator)
        tau = self.times(len(batch.x0), self.process, generator)
        with torch.set_grad_enabled(weight > 0):
            with dropout.replayed():
                fake = self._features(self._one_step(network, batch, generator), tau, batch, generator)
            with torch.no_grad():
                real = self._features(batch.x0, tau, batch, generator)
            term = self.loss.student(self.discriminator(fake, tau))
        cost, lead = self._learn(real, [tokens.detach() for tokens in fake], tau)
        terms = {**inner.terms, "adversarial": term.detach(), "discriminator": cost, "lead": lead}
        return Loss(inner.total + weight * term if weight > 0 else inner.total, terms)

    def _one_step(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
        """X_{1→0} of fresh noise."""
        x0, process = batch.x0, self.process
        noise = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
        return flow_map(Denoiser(network, process), process.t_max, 0.0, process.prior(noise), batch.cond)

    def _features(self, x: Tensor, tau: Tensor, batch: Batch, generator: torch.Generator) -> list[Tensor]:
        """What the teacher sees of data x noised up to τ."""
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
        return self.discriminator.features(tau, self.process.mix(x, noise, self.process.schedule(tau)), batch.cond)

    @torch.enable_grad()  # type: ignore[untyped-decorator]
    def _learn(self, real: list[Tensor], fake: list[Tensor], tau: Tensor) -> tuple[Tensor, Tensor]:
        """Leave D's gradient with its parameters; return its loss and its lead, detached."""
        leaves = {name: p.detach().requires_grad_() for name, p in self.discriminator.named_parameters()}
        real = [tokens.detach().requires_grad_(self.r1 > 0) for tokens in real]

        def judge(features: list[Tensor]) -> Tensor:
            return torch.func.functional_call(self.discriminator, leaves, (features, tau))  # type: ignore[no-any-return]

        of_real, of_fake = judge(real), judge(fake)
        cost = self.loss.discriminator(of_real, of_fake)
        if self.r1 > 0:
            slopes = torch.autograd.grad(of_real.sum(), real, create_graph=True)
            cost = cost + 0.5 * self.r1 * torch.stack([s.square().flatten(1).sum(1).mean() for s in slopes]).mean()
        # A student that is no number itself is named by its own loss.
        finite = cost.device.type != "cpu" or math.isfinite(cost.item())
        if not finite and all(bool(tokens.isfinite().all()) for tokens in (*real, *fake)):
            raise NonFiniteDiscriminatorError(
                f"the discriminator's loss is {cost.item()} at step {self.step}; lower adversary.optimizer.lr or "
                "adversary.r1 (the last good checkpoint is kept)"
            )
        gradients = torch.autograd.grad(cost, list(leaves.values()))
        for parameter, gradient in zip(self.discriminator.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return cost.detach(), (of_real.mean() - of_fake.mean()).detach()

    def prepare(self, network: nn.Module) -> None:
        """Prepare the distiller."""
        self.distiller.prepare(network)

    def after_step(self, network: nn.Module, step: int) -> None:
        """Step D and what the distiller keeps."""
        self.distiller.after_step(network, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step = step

    def evaluations(self) -> int:
        """Return the distiller's count, which has seen D's calls of the teacher too."""
        self.teacher_evaluations.fill_(self.distiller.evaluations())
        return int(self.teacher_evaluations)

    def get_extra_state(self) -> dict[str, Any]:
        """Return the step and the state of D's optimiser."""
        return {"step": self.step, "optimizer": self.optimizer.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])


def adversarial(
    base: Callable[..., Distiller],
    adversary: Callable[..., Adversarial],
    process: GaussianProcess,
    teacher: nn.Module,
    **parts: Any,
) -> Adversarial:
    """Build a distiller and put an adversary beside it; its parts stay where they were in a configuration.

    Args:
        base: makes the distiller from process, teacher and ``parts``.
        adversary: `Adversarial` with its settings, to be called with the distiller and the process.
        process: the teacher's.
        teacher: frozen network.
        **parts: arguments of ``base``.

    Raises:
        ValueError: from either.
    """
    return adversary(base(process=process, teacher=teacher, **parts), process)
