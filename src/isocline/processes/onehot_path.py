"""Gaussian relaxations of tokens: one-hot vectors under noise, and their logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isocline.processes.decided_schedule import DecidedShareSchedule
from isocline.processes.gaussian import GaussianProcess
from isocline.processes.prediction import DataPrediction
from isocline.processes.schedule import AbstractSchedule
from isocline.processes.token_path import AbstractTokenPath
from isocline.shapes import expand_like

__all__ = ["LogitPath", "OneHotGaussianPath"]


class OneHotGaussianPath(AbstractTokenPath):
    """x_t = c s e_k + (1 − c) ε: the straight path from a scaled one-hot vector to unit noise.

    Its evidence is s c x/(1 − c)², its position the share of noise 1 − c, and the velocity ε − s e_k there. As a
    `GaussianProcess` (attribute ``gaussian``) with data s e_k it is open to all that works on those: see
    `isocline.processes.onehot_denoiser`.

    References: "Self-conditioned Embedding Diffusion for Text Generation", Strudel et al., 2022 (Gaussian diffusion of
    token vectors); "Continuous Diffusion for Categorical Data", Dieleman et al., 2022 (cross-entropy denoisers).

    Args:
        vocab_size: vocabulary V, the mask counted.
        scale: s.
        schedule: gives c = α with σ = 1 − α; by default such that the share of decided tokens is linear in t.
        t_min: smallest time of training.

    Attributes:
        gaussian: the same process on vectors.

    Raises:
        ValueError: if α + σ is not 1, or a size is out of range.
    """

    def __init__(
        self, vocab_size: int, scale: float = 1.0, schedule: AbstractSchedule | None = None, t_min: float = 1e-3
    ) -> None:
        super().__init__(vocab_size)
        self.scale = scale
        schedule = DecidedShareSchedule(self.symbols, scale) if schedule is None else schedule
        values = schedule(torch.tensor([0.3, 0.7]))
        if not torch.allclose(values.alpha + values.sigma, torch.ones(2, dtype=torch.float64)):
            raise ValueError(
                f"schedule = {type(schedule).__name__}: needs alpha + sigma = 1; take LinearSchedule, or leave it out"
            )
        self.t_min = t_min
        self.gaussian = GaussianProcess(schedule, DataPrediction(), t_min=t_min)

    def corner(self, tokens: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return s e_k."""
        return super().corner(tokens, dtype) * self.scale

    def prior(
        self,
        shape: Sequence[int],
        generator: torch.Generator,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Unit noise."""
        return self.gaussian.noise((*shape, self.symbols), generator, dtype).to(device)

    def sample(
        self, tokens: Tensor, t: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Draw c s e_k + (1 − c) ε."""
        noise = self.prior(tokens.shape, generator, tokens.device, dtype)
        return self.gaussian.mix(self.corner(tokens, dtype), noise, self.gaussian.schedule(t))

    def evidence(self, t: Tensor, x: Tensor) -> Tensor:
        """Return s c x/(1 − c)²."""
        return x * expand_like(self._sharpness(t).to(x.dtype), x)

    def _sharpness(self, t: Tensor) -> Tensor:
        values = self.gaussian.schedule(t)
        return self.scale * values.alpha / values.sigma.square()

    def position(self, t: Tensor) -> Tensor:
        """1 − c."""
        return self.gaussian.schedule(t).sigma

    def time(self, position: Tensor) -> Tensor:
        """The time at which σ is the position."""
        return self.gaussian.schedule.inverse_log_ratio(torch.log1p(-position) - position.log())

    def velocity(self, position: Tensor, x: Tensor, probs: Tensor) -> Tensor:
        """(x − s p)/(1 − c)."""
        return torch.sub(x, probs.to(x.dtype), alpha=self.scale) / expand_like(position.to(x.dtype), x)


class LogitPath(OneHotGaussianPath):
    """The straight path in logits K x, from those of a nearly certain token, K e_k, to noise of standard deviation K.

    The states are those of `OneHotGaussianPath`. What differs is the view: a network is shown the point softmax(K x)
    of the simplex, which is not scaled by what is known of the noise.

    References: "SSD-LM: Semi-autoregressive Simplex-based Diffusion Language Model", Han et al., 2023; "TESS:
    Text-to-Text Self-Conditioned Simplex Diffusion", Mahabadi et al., 2024 (both with K e_k and −K elsewhere).

    Args:
        vocab_size: vocabulary V, the mask counted.
        logit: K, the logit of a certain token above the others.
        schedule: as for the base class.
        t_min: smallest time of training.

    Raises:
        ValueError: if K is not above 0 (and what the base class raises).
    """

    def __init__(
        self, vocab_size: int, logit: float = 10.0, schedule: AbstractSchedule | None = None, t_min: float = 1e-3
    ) -> None:
        super().__init__(vocab_size, schedule=schedule, t_min=t_min)
        if not logit > 0:
            raise ValueError(f"logit = {logit}: must be above 0, such as 10")
        self.logit = logit

    def evidence_in(self, t: Tensor, view: Tensor) -> Tensor:
        """The log of the view times c/(1 − c)² over K."""
        # A symbol that is ruled out stays so at t = 1 too, where c = 0 and the product has no value.
        return torch.where(view > 0, self.evidence(t, view.log()) / self.logit, -torch.inf)

    def _view(self, t: Tensor, x: Tensor, evidence: Tensor) -> Tensor:
        return (self.logit * x).softmax(-1)
