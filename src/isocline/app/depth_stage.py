"""What the stage of the depth study does: build, train and measure one network under both comparisons."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from isocline.app.artifacts import build
from isocline.datasets.storage import write_bytes
from isocline.dynamics.depth_cost import evaluations, flops_per_token, matched_depth
from isocline.dynamics.depth_settings import DepthStudySettings
from isocline.dynamics.depth_stability import DepthStability, depth_stability
from isocline.metrics.text_likelihood import OWN, TextLikelihood, text_likelihoods
from isocline.networks.depth.implicit_euler import ImplicitEuler
from isocline.networks.depth.iteration_pruning import iteration_contributions, kept_iterations, with_iterations
from isocline.networks.transformer import TokenTransformer
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun
from isocline.training.fit import fit
from isocline.training.module import GenerativeModule
from isocline.training.settings import FitSettings

__all__ = ["FLOPS", "PARAMETERS", "DepthData", "DepthRun", "DepthStudy", "Pruned", "write_growth"]

PARAMETERS, FLOPS = "parameters", "flops"
"""The two comparisons: as many blocks as the ordinary network, or as many operations per token."""


@dataclass(frozen=True)
class DepthData:
    """Text that all variants share.

    Attributes:
        train: tokens ``(N, L)``.
        held_out: the validation sequences that are scored.
        characters: characters that each of them decodes to.
    """

    train: Tensor
    held_out: Tensor
    characters: Tensor


@dataclass(frozen=True)
class Pruned:
    """An implicit network before and after pruning.

    Attributes:
        iterations: iterations of all blocks together.
        kept: those that contribute.
        bits_per_char: after pruning.
        flops: operations per token after it.
    """

    iterations: int
    kept: int
    bits_per_char: float
    flops: float


@dataclass(frozen=True)
class DepthRun:
    """One training.

    Attributes:
        depth: layers.
        parameters: weights.
        flops: operations of a forward pass per token, after training.
        evaluations: of attention in a forward pass.
        likelihood: of the held-out text.
        stability: see `DepthStability`.
        pruned: of an implicit network; None of others.
        seconds: of the training; in no output of the stage.
    """

    depth: int
    parameters: int
    flops: float
    evaluations: float
    likelihood: TextLikelihood
    stability: DepthStability
    pruned: Pruned | None
    seconds: float

    @property
    def bits_per_char(self) -> float:
        """Of the held-out text."""
        return self.likelihood.bits_per_char.mean


class DepthStudy:
    """Trains networks that differ in their depth integrator alone.

    Args:
        run: the stage's run; checkpoints go to its folder.
        section: ``depth.study`` of params.yaml.
        data: text.
        seed: the run's seed.
        device: where networks are measured.
    """

    def __init__(
        self, run: StageRun, section: Mapping[str, Any], data: DepthData, seed: int, device: torch.device
    ) -> None:
        self.run, self.section, self.data, self.seed, self.device = run, section, data, seed, device
        self.settings: DepthStudySettings = build(section["settings"])
        self.objective = build(section["objective"])
        self._example = data.held_out[:1]

    def network(self, variant: Mapping[str, Any], depth: int) -> TokenTransformer:
        """A network of the study's size with a variant's integrator; weights by the global stream."""
        network: TokenTransformer = build({**variant, **self.section["network"], "depth": depth})
        return network

    def ordinary_flops(self) -> float:
        """Operations per token of the ordinary Transformer of the study's size."""
        plain = {"_target_": "isocline.networks.transformer.TokenTransformer", **self.section["network"]}
        size = {"vocab_size": self.section["vocab_size"], "length": self.data.train.shape[1]}
        return flops_per_token(self.network({**plain, **size}, self.settings.depth), self._example)

    def depths(self, variant: Mapping[str, Any]) -> dict[str, int]:
        """Layers under each comparison."""
        most = self.settings.depth
        found = matched_depth(lambda n: self.network(variant, n), self.ordinary_flops(), most, self._example)
        return {PARAMETERS: most, FLOPS: found}

    def train(self, name: str, variant: Mapping[str, Any], depth: int, number: int) -> DepthRun:
        """Train with one seed and measure.

        Args:
            name: of the variant, shown with the progress.
            variant: its network's section.
            depth: layers.
            number: which seed.
        """
        seed = derive_seed(self.seed, "depth", number)
        torch.manual_seed(derive_seed(seed, "weights"))
        fitting: FitSettings = build(self.section["trainer"])
        module = GenerativeModule(
            self.network(variant, depth),
            self.objective,
            build(self.section["optimizer"]),
            build(self.section["ema"]),
            seed=seed,
            steps=fitting.steps,
            warmup=fitting.warmup,
            final_lr=fitting.final_lr,
        )
        label = f"{name}-{depth}-{number}"
        result = fit(module, {"x0": self.data.train}, fitting, self.run.directory / label, label=f"depth {label}")
        assert isinstance(result.network, TokenTransformer)
        return self._measured(result.network.to(self.device), depth, seed, result.seconds)

    def _measured(self, network: TokenTransformer, depth: int, seed: int, seconds: float) -> DepthRun:
        settings, fed = self.settings, self.data.held_out[: self.settings.stability_sequences].to(self.device)
        return DepthRun(
            depth=depth,
            parameters=sum(weight.numel() for weight in network.parameters()),
            flops=flops_per_token(network, fed),
            evaluations=evaluations(network, fed),
            likelihood=self._likelihood(network),
            stability=depth_stability(
                network, fed, iterations=settings.iterations, krylov_steps=settings.krylov_steps, seed=seed
            ),
            pruned=self._pruned(network, fed),
            seconds=seconds,
        )

    def _likelihood(self, network: torch.nn.Module) -> TextLikelihood:
        scored = text_likelihoods(
            network,
            self.objective,
            self.data.held_out,
            self.data.characters,
            seed=self.seed,
            strata=1,
            chain_sequences=0,
            batch_size=self.settings.batch_size,
            device=self.device,
        )
        return scored[OWN]

    def _pruned(self, network: TokenTransformer, fed: Tensor) -> Pruned | None:
        method = network.trunk.integrator
        if not isinstance(method, ImplicitEuler):
            return None
        shares = iteration_contributions(network, [self.data.train[: self.settings.batch_size].to(self.device)])
        kept = kept_iterations(shares, self.settings.pruning)
        other = with_iterations(network, kept)
        assert isinstance(other, TokenTransformer)
        bits = self._likelihood(other).bits_per_char.mean
        return Pruned(sum(method.iterations), sum(kept), bits, flops_per_token(other, fed))


def write_growth(path: Path, columns: Mapping[str, Sequence[float]]) -> None:
    """Write the growth of a perturbation by layer, one column a network; blank below a shallower one's end."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["layer", *columns])
    for layer in range(max(map(len, columns.values()))):
        cells = [f"{values[layer]:.9g}" if layer < len(values) else "" for values in columns.values()]
        writer.writerow([layer, *cells])
    write_bytes(path, file.getvalue().encode())
