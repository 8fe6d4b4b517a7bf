"""Optimisers as dynamical systems, measured on one small regression by full batches.

Loss over gradient evaluations at the best step size of a sweep, sharpness against the limit of stability, distance from
the equation of motion, amplification on quadratics beside the Hessian's own eigenvalues, step sizes under control.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from isocline.dynamics.edge_of_stability import SharpnessTrace, trace_sharpness
from isocline.dynamics.flow_distance import FlowDistances, FlowDistanceSettings, flow_distances
from isocline.dynamics.sharpness import sharpness
from isocline.dynamics.small_regression import Regression, RegressionSettings
from isocline.metrics.uncertainty import Estimate
from isocline.optimization.amplification import amplification, stability_limit
from isocline.randomness import derive_seed, generator

__all__ = ["Best", "Edge", "OptimisationStudy", "OptimisationStudySettings", "study_optimisation"]

Factory = Callable[..., Optimizer]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Edge:
    """A run whose sharpness is followed.

    Attributes:
        optimizer: what runs.
        lr: its step sizes, a run each; None keeps the optimiser's own.
        limit: the optimiser that sets the limit of stability; None for the same.
    """

    optimizer: Factory
    lr: Sequence[float | None] = (None,)
    limit: Factory | None = None


@dataclass(frozen=True)
class OptimisationStudySettings:
    """What the study does.

    Attributes:
        optimizers: compared over gradient evaluations, by name; each takes ``lr``.
        learning_rates: the sweep.
        evaluations: budget of each run.
        seeds: starts of every run of the sweep.
        points: of a loss curve.
        edges: followed against the limit of stability, by name.
        edge_steps: their length.
        edge_every: steps between looks at the Hessian.
        products: Hessian-vector products of a look.
        regions: optimisers whose amplification is found, by name.
        largest_product: ``η λ`` up to which.
        distance: from the equations of motion.
        regression: sizes of network and data.

    Raises:
        ValueError: if a number is out of range.
    """

    optimizers: Mapping[str, Factory]
    edges: Mapping[str, Edge] = field(default_factory=dict)
    regions: Mapping[str, Factory] = field(default_factory=dict)
    learning_rates: Sequence[float] = (0.01, 0.03, 0.1, 0.3, 1.0)
    evaluations: int = 300
    seeds: int = 3
    points: int = 20
    edge_steps: int = 1500
    edge_every: int = 50
    products: int = 12
    largest_product: float = 6.0
    distance: FlowDistanceSettings = field(default_factory=FlowDistanceSettings)
    regression: RegressionSettings = field(default_factory=RegressionSettings)

    def __post_init__(self) -> None:
        if not self.optimizers or not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError("evaluation.optimisation: give optimizers, and learning_rates above zero")
        for name in ("evaluations", "seeds", "points", "edge_steps", "edge_every", "products"):
            if getattr(self, name) < 1:
                raise ValueError(f"evaluation.optimisation.{name}={getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class Best:
    """An optimiser at the best step size of the sweep.

    Attributes:
        lr: that step size.
        loss: at the end of the budget, over starts.
        decades: log10 of it, over starts.
        curve: mean of log10 of the loss over starts, at the points of the budget.
    """

    lr: float
    loss: Estimate
    decades: Estimate
    curve: tuple[float, ...]


@dataclass(frozen=True)
class OptimisationStudy:
    """What `study_optimisation` found.

    Attributes:
        evaluations: at which the curves have their points.
        best: by optimiser.
        edges: by name and step size.
        distances: from the equations of motion.
        products: values of ``η λ``.
        amplifications: at these, by method.
        limits: of stability, by method.
        eigenvalues: the Hessian's largest at the end of gradient descent's best run.
        descent_lr: step size of that run.
    """

    evaluations: tuple[int, ...]
    best: Mapping[str, Best]
    edges: Mapping[str, SharpnessTrace]
    distances: FlowDistances
    products: tuple[float, ...]
    amplifications: Mapping[str, tuple[float, ...]]
    limits: Mapping[str, float]
    eigenvalues: tuple[float, ...]
    descent_lr: float


def study_optimisation(
    settings: OptimisationStudySettings, seed: int, progress: Progress = lambda _: None
) -> OptimisationStudy:
    """Measure everything.

    Args:
        settings: what and how much.
        seed: of the starts.
        progress: told what has just been measured.

    Raises:
        ValueError: if an optimiser diverges at every step size of the sweep.
    """
    places = torch.linspace(0, settings.evaluations, settings.points + 1).round().int().tolist()
    best = {}
    for name, make in settings.optimizers.items():
        best[name] = _best(name, make, settings, places, seed)
        progress(f"{name}: loss {best[name].loss.mean:.3g} at lr={best[name].lr}")
    edges = {}
    for name, edge in settings.edges.items():
        limit = stability_limit(edge.limit or edge.optimizer)
        for lr in edge.lr:
            made = edge.optimizer if lr is None else _with(edge.optimizer, lr)
            key = name if lr is None else f"{name}_{lr:g}"
            edges[key] = trace_sharpness(
                Regression(settings.regression, derive_seed(seed, "edge")),
                made,
                limit,
                steps=settings.edge_steps,
                every=settings.edge_every,
                products=settings.products,
                seed=seed,
            )
            progress(f"{key}: sharpness {edges[key].ratios[-1]:.3g} of its limit in the end")
    distances = flow_distances(settings.distance, Regression(settings.regression, derive_seed(seed, "flow")))
    products = torch.linspace(0, settings.largest_product, 241, dtype=torch.float64)[1:]
    found = {name: tuple(amplification(make, products).tolist()) for name, make in settings.regions.items()}
    limits = {name: stability_limit(make) for name, make in settings.regions.items()}
    first = next(iter(settings.optimizers))
    regression = Regression(settings.regression, derive_seed(seed, "start", 0))
    _run(regression, _with(settings.optimizers[first], best[first].lr), settings.evaluations, places)
    draws = generator(seed, "eigenvalues")
    values = sharpness(regression.loss, regression.parameters, 2 * settings.products, draws).values
    return OptimisationStudy(
        tuple(places),
        best,
        edges,
        distances,
        tuple(products.tolist()),
        found,
        {name: limit for name, limit in limits.items() if math.isfinite(limit)},
        tuple(value for value in values if value > 1e-3),
        best[first].lr,
    )


def _with(make: Factory, lr: float) -> Factory:
    def made(params: list[nn.Parameter]) -> Optimizer:
        return make(params, lr=lr)

    return made


def _best(name: str, make: Factory, settings: OptimisationStudySettings, places: list[int], seed: int) -> Best:
    def curve(lr: float, start: int) -> Tensor:
        regression = Regression(settings.regression, derive_seed(seed, "start", start))
        return _run(regression, _with(make, lr), settings.evaluations, places)

    sweep: dict[float, Tensor] = {}
    for lr in settings.learning_rates:
        curves = []
        for start in range(settings.seeds):
            curves.append(curve(lr, start))
            if not bool(curves[-1].isfinite().all()):
                break
        else:
            sweep[lr] = torch.stack(curves)
    if not sweep:
        raise ValueError(
            f"evaluation.optimisation: {name} diverges from some start at every step size of "
            f"{list(settings.learning_rates)}; give smaller learning_rates"
        )
    # By the mean over all starts: what is best from one of them may be about to diverge.
    lr = min(sweep, key=lambda lr: float(sweep[lr][:, -1].log10().mean()))
    decades = sweep[lr].log10()
    loss, logs = Estimate.from_values(sweep[lr][:, -1].numpy()), Estimate.from_values(decades[:, -1].numpy())
    return Best(lr, loss, logs, tuple(decades.mean(0).tolist()))


def _run(regression: Regression, make: Factory, budget: int, places: list[int]) -> Tensor:
    """The loss at some numbers of gradient evaluations; not finite from where it has diverged, float64."""
    made = make(regression.parameters)
    plain, spent = regression.closure(made), 0

    def closure() -> Any:
        nonlocal spent
        spent += 1
        return plain()

    known: list[tuple[int, float]] = []
    while spent < budget:
        before = spent
        loss = float(made.step(closure))
        known.append((before, loss))
        if not loss < 1e6:
            break
    known.append((spent, regression.loss().item()))
    losses = []
    for place in places:
        # A step of several evaluations shows its loss from its start on; the last may go beyond the budget.
        losses.append([loss for at, loss in known if at <= place][-1])
    return torch.tensor([loss if loss < 1e6 else math.inf for loss in losses], dtype=torch.float64)
