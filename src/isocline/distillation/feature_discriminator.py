"""A discriminator that looks through its teacher's eyes: small heads on what layers of a frozen network put out."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from isocline.distillation.discriminator import AbstractDiscriminator
from isocline.networks.embedding import TimeEmbedding

__all__ = ["FeatureDiscriminator"]


class _Head(nn.Module):
    """Tokens ``(B, N, C)`` at times ``(B,)`` to one logit a sample: the mean over the tokens of a small network."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, hidden)
        self.time = TimeEmbedding(hidden)
        self.activation = nn.SiLU()
        self.outer = nn.Linear(hidden, 1)

    def forward(self, tokens: Tensor, t: Tensor) -> Tensor:
        """Return ``(B,)``."""
        tokens = tokens.to(self.inner.weight.dtype)  # the network may be of another precision
        hidden = self.inner(self.norm(tokens)) + self.time(t)[:, None]
        return self.outer(self.activation(hidden))[..., 0].mean(1)


class FeatureDiscriminator(AbstractDiscriminator):
    """One head for each of some layers of a frozen network, which is not part of the state.

    A state passes through the network once (`features`); the heads judge what the layers put out on the way. Positions
    are tokens, so an image's logit is the mean of local ones.

    Source: *Adversarial Diffusion Distillation*, Sauer et al., 2023, §3.3 (heads on frozen features); *Fast
    High-Resolution Image Synthesis with Latent Adversarial Diffusion Distillation*, Sauer et al., 2024, §3 (the
    teacher's own features, of noisy inputs).

    Args:
        network: frozen, called as ``network(t, x, cond)``.
        layers: names of linear and two-dimensional convolutional layers.
        hidden: width of a head.

    Raises:
        ValueError: if there is none, or a name is not that of such a layer.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str], hidden: int = 64) -> None:
        super().__init__()
        possible = {name: m for name, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        if not layers:
            raise ValueError(f"layers: name one at least of {', '.join(possible)}")
        for name in layers:
            if name not in possible:
                near = difflib.get_close_matches(name, possible, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(possible)}"
                raise ValueError(
                    f"layers: {name!r} is no linear or convolutional layer of {type(network).__name__}; {hint}"
                )
        # A tuple keeps the network out of nn.Module's registry.
        self._watched = (network, tuple(possible[name] for name in layers))
        self.heads = nn.ModuleList(_Head(len(layer.weight), hidden) for layer in self._watched[1])

    def features(self, t: Tensor, x: Tensor, cond: Tensor | None = None) -> list[Tensor]:
        """Return what the layers put out for states x ``(B, *event)`` at t ``(B,)``, as tokens ``(B, N, C)``."""
        network, layers = self._watched
        found: dict[nn.Module, Tensor] = {}

        def keep(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            found[layer] = output

        handles = [layer.register_forward_hook(keep) for layer in layers]
        try:
            network(t, x, cond)
        finally:
            for handle in handles:
                handle.remove()
        return [_tokens(layer, found[layer]) for layer in layers]

    def forward(self, features: list[Tensor], t: Tensor) -> Tensor:
        """Return logits ``(B, H)``, one for each head."""
        logits = [head(tokens, t) for head, tokens in zip(self.heads, features, strict=True)]
        return torch.stack(logits, 1)


def _tokens(layer: nn.Module, output: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return output.flatten(2).transpose(1, 2)
    return output.reshape(len(output), -1, output.shape[-1])
