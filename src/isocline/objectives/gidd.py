"""GIDD, generalised interpolating discrete diffusion: KL of marginals and a pointwise term, for any moving noise."""

from __future__ import annotations

from torch import Tensor

from isocline.objectives.reverse_rate_bound import ReverseRateBound, ReverseRates

__all__ = ["InterpolatingDiffusion", "interpolating_divergence"]


def interpolating_divergence(rates: ReverseRates) -> Tensor:
    """Return w [KL(q_t(·|x) ‖ q_t(·|x_θ)) + ρ − ln ρ − 1], ``(B, L)``.

    ρ = q_t(z|x)/q_t(z|x_θ), w = g_t(z)/q_t(z|x).
    """
    truth, model, divergence = rates.laws
    ratio = truth / model
    return rates.inflow / truth * (divergence + ratio - ratio.log() - 1.0)


class InterpolatingDiffusion(ReverseRateBound):
    """∫ E Σ_i w [KL(q_t(·|x) ‖ q_t(·|x_θ)) + ρ − ln ρ − 1] dt, a bound on −ln p(x); per token in nats.

    ρ and w are those of `interpolating_divergence`.

    Source: "Generalized Interpolating Discrete Diffusion", von Rütte et al., 2025, Proposition 3.

    Args:
        process: kernel; absorbing, uniform or hybrid.
        times: how t is drawn for a batch.
        start: see `ReverseRateBound`.

    Raises:
        TypeError: from `ReverseRateBound`.
        ValueError: from `ReverseRateBound`.
    """

    def divergence(self, rates: ReverseRates) -> Tensor:
        """See `interpolating_divergence`."""
        return interpolating_divergence(rates)
