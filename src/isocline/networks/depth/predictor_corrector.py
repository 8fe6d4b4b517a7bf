"""Predictor and corrector in depth: Runge–Kutta stages with decaying weights, then Adams–Moulton over layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from isocline.networks.depth.block import ResidualBlock
from isocline.networks.depth.integrator import DepthStep
from isocline.networks.depth.runge_kutta import AbstractStaged, combine, stage_slopes, stage_weights
from isocline.solvers.explicit import AbstractRungeKutta
from isocline.solvers.polynomial import integrated_lagrange

__all__ = ["PredictorCorrector"]


class PredictorCorrector(AbstractStaged):
    """The step of PCformer.

    Predictor: ``p = x_l + Σ_i b (1 − b)^{n−i} F_i`` over the n stages of a Runge–Kutta method, b learned by each block
    from 0.5. Corrector: ``x_{l+1} = x_l + α F(p) + Σ_j β_j F_{l−j}(x_{l−j})`` over the slopes of this layer (j = 0)
    and of those before it, α and β learned by each block from Adams and Moulton's weights; the first layers, which have
    fewer before them, from those of lower order.

    The predictor's weights sum to 1 − (1 − b)ⁿ, so that it is consistent for b = 1 alone: with b = ½ its error is of
    the order of the step, and the whole method, whatever the corrector, of order 1. With b = 1 it is of order 2.

    Source: Li et al., Predictor-corrector enhanced Transformers with exponential moving average coefficient learning
    (2024); Xiao et al. (2026), Eqs. 44–45; weights of Adams–Moulton: Hairer, Nørsett, Wanner I, section III.1.

    Args:
        depth: number of blocks.
        width: of the states D.
        stepper: the method of the solver core whose stages the predictor takes.
        history: layers m whose slopes the corrector takes, this one included.

    Raises:
        ValueError: if ``history`` is below one.
    """

    def __init__(self, depth: int, width: int, stepper: AbstractRungeKutta, history: int = 2) -> None:
        super().__init__(depth, width, stepper)
        if history < 1:
            raise ValueError(f"history = {history}: the corrector needs this layer's slope at least; give 1 or more")
        self.history = history
        self.decay = nn.Parameter(torch.full((depth,), 0.5))
        known = [min(layer + 1, history) for layer in range(depth)]
        self.weights = nn.ParameterList([nn.Parameter(_adams_moulton(count)) for count in known])

    def init(self, x: Tensor) -> Any:
        """No slopes yet."""
        return ()

    def step(self, layer: int, block: ResidualBlock, x: Tensor, c: Tensor | None, carry: Any) -> DepthStep:
        """See the base class."""
        field = block.branches(c).field
        slopes = stage_slopes(self.table, field, x)
        b, last = self.decay[layer], len(stage_weights(self.table)) - 1
        shares = torch.stack([b * (1 - b) ** (last - place) for place in range(last + 1)])
        past = (slopes[0], *carry)[: self.history]
        end = field(combine(x, shares, slopes))
        return DepthStep(combine(x, self.weights[layer], (end, *past)), past)


def _adams_moulton(past: int) -> Tensor:
    """Weights of the slope at the end of a step of length one, and of ``past`` slopes from its start back."""
    with torch.device("cpu"):
        nodes = torch.arange(1, -past, -1, dtype=torch.float64)
        return integrated_lagrange(nodes).sum(-1).float()
