"""Sharpness along a run of an optimiser, against the largest that its step size can bear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from isocline.dynamics.sharpness import sharpness
from isocline.dynamics.small_regression import Regression
from isocline.randomness import generator

__all__ = ["SharpnessTrace", "trace_sharpness"]


@dataclass(frozen=True)
class SharpnessTrace:
    """A run, looked at every few steps.

    At the edge of stability the sharpness rises until it is the limit of the method (progressive sharpening), and then
    hovers there while the loss goes on falling, no longer at every step.

    Attributes:
        steps: at which the run was looked at.
        losses: there.
        sharpness: λ_max there.
        limits: the largest λ_max that the step taken from there can bear: ``limit / η``.
        step_sizes: η of that step.

    Source: Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability (2021).
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    sharpness: tuple[float, ...]
    limits: tuple[float, ...]
    step_sizes: tuple[float, ...]

    @property
    def ratios(self) -> tuple[float, ...]:
        """λ_max over its limit."""
        return tuple(found / limit for found, limit in zip(self.sharpness, self.limits, strict=True))

    @property
    def reached(self) -> int | None:
        """Place of the first look at which the limit was reached; None if it never was."""
        return next((place for place, ratio in enumerate(self.ratios) if ratio >= 1), None)

    def hovering(self) -> float | None:
        """Mean of λ_max over its limit from then on; None if the limit was never reached."""
        place = self.reached
        if place is None:
            return None
        after = self.ratios[place:]
        return sum(after) / len(after)


def trace_sharpness(
    regression: Regression,
    optimizer: Callable[[list[nn.Parameter]], Optimizer],
    limit: float,
    *,
    steps: int,
    every: int,
    products: int = 12,
    seed: int = 0,
) -> SharpnessTrace:
    """Run an optimiser on the whole batch, and measure the Hessian's largest eigenvalue as it goes.

    Args:
        regression: network and data; its weights are trained.
        optimizer: makes the optimiser; the first group's ``step_size``, or else its ``lr``, is η.
        limit: largest stable ``η λ``: 2 for gradient descent, ``2 (1 + β)`` for the heavy ball
            (`isocline.optimization.amplification.stability_limit`).
        steps: of the optimiser.
        every: steps between looks.
        products: Hessian-vector products of each look.
        seed: of the Lanczos starts.

    Raises:
        ValueError: if the loss ceases to be finite.
    """
    made = optimizer(regression.parameters)
    closure, group = regression.closure(made), made.param_groups[0]
    looks: list[int] = []
    losses, tops, sizes = [], [], []
    for step in range(steps + 1):
        if looks and step == looks[-1] + 1:
            # The step from a look on, of an optimiser that chooses it only now.
            sizes.append(float(group.get("step_size", group["lr"])))
        if step % every == 0:
            loss = regression.loss().item()
            if not loss < float("inf"):
                raise ValueError(f"the loss is {loss} at step {step}; give the optimiser a smaller lr")
            draws = generator(seed, "sharpness", step)
            looks.append(step)
            losses.append(loss)
            tops.append(sharpness(regression.loss, regression.parameters, products, draws).top)
        # A last look wants to know the step that would come, too.
        if step < steps or step == looks[-1]:
            made.step(closure)
    if len(sizes) < len(looks):
        sizes.append(float(group.get("step_size", group["lr"])))
    limits = tuple(limit / size for size in sizes)
    return SharpnessTrace(tuple(looks), tuple(losses), tuple(tops), limits, tuple(sizes))
