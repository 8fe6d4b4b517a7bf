"""Reading: finite-time Lyapunov exponents of a field over its span, in time or in depth."""

from __future__ import annotations

from dataclasses import dataclass

from isocline.dynamics.finite_time import finite_time_exponents
from isocline.dynamics.readings.base import AbstractReading, Findings, Row, Subject, estimate, positive, with_error
from isocline.dynamics.trained_field import TrainedField
from isocline.randomness import generator
from isocline.solvers.controller import ConstantSteps
from isocline.solvers.explicit import Euler, Heun

__all__ = ["LyapunovReading"]


@dataclass(frozen=True)
class LyapunovReading(AbstractReading):
    """How much neighbouring trajectories part, or draw together, on the way from start to end.

    A model of text is read in depth as well, where its layers are the steps.

    Attributes:
        samples: starts.
        exponents: the largest so many.
        steps: of Heun's method; a network in depth takes as many Euler steps as it has layers.
        rounds: of the block iteration, for states of many components.
    """

    samples: int = 8
    exponents: int = 4
    steps: int = 12
    rounds: int = 3

    def __post_init__(self) -> None:
        positive(self, "samples", "exponents", "steps", "rounds")

    def refusal(self, subject: Subject) -> str | None:
        """Needs a field."""
        return "it is no vector field, in time or in depth" if subject.field is None else None

    def read(self, subject: Subject, seed: int) -> Findings:
        """Stretchings of the flow map at typical starts."""
        metrics: dict[str, object] = {}
        tables: dict[str, list[Row]] = {}
        depth = subject.depth if subject.text is not None or subject.flow is None else None
        fields = {"flow": subject.flow, "depth": depth}
        found = {name: field for name, field in fields.items() if field is not None}
        for name, field in found.items():
            own = self._exponents(field, seed)
            main = len(found) == 1 or name == "flow"
            metrics |= {key if main else f"{key}_in_depth": value for key, value in own.metrics.items()}
            tables["lyapunov" if main else "lyapunov_depth"] = list(own.tables["lyapunov"])
        protocol = (
            f"{self.samples} starts, logarithms of the flow map's largest singular values per unit of time; in depth "
            f"a unit is a layer, in time {self.steps} steps of Heun's method lead through the span"
        )
        return Findings(metrics, tables, protocol=protocol)

    def _exponents(self, field: TrainedField, seed: int) -> Findings:
        starts = field.starts(self.samples, seed)
        layered = field.kind == "depth"
        found = finite_time_exponents(
            field.field,
            starts,
            field.start,
            field.end,
            generator(seed, "frame"),
            count=min(self.exponents, starts[0].numel()),
            rounds=self.rounds,
            cond=field.condition(self.samples, seed),
            stepper=Euler() if layered else Heun(),
            controller=ConstantSteps(round(field.end - field.start) if layered else self.steps),
        )
        values = found.exponents
        if not bool(values.isfinite().all()):
            raise ValueError(f"{field.name}: a trajectory or its derivative is not finite; take more steps")
        rows: list[Row] = [
            {"index": index + 1, **with_error("exponent", values[:, index])} for index in range(values.shape[1])
        ]
        return Findings({"largest": estimate(values[:, 0])}, {"lyapunov": rows})
