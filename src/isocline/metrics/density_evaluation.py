"""Evaluation of densities on points: likelihood, evaluations, samples, and the spread of trace estimators."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from isocline.metrics.density_settings import DensitySettings
from isocline.metrics.energy_distance import energy_distance
from isocline.metrics.uncertainty import Estimate
from isocline.objectives.base import Objective
from isocline.objectives.continuous_flow import ContinuousFlow, joint_control, standard_normal
from isocline.objectives.maximum_likelihood import ContinuousMaximumLikelihood
from isocline.objectives.speed_penalty import SpeedPenalty
from isocline.objectives.trace import AbstractTrace, HutchinsonTrace, HutchPlusPlusTrace
from isocline.randomness import generator

__all__ = ["TRACES", "DensityEvaluation", "evaluate_density"]

TRACES: dict[str, AbstractTrace] = {
    "hutchinson_1": HutchinsonTrace(1),
    "hutchinson_3": HutchinsonTrace(3),
    "hutch_plus_plus_3": HutchPlusPlusTrace(1, 1),
}
"""Estimators by name; the number is that of products with the Jacobian per evaluation."""


class Drawn(NamedTuple):
    """Samples ``x`` (B, d), and the network forwards that each of them took."""

    x: Tensor
    nfe: int


@dataclass(frozen=True)
class DensityEvaluation:
    """What was found.

    Attributes:
        nats: −ln p per test point, in nats of the standardised data.
        over_nfe: the same by number of evaluations.
        nfe: evaluations of a likelihood by tolerance (``rtol_1e-03``); one pass for a discrete flow.
        sampling_nfe: evaluations of a sample.
        energy: energy distance from the test split, one value per sampling seed.
        floor: that of the training split.
        trace_sd: spread of the estimated ln p of a point by estimator, in nats: root mean square over the points.
        samples: points of the first seed, float32 ``(N, d)``.
        log_density: ln p on the grid of the picture, rows from top to bottom, float32 ``(G, G)``; None unless d = 2.
    """

    nats: Estimate
    over_nfe: Mapping[int, Estimate]
    nfe: Mapping[str, int]
    sampling_nfe: int
    energy: list[float]
    floor: Estimate
    trace_sd: Mapping[str, Estimate] = field(default_factory=dict)
    samples: Tensor = field(default_factory=lambda: torch.empty(0))
    log_density: Tensor | None = None


class _AbstractReader(ABC):
    """How a network is read as a density."""

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """Log densities in nats, float64 ``(B,)``, at the accuracy that is reported."""

    @abstractmethod
    def sample(self, z: Tensor) -> Drawn:
        """Points for noise."""

    @abstractmethod
    def curve(self, x: Tensor) -> dict[int, Tensor]:
        """Ln p by number of evaluations."""

    @abstractmethod
    def counts(self, x: Tensor) -> dict[str, int]:
        """Evaluations by tolerance."""

    def trace_sd(self, x: Tensor, seed: int) -> dict[str, Estimate]:
        """Spread of estimators; nothing where the volume change is in closed form."""
        return {}


class _Discrete(_AbstractReader):
    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def log_density(self, x: Tensor) -> Tensor:
        encoded = self.network(x)
        return standard_normal(encoded.z) + encoded.log_det.to(torch.float64)

    def sample(self, z: Tensor) -> Drawn:
        return Drawn(self.network.decode(z), 1)  # type: ignore[operator]

    def curve(self, x: Tensor) -> dict[int, Tensor]:
        return {1: self.log_density(x)}

    def counts(self, x: Tensor) -> dict[str, int]:
        return {"pass": 1}


class _Continuous(_AbstractReader):
    def __init__(self, network: nn.Module, settings: DensitySettings) -> None:
        self.network = network
        self.settings = settings
        self.flow = ContinuousFlow(controller=joint_control(settings.rtols[-1]))

    def log_density(self, x: Tensor) -> Tensor:
        return self.flow.log_density(self.network, x).nats

    def sample(self, z: Tensor) -> Drawn:
        found = self.flow.decode(self.network, z)
        return Drawn(found.x, int(found.nfe[0]))

    def curve(self, x: Tensor) -> dict[int, Tensor]:
        found = (ContinuousFlow.on_grid(steps).log_density(self.network, x) for steps in self.settings.steps)
        return {int(density.nfe[0]): density.nats for density in found}

    def counts(self, x: Tensor) -> dict[str, int]:
        flows = {rtol: dataclasses.replace(self.flow, controller=joint_control(rtol)) for rtol in self.settings.rtols}
        return {f"rtol_{rtol:.0e}": int(flow.log_density(self.network, x).nfe[0]) for rtol, flow in flows.items()}

    def trace_sd(self, x: Tensor, seed: int) -> dict[str, Estimate]:
        draws, steps = self.settings.trace_draws, self.settings.trace_steps
        points = x[: self.settings.trace_points]
        found = {}
        for name, trace in TRACES.items():
            probes = generator(seed, "trace", name, device=x.device)
            flow = ContinuousFlow.on_grid(steps, trace)
            nats = flow.log_density(self.network, points.repeat_interleave(draws, 0), probes).nats
            variance = nats.reshape(-1, draws).var(1)
            mean = Estimate.from_values(variance.cpu().numpy())
            root = max(mean.mean, 1e-300) ** 0.5
            found[name] = mean.map(lambda _, root=root: root, 0.5 / root)  # type: ignore[misc]
        return found


def evaluate_density(
    network: nn.Module,
    objective: Objective,
    train: Tensor,
    test: Tensor,
    settings: DensitySettings,
    seed: int,
    progress: Callable[[str], None] = lambda line: None,
) -> DensityEvaluation:
    """Evaluate a density.

    Args:
        network: in evaluation mode; a field or an invertible network.
        objective: what it was trained by, which tells the two apart.
        train: training split ``(N, d)``, for the distance's floor.
        test: test split ``(M, d)``, on the network's device.
        settings: sizes.
        seed: source of all draws.
        progress: told what is done.

    Returns:
        What was found; every likelihood is exact up to the solver's error (exact trace).
    """
    likelihood = objective.objective if isinstance(objective, SpeedPenalty) else objective
    continuous = isinstance(likelihood, ContinuousMaximumLikelihood)
    reader: _AbstractReader = _Continuous(network, settings) if continuous else _Discrete(network)
    with torch.no_grad():
        nats = _estimate(reader.log_density(test))
        progress(f"{nats.mean:.3f} ± {nats.se or 0:.3f} nats")
        over_nfe = {nfe: _estimate(found) for nfe, found in reader.curve(test).items()}
        counts = reader.counts(test)
        noise = [_noise(settings.samples, test, seed, index) for index in range(settings.seeds)]
        drawn = [reader.sample(z) for z in noise]
        energy = [energy_distance(found.x, test) for found in drawn]
        progress(f"energy distance {sum(energy) / len(energy):.4f}, evaluations {counts}")
        parts = [part for part in torch.split(train, settings.samples) if len(part) > 1][: settings.seeds]
        return DensityEvaluation(
            nats=nats,
            over_nfe=over_nfe,
            nfe=counts,
            sampling_nfe=drawn[0].nfe,
            energy=energy,
            floor=Estimate.from_values([energy_distance(part, test) for part in parts]),
            trace_sd=reader.trace_sd(test, seed),
            samples=drawn[0].x.to("cpu", torch.float32),
            log_density=_picture(reader, test, settings) if test.shape[1] == 2 else None,
        )


def _estimate(log_density: Tensor) -> Estimate:
    return Estimate.from_values((-log_density).cpu().numpy())


def _noise(count: int, like: Tensor, seed: int, index: int) -> Tensor:
    draws = generator(seed, "density", "samples", index)
    return torch.randn(count, like.shape[1], generator=draws).to(like)


def _picture(reader: _AbstractReader, like: Tensor, settings: DensitySettings) -> Tensor:
    side = torch.linspace(-settings.extent, settings.extent, settings.grid)
    y, x = torch.meshgrid(side.flip(0), side, indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], dim=1).to(like)
    return reader.log_density(points).reshape(settings.grid, settings.grid).to("cpu", torch.float32)
