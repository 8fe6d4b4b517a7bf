"""Survival schedules with parameters: one monotone function for all tokens, or one exponent per token.

Both meet their ends exactly whatever the parameters. They are modules; an objective that trains one registers it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from isocline.processes.token_schedule import AbstractSurvival

__all__ = ["MonotoneSurvival", "PolynomialTokenSurvival"]


class MonotoneSurvival(AbstractSurvival, nn.Module):
    """a(t) = (g(1) − g(t))/(g(1) − g(0)) with a monotone network g(t) = e^b t + Σ_k e^{c_k} σ(e^{d_k} (t − m_k)).

    In the spirit of the noise network of "Variational Diffusion Models", Kingma et al., 2021, section 3.2 and appendix
    H: positive weights make it monotone, the quotient pins a(0) = 1 and a(1) = 0. It starts near a(t) = 1 − t.

    Args:
        width: number of sigmoids, their midpoints spread over [0, 1] at the start.

    Raises:
        ValueError: if there is no sigmoid.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        if width < 1:
            raise ValueError(f"width = {width}: needs at least one sigmoid")
        self.width = width
        self.log_slope = nn.Parameter(torch.zeros(()))
        # Small and broad at first: together about a tenth of the fall, spread evenly.
        self.log_heights = nn.Parameter(torch.full((width,), 0.1 / width).log())
        self.log_rates = nn.Parameter(torch.full((width,), 2.0 * width).log())
        self.middles = nn.Parameter((torch.arange(width) + 0.5) / width)

    def a(self, t: Tensor) -> Tensor:
        """(g(1) − g(t))/(g(1) − g(0)); differentiable in ``t`` and the parameters."""
        value = self._rise(t, torch.ones_like(t)) / self._span()
        return torch.where(t == 0, 1.0, value)  # a quotient of equal sums that may be added up in different orders

    def da(self, t: Tensor) -> Tensor:
        """−g'(t)/(g(1) − g(0))."""
        return -self._slope(t) / self._span()

    def hazard(self, t: Tensor) -> Tensor:
        """g'(t)/(g(t) − g(0)): the quotient without its cancellation near t = 0."""
        return self._slope(t) / self._rise(torch.zeros_like(t), t)

    def inverse(self, a: Tensor) -> Tensor:
        """The time at survival ``a``, differentiable in the parameters: bisection, then a step of Newton's method."""
        with torch.no_grad():
            t = super().inverse(a)
        return self.refined(t, a)

    def refined(self, t: Tensor, a: Tensor) -> Tensor:
        """One step of Newton's method from ``t`` towards the time at survival ``a``.

        At the solution it changes nothing, and gives the derivative in the parameters that the implicit function
        theorem demands, −∂a/a'.
        """
        return (t.double() - (self.a(t) - a.double()) / self.da(t).detach()).clamp(0.0, 1.0)

    def _span(self) -> Tensor:
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64, device=self.middles.device)
        return self._rise(ends[0], ends[1])

    def _rise(self, start: Tensor, end: Tensor) -> Tensor:
        """g(end) − g(start)."""
        start, end = start.double(), end.double()
        rates, middles = self.log_rates.double().exp(), self.middles.double()
        above, below = (torch.sigmoid(rates * (t.unsqueeze(-1) - middles)) for t in (end, start))
        bumps = ((above - below) * self.log_heights.double().exp()).sum(-1)
        return self.log_slope.double().exp() * (end - start) + bumps

    def _slope(self, t: Tensor) -> Tensor:
        rates = self.log_rates.double().exp()
        value = torch.sigmoid(rates * (t.double().unsqueeze(-1) - self.middles.double()))
        bumps = (self.log_heights.double().exp() * rates * value * (1.0 - value)).sum(-1)
        return self.log_slope.double().exp() + bumps


class PolynomialTokenSurvival(nn.Module):
    """a_v(t) = 1 − t^w_v with an exponent per token (Shi et al., 2024, section 6).

    A token with a large exponent survives longer under noise, and generation writes it earlier.

    Args:
        vocab_size: vocabulary V, the mask token counted (its exponent is never used).
        exponent: w of every token at the start, positive.

    Raises:
        ValueError: if the exponent is not positive.
    """

    def __init__(self, vocab_size: int, exponent: float = 1.0) -> None:
        super().__init__()
        if exponent <= 0:
            raise ValueError(f"exponent = {exponent}: must be positive, so that 1 - t^exponent falls with t")
        self.vocab_size = vocab_size
        self.log_exponents = nn.Parameter(torch.full((vocab_size,), exponent).log())

    @property
    def exponents(self) -> Tensor:
        """w, ``(V,)`` float64."""
        return self.log_exponents.double().exp()

    @property
    def onset(self) -> float:
        """The least exponent of a real token: 1 − a(t) ~ t^w for the tokens that noise comes to first."""
        return float(self.exponents[:-1].detach().min())

    def a(self, t: Tensor) -> Tensor:
        """1 − t^w, ``(*t.shape, V)`` float64."""
        return 1.0 - self.masked(t)

    def masked(self, t: Tensor) -> Tensor:
        """1 − a = t^w without its cancellation near t = 0, ``(*t.shape, V)``."""
        return t.double().unsqueeze(-1) ** self.exponents

    def da(self, t: Tensor) -> Tensor:
        """−w t^(w−1), ``(*t.shape, V)``."""
        return -self.exponents * t.double().unsqueeze(-1) ** (self.exponents - 1.0)

    def hazard(self, t: Tensor) -> Tensor:
        """−a'/(1 − a) = w/t, ``(*t.shape, V)``: the rate at which generation decides a mask as each token."""
        return self.exponents / t.double().unsqueeze(-1)
