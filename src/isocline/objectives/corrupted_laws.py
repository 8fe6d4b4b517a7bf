"""The corruption of the clean token against that of the model's plug-in: what the bounds on tokens are written in.

With q_t(y|x) = a δ_x(y) + n_t(y) and a plug-in law x_θ, q_t(y|x_θ) = a x_θ(y) + n_t(y). One pass over the vocabulary
gives KL(q_t(·|x) ‖ q_t(·|x_θ)); all else needs the symbols z and x alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from isocline.processes.kernel import AbstractKernel
from isocline.processes.leave_one_out import noise_of
from isocline.shapes import expand_like

__all__ = ["CorruptedLaws", "corrupted_laws"]


class CorruptedLaws(NamedTuple):
    """q_t(·|x) and q_t(·|x_θ) at every position, ``(B, L)`` float64 each.

    Attributes:
        truth: q_t(z|x).
        model: q_t(z|x_θ).
        divergence: KL(q_t(·|x) ‖ q_t(·|x_θ)).
    """

    truth: Tensor
    model: Tensor
    divergence: Tensor


def corrupted_laws(kernel: AbstractKernel, log_plug_in: Tensor, x0: Tensor, z: Tensor, t: Tensor) -> CorruptedLaws:
    """Compare the corruption of ``x0`` with that of a plug-in, at the tokens ``z`` and over the vocabulary.

    The divergence is (a + n_x) ln(a + n_x) − a ln q_t(x|x_θ) − n_x ln n_x − Σ_y n_y ln(1 + a x_θ(y)/n_y), whose error
    stays small beside it as a → 0, where the bounds divide by a.

    Args:
        kernel: the corruption.
        log_plug_in: ln x_θ, ``(B, L, V)``.
        x0: clean tokens, ``(B, L)``.
        z: any tokens, ``(B, L)``.
        t: time, ``()`` or ``(B,)``.
    """
    a, noise = kernel.schedule.a(t), kernel.noise(t)
    at_x, at_z = noise_of(noise, x0), noise_of(noise, z)
    # One gather, so that its backward fills the vocabulary with zeros once.
    log_x, log_z = log_plug_in.gather(-1, torch.stack([x0, z], dim=-1)).double().unbind(-1)
    survival = expand_like(a, x0)
    # A survival that underflows to 0 leaves a divergence of 0, but not by way of its logarithm.
    log_survival = survival.clamp_min(torch.finfo(torch.float64).tiny).log()
    log_model = torch.logaddexp(log_survival + log_x, at_x.log())
    divergence = torch.xlogy(survival + at_x, survival + at_x) - survival * log_model - torch.xlogy(at_x, at_x)
    if bool(noise[..., :-1].any()):
        divergence = divergence - _spread(log_plug_in, a, noise)
    return CorruptedLaws(survival * (z == x0) + at_z, survival * log_z.exp() + at_z, divergence)


class _NoiseSpread(torch.autograd.Function):
    """Σ_y n_y ln(1 + u_y), u = (a/n) x_θ, from ln x_θ; half the passes over the vocabulary of its composition."""

    @staticmethod
    def forward(ctx: Any, log_plug_in: Tensor, odds: Tensor, weights: Tensor) -> Tensor:
        u = log_plug_in.exp().mul_(odds)
        ctx.save_for_backward(u, weights)
        return u.log1p().mul_(weights).sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        u, weights = ctx.saved_tensors
        return (u / (1.0 + u)).mul_(weights).mul_(grads[0].unsqueeze(-1)), None, None


def _spread(log_plug_in: Tensor, a: Tensor, noise: Tensor) -> Tensor:
    """Σ_y n_y ln(1 + a x_θ(y)/n_y), ``(B, L)``; symbols that noise does not yield count for nothing."""
    odds = torch.where(noise > 0, a.unsqueeze(-1) / noise, 0.0).unsqueeze(-2).to(log_plug_in.dtype)
    spread: Tensor = _NoiseSpread.apply(log_plug_in, odds, noise.unsqueeze(-2).to(log_plug_in.dtype))  # type: ignore[no-untyped-call]
    return spread
