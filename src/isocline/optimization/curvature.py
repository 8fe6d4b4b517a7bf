"""The diagonal of the Hessian from gradients alone."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from isocline.optimization.flat_parameters import FlatParameters, LossGradient
from isocline.randomness import generator

__all__ = ["DiagonalCurvature"]


@dataclass(frozen=True)
class DiagonalCurvature:
    """``E[v ⊙ H v]`` over random signs v, by a difference of gradients, averaged over time.

    One more gradient each ``every`` steps. The estimate's absolute value is used, so that directions of negative
    curvature are damped, too, as in saddle-free Newton. Draws are a function of seed and step.

    Attributes:
        every: steps between estimates.
        decay: share of the old average that is kept.
        probe: length of the difference in each component, absolute.
        seed: of the signs.

    Raises:
        ValueError: if a value is out of range.

    Source: Bekas, Kokiopoulou, Saad, An estimator for the diagonal of a matrix (2007); Yao et al., AdaHessian (2021).
    """

    every: int = 10
    decay: float = 0.9
    probe: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 <= self.decay < 1 or not self.probe > 0:
            raise ValueError(
                f"every={self.every}, decay={self.decay}, probe={self.probe}; give every >= 1, decay in [0, 1), and a "
                "positive probe"
            )

    def update(
        self, flat: FlatParameters, state: MutableMapping[Tensor, Any], gradient: LossGradient, start: Tensor, step: int
    ) -> Tensor:
        """The estimate for a step, shape (1, n); kept in the optimiser's state.

        Args:
            flat: the parameters.
            state: of the optimiser.
            gradient: of the loss.
            start: the parameters, shape (1, n).
            step: steps taken so far.
        """
        kept = flat.load(state, "curvature")
        if kept is None or step % self.every == 0:
            # The gradient where the step starts comes first: its loss is the one that the step returns.
            here = gradient(start)
            signs = torch.randint(0, 2, start.shape, generator=generator(self.seed, "curvature", step))
            v = (2 * signs - 1).to(start)
            found = (v * (gradient(start + self.probe * v) - here) / self.probe)[0]
            # The average starts at the first estimate, and forgets as fast as it may while it is young.
            number = step // self.every
            share = max(1 - self.decay, 1 / (number + 1))
            kept = found if kept is None else torch.lerp(kept, found, share)
            flat.store(state, "curvature", kept)
        return kept.abs()[None]
