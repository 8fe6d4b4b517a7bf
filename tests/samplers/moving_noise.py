"""A kernel whose noise moves from symbol to symbol: masks at t = 1, mostly real symbols in between."""

import torch

from isocline.processes.kernel import AbsorbingKernel, AbstractKernel
from isocline.processes.token_schedule import LinearSurvival


class MovingNoiseKernel(AbstractKernel):
    """n_t = t² on the mask and t (1 − t) spread over the real symbols, unevenly."""

    def __init__(self, vocab_size):
        super().__init__(vocab_size, LinearSurvival())
        weights = torch.arange(1.0, vocab_size, dtype=torch.float64)
        self.spread = torch.cat([weights / weights.sum(), torch.zeros(1, dtype=torch.float64)])
        self.masks = torch.zeros(vocab_size, dtype=torch.float64)
        self.masks[-1] = 1.0

    def stationary(self, device="cpu"):
        return self.masks.to(device)

    def noise(self, t):
        t = t.double().unsqueeze(-1)
        return t * (1 - t) * self.spread + t**2 * self.masks

    def noise_rate(self, t):
        t = t.double().unsqueeze(-1)
        return (1 - 2 * t) * self.spread + 2 * t * self.masks

    prior = AbsorbingKernel.prior
