"""Low-rank adapters: a frozen network, and on chosen layers a trained product of two thin matrices."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Self

from torch import Tensor, nn

__all__ = ["ADAPTER", "Adapted", "adapted"]

ADAPTER = "adapter."
"""Prefix of the adapter's tensors in the state of an adapted network."""


class Adapted(nn.Module):
    """W x + (alpha/rank) B A x on chosen layers of a frozen network; only A and B are ever trained.

    B is zero at first, so that the adapted network is the network. A convolution's A has its kernel and stride, its B
    is a 1×1 convolution. The layers are changed in place, by `peft`.

    In its state the network's tensors keep their own names, so that the network's weights load as they are, and the
    adapter's begin with `ADAPTER`: ``adapter.<layer>.lora_A.weight`` (A) and ``adapter.<layer>.lora_B.weight`` (B).

    Source: *LoRA: Low-Rank Adaptation of Large Language Models*, Hu et al., 2021, §4.1; for latent consistency models
    *LCM-LoRA: A Universal Stable-Diffusion Acceleration Module*, Luo et al., 2023.

    Args:
        network: called as ``network(t, x, cond)``, with the end of a flow map if it takes one.
        rank: of the product.
        alpha: scale of the product times ``rank``; ``rank`` by default, which is scale 1.
        targets: names of linear and convolutional layers, whole or from a dot to the end (``conv1``); all by default.

    Attributes:
        layers: the layers that were adapted.

    Raises:
        ValueError: if the rank or the scale is not above 0, or a target is no linear or convolutional layer.
    """

    def __init__(
        self, network: nn.Module, rank: int = 8, alpha: float | None = None, targets: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        if not (rank >= 1 and self.alpha > 0 and math.isfinite(self.alpha)):
            raise ValueError(f"rank = {rank}, alpha = {self.alpha:g}: rank must be at least 1 and alpha above 0")
        self.layers = _layers(network, targets)
        # Costs seconds to import, so it is not imported where no adapter is made.
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(r=rank, lora_alpha=self.alpha, target_modules=list(self.layers))  # type: ignore[arg-type]
        self.network: nn.Module = inject_adapter_in_model(config, network)
        self._names = {name: _public(name) for name in self.network.state_dict()}
        self.register_state_dict_post_hook(_to_public)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_from_public)  # type: ignore[no-untyped-call]
        self.requires_grad_(True)

    @property
    def takes_end(self) -> bool:
        """Whether the network takes the end of a flow map."""
        return bool(getattr(self.network, "takes_end", False))

    def forward(self, t: Tensor, x: Tensor, cond: Any = None, s: Tensor | None = None) -> Tensor:
        """Evaluate at ``t`` ``()`` or ``(B,)`` and ``x`` ``(B, *event)``; what the network returns."""
        end = () if s is None else (s,)
        return self.network(t, x, cond, *end)  # type: ignore[no-any-return]

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set for the adapter; the network stays frozen."""
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(requires_grad and self._names[name].startswith(ADAPTER))
        return self

    def adapter(self) -> dict[str, Tensor]:
        """Return the adapter's part of the state under the same names, without gradients."""
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(ADAPTER)}

    def base(self) -> dict[str, Tensor]:
        """Return the frozen network's part of the state."""
        return {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(ADAPTER)}


def adapted(
    base: Callable[..., nn.Module],
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
    **sizes: Any,
) -> Adapted:
    """Build a network and adapt it; its sizes stay beside the adapter's, in one section of a configuration.

    Args:
        base: makes the network from ``sizes``.
        rank: see `Adapted`.
        alpha: see `Adapted`.
        targets: see `Adapted`.
        **sizes: arguments of ``base``.

    Raises:
        ValueError: see `Adapted`, or from ``base``.
    """
    return Adapted(base(**sizes), rank, alpha, targets)


def _layers(network: nn.Module, targets: Sequence[str] | None) -> tuple[str, ...]:
    possible = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    if targets is None:
        targets = possible
    for target in targets:
        if not any(_names(target, name) for name in possible):
            raise ValueError(
                f"targets: {target!r} is no linear or convolutional layer of {type(network).__name__}; "
                f"it has {', '.join(possible)}"
            )
    if not targets:
        raise ValueError(f"targets: {type(network).__name__} has no linear or convolutional layer to adapt")
    return tuple(name for name in possible if any(_names(target, name) for target in targets))


def _names(target: str, name: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _public(name: str) -> str:
    """What a tensor of the changed network is called in the state."""
    if ".lora_" in name:
        return ADAPTER + name.replace(".default.", ".")
    return name.replace(".base_layer.", ".")


def _to_public(module: Adapted, state: OrderedDict[str, Tensor], prefix: str, metadata: Any) -> None:
    for name, public in module._names.items():
        state[prefix + public] = state.pop(f"{prefix}network.{name}")


def _from_public(module: Adapted, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name, public in module._names.items():
        if prefix + public in state:
            state[f"{prefix}network.{name}"] = state.pop(prefix + public)
