"""UDLM, uniform diffusion in continuous time."""

from __future__ import annotations

from torch import Tensor

from isocline.objectives.reverse_rate_bound import ReverseRateBound, ReverseRates
from isocline.objectives.time_sampling import AbstractTimes, TimeRange
from isocline.processes.kernel import AbstractKernel, UniformKernel

__all__ = ["UniformDiffusion"]


class UniformDiffusion(ReverseRateBound):
    """∫ E Σ_i a'/(S a) [S/x̄_z − S/x̄θ_z − Σ_j (x̄_j/x̄_z) ln(x̄θ_z x̄_j/(x̄θ_j x̄_z))] dt; per token in nats.

    S is the number of real symbols, x̄ = S a x + 1 − a and x̄θ the same of the plug-in x_θ, so x̄ = S q_t(·|x).

    Source: "Simple Guidance Mechanisms for Discrete Diffusion Models", Schiff et al., 2025, Eq. 18; "The Diffusion
    Duality", Sahoo et al., 2025.

    Args:
        process: the uniform kernel.
        times: how t is drawn for a batch.
        start: see `ReverseRateBound`.

    Raises:
        TypeError: if the kernel is not uniform.
        ValueError: from `ReverseRateBound`.
    """

    def __init__(
        self, process: AbstractKernel, times: AbstractTimes[TimeRange] | None = None, start: float = 0.0
    ) -> None:
        if not isinstance(process, UniformKernel):
            raise TypeError(f"process = {type(process).__name__}: UDLM needs UniformKernel; gidd takes any kernel")
        super().__init__(process, times, start)

    def divergence(self, rates: ReverseRates) -> Tensor:
        """See the class."""
        symbols = self.process.vocab_size - 1
        truth, model = symbols * rates.laws.truth, symbols * rates.laws.model
        # Σ_j x̄_j = S, and Σ_j x̄_j ln(x̄_j/x̄θ_j) is S times the divergence of the marginals.
        information = symbols * ((model / truth).log() + rates.laws.divergence) / truth
        return rates.decay / symbols * (information + symbols / model - symbols / truth)
