"""The metrics document of the depth study."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from isocline.app.depth_stage import DepthRun
from isocline.metrics.uncertainty import Estimate

__all__ = ["Found", "depth_document", "growth_columns"]

Found = Mapping[str, Mapping[str, Sequence[DepthRun]]]
"""Trainings by network and comparison, in the order of the seeds."""


def depth_document(found: Found, target: float, section: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``metrics/depth-<variant>.json`` holds.

    Args:
        found: the trainings.
        target: operations per token of the ordinary Transformer.
        section: ``depth.study`` of params.yaml.
    """
    seeds = {name: _by_column(columns, _over_seeds) for name, columns in found.items()}
    measures: dict[str, dict[str, dict[str, Any]]] = {}
    for name, columns in seeds.items():
        for column, values in columns.items():
            for measure, value in values.items():
                measures.setdefault(measure, {}).setdefault(name, {})[column] = value
    return {
        **measures,
        "flops_ratio": _each(found, lambda runs: _mean([run.flops for run in runs]) / target),
        "depth": _each(found, lambda runs: runs[0].depth),
        "parameters": _each(found, lambda runs: runs[0].parameters),
        "protocol": {
            "bits_per_char": "exact, validation sequences, by averaged weights; mean over seeds, or over sequences "
            "where there is one seed",
            "sequences": len(next(iter(next(iter(found.values())).values()))[0].likelihood.nats),
            "seeds": section["settings"]["seeds"],
            "steps": section["trainer"]["steps"],
            "batch_size": section["trainer"]["batch_size"],
            "network": dict(section["network"]),
            "parameters": f"{section['settings']['depth']} layers, as the ordinary Transformer",
            "flops": "the depth whose operations per token, before training, are nearest to the ordinary Transformer's",
            "ordinary_flops": target,
        },
    }


def growth_columns(found: Found) -> dict[str, list[float]]:
    """Growth of a perturbation by layer, mean over seeds, by ``network.comparison``."""
    return {
        f"{name}.{column}": [_mean(layer) for layer in zip(*(run.stability.growth for run in runs), strict=True)]
        for name, columns in found.items()
        for column, runs in columns.items()
    }


def _over_seeds(runs: Sequence[DepthRun]) -> dict[str, Any]:
    measures: dict[str, Sequence[float]] = {
        "flops_per_token": [run.flops for run in runs],
        "evaluations": [run.evaluations for run in runs],
        "lipschitz": [run.stability.lipschitz for run in runs],
        "abscissa": [run.stability.abscissa for run in runs],
        "map_gain": [run.stability.map_gain for run in runs],
        "logit_sensitivity": [run.stability.logit_sensitivity for run in runs],
        "float32_error": [run.stability.float32_error for run in runs],
    }
    bits = [run.bits_per_char for run in runs]
    own = runs[0].likelihood.bits_per_char if len(runs) == 1 else Estimate.from_values(bits)
    found: dict[str, Any] = {"bits_per_char": {**own.as_dict(), "values": bits}}
    found |= {name: Estimate.from_values(values).as_dict() for name, values in measures.items()}
    pruned = [run.pruned for run in runs if run.pruned is not None]
    if pruned:
        after = [one.bits_per_char for one in pruned]
        found["pruning"] = {
            "iterations": pruned[0].iterations,
            "kept": Estimate.from_values([one.kept for one in pruned]).as_dict(),
            "bits_per_char": {**Estimate.from_values(after).as_dict(), "values": after},
            "flops_per_token": Estimate.from_values([one.flops for one in pruned]).as_dict(),
        }
    return found


def _by_column(
    columns: Mapping[str, Sequence[DepthRun]], measure: Callable[[Sequence[DepthRun]], dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    return {column: measure(runs) for column, runs in columns.items()}


def _each(found: Found, measure: Callable[[Sequence[DepthRun]], float]) -> dict[str, dict[str, float]]:
    return {name: {column: measure(runs) for column, runs in columns.items()} for name, columns in found.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
