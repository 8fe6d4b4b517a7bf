"""Reading: the geometry of a field's trajectories."""

from __future__ import annotations

from dataclasses import dataclass

from isocline.dynamics.geometry import effective_dimension, trajectory_geometry
from isocline.dynamics.readings.base import AbstractReading, Findings, Row, Subject, estimate, positive, with_error
from isocline.dynamics.readings.paths import follow

__all__ = ["GeometryReading"]


@dataclass(frozen=True)
class GeometryReading(AbstractReading):
    """Straightness, bends, speed, and how many axes a trajectory needs.

    Attributes:
        samples: trajectories.
        steps: of each.
        axes: principal axes in the table.
    """

    samples: int = 64
    steps: int = 24
    axes: int = 8

    def __post_init__(self) -> None:
        positive(self, "samples", "steps", "axes")

    def refusal(self, subject: Subject) -> str | None:
        """Needs a field of two steps at least."""
        if subject.field is None:
            return "it is no vector field, in time or in depth"
        if subject.field.kind == "depth" and subject.field.end - subject.field.start < 2:
            return "a network of one layer has no trajectory in depth"
        return None

    def read(self, subject: Subject, seed: int) -> Findings:
        """Follow and measure."""
        field = subject.field
        assert field is not None
        paths = follow(field, self.samples, max(2, self.steps), seed)
        found = trajectory_geometry(paths.ts, paths.ys)
        metrics = {
            "planarity": estimate(found.planarity),
            "axes_of_a_path": estimate(effective_dimension(found.shares)),
            "axes_of_all_paths": float(effective_dimension(found.pooled)),
            "arc_over_chord": estimate(found.arc_over_chord),
            "straightness": estimate(found.straightness),
            "turning": estimate(found.turning),
        }
        rows: list[Row] = []
        for index, t in enumerate(paths.ts[1:-1]):
            rows.append(
                {
                    "t": float(t),
                    **with_error("speed", (found.speed[index] + found.speed[index + 1]) / 2),
                    **with_error("curvature", found.curvature[index]),
                }
            )
        axes: list[Row] = []
        for index in range(min(self.axes, found.shares.shape[1])):
            cumulated = found.shares[:, : index + 1].sum(-1)
            pooled = float(found.pooled[: index + 1].sum())
            axes.append({"axes": index + 1, **with_error("one_path", cumulated), "all_paths": pooled})
        how = "layer by layer" if field.kind == "depth" else f"in {self.steps} steps of Heun's method"
        protocol = f"{self.samples} trajectories, {how}; errors over trajectories"
        return Findings(metrics, {"geometry": rows, "axes": axes}, protocol=protocol)
