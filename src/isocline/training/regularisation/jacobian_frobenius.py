"""Frobenius norm of a network's Jacobian, by random projections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from isocline.networks.depth.continuous import Continuous
from isocline.networks.residual_layers import HasResidualLayers
from isocline.objectives.base import Objective
from isocline.objectives.maximum_likelihood import ContinuousMaximumLikelihood
from isocline.solvers.gradient import Backpropagation
from isocline.training.regularisation.base import AbstractPenalty
from isocline.training.regularisation.evaluations import Evaluation, mean_square, recorded
from isocline.training.regularisation.kinetic_energy import field_of, refuse_adjoint

__all__ = ["JacobianFrobenius", "pulled_square"]


def pulled_square(output: Tensor, state: Tensor, probe: Tensor) -> Tensor:
    """‖Jᵀ v‖² over the batch, divided by its elements: one reverse sweep, itself differentiable.

    For v of unit variance in every coordinate its mean is E ‖∂f/∂x‖_F²/d.

    Args:
        output: f(x) ``(B, …)``.
        state: x ``(B, *event)``, from which it was computed, sample by sample.
        probe: v, shape of the output.
    """
    (pulled,) = torch.autograd.grad(output, state, probe, create_graph=torch.is_grad_enabled())
    return mean_square(pulled)


class JacobianFrobenius(AbstractPenalty):
    """E ‖∂f/∂x‖_F²/d at the states at which the objective evaluates the network, by Hutchinson's estimator.

    f is the network; of a neural ODE its field; where states are tokens, the features of the Transformer as a function
    of the embeddings. ‖J‖_F² = E_v ‖Jᵀ v‖² for v = ±1, whose reverse sweep goes through the evaluation that the
    objective made. Attention takes the form that can be differentiated twice, which is slower and holds its L² logits.

    Source: *Robust Learning with Jacobian Regularization*, Hoffman, Roberts & Yaida, 2019; *How to Train Your Neural
    ODE*, Finlay et al., 2020, Eq. 7.

    Args:
        weight: λ.
        draws: probes v of each evaluation.

    Raises:
        ValueError: if the weight is negative or there is no draw.
    """

    hooked = True

    def __init__(self, weight: float = 1e-3, draws: int = 1) -> None:
        super().__init__(weight)
        if draws < 1:
            raise ValueError(f"draws = {draws}: must be at least 1")
        self.draws = draws
        self._seen: list[Evaluation] = []
        self._within: list[Evaluation] = []
        self._generator = torch.Generator()

    def check(self, network: nn.Module, objective: Objective) -> None:
        """Refuse a solve that records no evaluations, and continuous flows, which have it along their paths."""
        if isinstance(objective, ContinuousMaximumLikelihood):
            raise ValueError("the objective has this integral along its paths; set objective.jacobian instead")
        refuse_adjoint(network)
        for method in network.modules():
            if isinstance(method, Continuous) and not isinstance(method.gradient, Backpropagation | None):
                raise ValueError(
                    f"network.integrator.gradient = {type(method.gradient).__name__} cannot be differentiated twice; "
                    "set network.integrator.gradient to backpropagation, or remove it"
                )

    @contextlib.contextmanager
    def watch(self, network: nn.Module, generator: torch.Generator) -> Iterator[None]:
        """Record evaluations whose state requires a gradient."""
        self._seen, self._within, self._generator = [], [], generator
        trunks = [m for m in network.modules() if m is not network and isinstance(m, HasResidualLayers)]
        with contextlib.ExitStack() as stack:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(recorded(field_of(network), self._seen, differentiable=True))
            for trunk in trunks:
                stack.enter_context(recorded(trunk, self._within, first=True, differentiable=True))
            yield

    def value(self, network: nn.Module) -> Tensor:
        """Return the mean over evaluations and draws.

        Raises:
            ValueError: if there was no evaluation.
        """
        seen, self._seen, self._within = self._seen or self._within, [], []
        if not seen:
            raise ValueError(
                "the objective makes no evaluation that can be differentiated again; remove it, or take lipschitz_cap"
            )
        squares = [
            pulled_square(call.output, call.state, self._probe(call.output)) for call in seen for _ in range(self.draws)
        ]
        return torch.stack(squares).mean()

    def _probe(self, like: Tensor) -> Tensor:
        signs = torch.randint(0, 2, like.shape, generator=self._generator, device=self._generator.device)
        return (2 * signs - 1).to(device=like.device, dtype=like.dtype)
