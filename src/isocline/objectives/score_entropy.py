"""Score entropy (SEDD): the ratios of the corrupted law, learned in mean parametrisation."""

from __future__ import annotations

from torch import Tensor

from isocline.objectives.reverse_rate_bound import ReverseRateBound, ReverseRates

__all__ = ["ScoreEntropy"]


class ScoreEntropy(ReverseRateBound):
    """∫ E Σ_i Σ_{y≠z} Q_t(y, z) [s_y − r_y ln s_y + r_y (ln r_y − 1)] dt + KL(q_1 ‖ prior); per token in nats.

    r_y = q_t(y|x)/q_t(z|x), and Q_t(y, z) = g_t(z) for every y ≠ z. The score s_y, which estimates
    p_t(z^{i→y})/p_t(z), is in mean parametrisation: s_y = Σ_k p(k|z) q_t(y|k)/q_t(z_i|k) = q_t(y|x_loo)/q_t(z|x_loo),
    so that the network is the denoiser that every sampler takes. With the absorbing kernel the value is that of masked
    diffusion, whatever the network.

    Source: "Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution", Lou et al., 2024, Eq. 5 to
    9.

    Args:
        process: kernel; absorbing, uniform or hybrid.
        times: how t is drawn for a batch.
        start: see `ReverseRateBound`.

    Raises:
        TypeError: from `ReverseRateBound`.
        ValueError: from `ReverseRateBound`.
    """

    def divergence(self, rates: ReverseRates) -> Tensor:
        """See the class; what is summed over y has the term y = z taken off where it is not 0."""
        truth, model, divergence = rates.laws
        scores, ratios = (1.0 - model) / model, (1.0 - truth) / truth
        # Σ_y r_y ln(r_y/s_y), with ln r − ln s = ln(q(y|x)/q(y|x_θ)) − ln(q(z|x)/q(z|x_θ)); nothing at y = z.
        information = (divergence - (truth / model).log()) / truth
        return rates.inflow * (scores - ratios + information)
