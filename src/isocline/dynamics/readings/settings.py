"""Which readings an analysis makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from isocline.dynamics.readings.attractors import AttractorsReading
from isocline.dynamics.readings.base import AbstractReading
from isocline.dynamics.readings.commitment import CommitmentReading
from isocline.dynamics.readings.continuation import ContinuationReading
from isocline.dynamics.readings.decision import DecisionReading
from isocline.dynamics.readings.depth import DepthReading
from isocline.dynamics.readings.fixed_points import FixedPointsReading
from isocline.dynamics.readings.geometry import GeometryReading
from isocline.dynamics.readings.lyapunov import LyapunovReading

__all__ = ["AnalysisSettings"]


def _all() -> dict[str, AbstractReading]:
    return {
        "decision": DecisionReading(),
        "commitment": CommitmentReading(),
        "depth": DepthReading(),
        "geometry": GeometryReading(),
        "fixed_points": FixedPointsReading(),
        "attractors": AttractorsReading(),
        "continuation": ContinuationReading(),
        "lyapunov": LyapunovReading(),
    }


@dataclass(frozen=True)
class AnalysisSettings:
    """An analysis of a trained model.

    Attributes:
        readings: by name, in the order in which they are made; those that make no sense of a model are left out.

    Raises:
        ValueError: if there are none.
    """

    readings: Mapping[str, AbstractReading] = field(default_factory=_all)

    def __post_init__(self) -> None:
        if not self.readings:
            raise ValueError("evaluation.analysis: readings is empty; name at least one")

    def only(self, names: Sequence[str]) -> AnalysisSettings:
        """Return the settings with some readings alone; names are free of case, and of hyphens for underscores.

        Raises:
            ValueError: if there is no such reading.
        """
        wanted = [name.strip().lower().replace("-", "_") for name in names]
        strange = [name for name in wanted if name not in self.readings]
        if strange:
            raise ValueError(f"no reading {strange[0]!r}; there are {', '.join(self.readings)}")
        return AnalysisSettings({name: reading for name, reading in self.readings.items() if name in wanted})

    def with_samples(self, samples: int) -> AnalysisSettings:
        """Return the settings with another number of samples in every reading."""
        changed = {
            name: dataclasses.replace(reading, samples=samples)  # type: ignore[type-var]
            for name, reading in self.readings.items()
        }
        return AnalysisSettings(changed)
