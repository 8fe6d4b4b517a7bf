"""Reading: when the class of a sample is settled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from isocline.dynamics.decision_time import decided_share, decision_times, probe_predictions
from isocline.dynamics.readings.base import AbstractReading, Findings, Row, Subject, estimate, positive
from isocline.dynamics.readings.paths import clean_guess, follow, process_time
from isocline.dynamics.trained_field import TrainedField
from isocline.metrics.uncertainty import wilson_interval

__all__ = ["DecisionReading"]


class _Guesses(NamedTuple):
    """States of trajectories, and the class that is read off each: times ``(K,)``, ``(K, B, *event)``, ``(K, B)``."""

    ts: Tensor
    ys: Tensor
    classes: Tensor


@dataclass(frozen=True)
class DecisionReading(AbstractReading):
    """The time from which on the class that the model has in mind stays, and from which on a probe can read it.

    An image model has in mind what the judge sees in D(x_t, t), its guess of the clean image; a classifier, what its
    own head makes of the state at t. The probe is linear, of the state itself, for the class at the end.

    Attributes:
        samples: trajectories.
        steps: of each.
        folds: of the probe's cross-validation.
    """

    samples: int = 128
    steps: int = 16
    folds: int = 4

    def __post_init__(self) -> None:
        positive(self, "samples", "steps", "folds")

    def refusal(self, subject: Subject) -> str | None:
        """Needs classes: a judge of a denoiser's guess, or a classifier's own head."""
        field = subject.field
        if field is not None and (field.readout is not None or (subject.images is not None and field.denoiser)):
            return None
        return "neither a judge nor a head of its own names classes on its way"

    def read(self, subject: Subject, seed: int) -> Findings:
        """Follow, ask, and find when the answers settle."""
        field = subject.field
        assert field is not None
        guesses = self._guesses(subject, field, seed)
        times = decision_times(guesses.ts, guesses.classes)
        decided = decided_share(guesses.classes)
        final = guesses.classes[-1]
        probed = probe_predictions(guesses.ys, final, int(guesses.classes.max()) + 1, min(self.folds, self.samples))
        rows: list[Row] = []
        for index, t in enumerate(guesses.ts):
            rows.append(
                {
                    "t": float(t),
                    **_share("decided", decided[index]),
                    **_share("guess_agrees", guesses.classes[index] == final),
                    **_share("probe_agrees", probed[index] == final),
                }
            )
        majority = float(final.bincount().max()) / len(final)
        metrics = {
            "decision_time": estimate(times),
            "probe_agrees_half_way": estimate((probed[len(probed) // 2] == final).double()),
            "probe_agrees_at_start": estimate((probed[0] == final).double()),
            "largest_class": majority,
        }
        protocol = (
            f"{self.samples} trajectories of {self.steps} steps; time of the first state from which the class stays; "
            f"probe: ridge, {self.folds} folds, for the class at the end; intervals: Wilson's, 95 %"
        )
        return Findings(metrics, {"decision": rows}, protocol=protocol)

    def _guesses(self, subject: Subject, field: TrainedField, seed: int) -> _Guesses:
        paths = follow(field, self.samples, self.steps, seed)
        if field.readout is not None:
            with torch.no_grad():
                classes = torch.stack([field.readout(y).argmax(-1) for y in paths.ys])
            return _Guesses(paths.ts, paths.ys, classes)
        assert field.denoiser is not None
        assert subject.images is not None
        # At the very end the guess is the state, of an image flow as of its sampler.
        clean = [clean_guess(field, t, y, paths.cond) for t, y in zip(paths.ts[:-1], paths.ys[:-1], strict=True)]
        classes = torch.stack([subject.images.classes(data) for data in (*clean, paths.ys[-1])])
        return _Guesses(process_time(field.denoiser.process, paths.ts), paths.ys, classes)


def _share(name: str, hits: Tensor) -> dict[str, float]:
    """Three cells of a row: a share with its interval."""
    low, high = wilson_interval(int(hits.sum()), len(hits))
    return {name: float(hits.double().mean()), f"{name}_low": low, f"{name}_high": high}
