"""Couplings: which noise, or which of other data, belongs to which data in a minibatch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

__all__ = [
    "AbstractCoupling",
    "Coupling",
    "DataCoupling",
    "IndependentCoupling",
    "MinibatchOTCoupling",
    "PairedCoupling",
]


class AbstractCoupling(ABC):
    """``coupling(x0, x1, generator) -> (x0, x1)``; rows of the result belong together.

    x0 keeps its order, so that conditions given for it stay right.
    """

    @abstractmethod
    def __call__(self, x0: Tensor, x1: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pair data with noise.

        Args:
            x0: data ``(B, *event)``.
            x1: noise that came with the batch (reflow pairs), or None.
            generator: source of noise, on x0's device.
        """


Coupling = AbstractCoupling


def _fresh(x0: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)


class IndependentCoupling(AbstractCoupling):
    """Fresh noise, independent of the data; noise that came with the batch is not used."""

    def __call__(self, x0: Tensor, x1: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw x1 ~ N(0, I)."""
        return x0, _fresh(x0, generator)


class PairedCoupling(AbstractCoupling):
    """The pairs that came with the batch: reflow."""

    def __call__(self, x0: Tensor, x1: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the batch's own pairs.

        Raises:
            ValueError: if the batch has no x1.
        """
        if x1 is None:
            raise ValueError("coupling=PairedCoupling needs batches with x1; train on data/pairs/<teacher>")
        return x0, x1


class DataCoupling(AbstractCoupling):
    """Rows of a second data set, drawn with replacement and independently of the first: both ends of a path are data.

    Args:
        data: the second data set, ``(N, *event)``.

    Raises:
        ValueError: if it is empty.
    """

    def __init__(self, data: Tensor) -> None:
        if len(data) == 0:
            raise ValueError("data is empty; a second data set needs a row at least")
        self.data = data

    def __call__(self, x0: Tensor, x1: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw x1 from the second data set."""
        rows = torch.randint(len(self.data), (len(x0),), generator=generator, device=generator.device)
        return x0, self.data[rows.to(self.data.device)].to(x0)


class MinibatchOTCoupling(AbstractCoupling):
    """The permutation of fresh noise, or of another coupling's x1, with the least Σ‖x0_i − x1_π(i)‖².

    An exact assignment on the CPU, without replacement: no noise is dropped or repeated. O(B³), about a millisecond
    at B = 64.

    Source: *Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport*, Tong et al.,
    2024; *Multisample Flow Matching*, Pooladian et al., 2023.

    Args:
        source: draws what is permuted; fresh noise by default.
    """

    def __init__(self, source: AbstractCoupling | None = None) -> None:
        self.source = IndependentCoupling() if source is None else source

    def __call__(self, x0: Tensor, x1: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw x1 and permute it to the data."""
        x0, noise = self.source(x0, x1, generator)
        # ‖x0‖² and ‖x1‖² do not depend on the permutation: the inner product decides.
        with torch.autocast(x0.device.type, enabled=False):  # in half precision the assignment would be rounded too
            gain = (x0.detach().flatten(1).double() @ noise.flatten(1).double().T).cpu().numpy()
        columns = linear_sum_assignment(gain, maximize=True)[1]
        return x0, noise[torch.as_tensor(columns, device=noise.device)]
