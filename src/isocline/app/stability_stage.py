"""The stability stage: measure a trained model, and write what was found as metrics and tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import torch

from isocline.app.artifacts import device_of, load_model, load_tensors
from isocline.app.decoding import decoded
from isocline.app.evaluation_stage import plain_document, write_table
from isocline.app.judges import load_image_judge
from isocline.app.plugin_stage import wrapped
from isocline.app.trained_field import trained_field
from isocline.dynamics.stability_region import StabilityRegion
from isocline.dynamics.stability_report import StabilityReport, report_stability
from isocline.dynamics.stability_settings import StabilitySettings
from isocline.metrics.equal_quality import Needed
from isocline.metrics.image_metrics import ImageReference
from isocline.metrics.quality_over_nfe import Quality, quality_over_nfe
from isocline.metrics.uncertainty import Estimate
from isocline.processes.denoiser import Denoiser

__all__ = ["Stability", "study_stability", "write_curve_along", "write_stability"]

Row = Mapping[str, float | str | None]


@dataclass(frozen=True)
class Stability:
    """What was measured of one model.

    Attributes:
        report: of its field.
        quality: of solvers on it; None for models that are not of images.
        settings: what was asked for.
    """

    report: StabilityReport
    quality: Quality | None
    settings: StabilitySettings

    def document(self) -> dict[str, Any]:
        """Return what ``metrics/stability-<name>.json`` holds."""
        report, settings = self.report, self.settings
        costs = [row for row in report.costs.rows() if row.cost is not None]
        reached = {name: list(rows) for name, rows in groupby(costs, key=lambda row: row.solver)}
        found: dict[str, Any] = {
            **report.summary(),
            "stable_steps": report.demanded_steps(),
            "nfe_at_error": {
                name: {_level(row.level): row.cost.nfe for row in rows if row.cost} for name, rows in reached.items()
            },
            "work_at_error": {
                name: {_level(row.level): row.cost.work for row in rows if row.cost} for name, rows in reached.items()
            },
            "precision_loss": {
                growth.name: Estimate.from_values(growth.differences[-1].tolist()) for growth in report.precision
            },
        }
        protocol = {
            "kind": report.kind,
            "size": report.size,
            "span": [report.start, report.end],
            "measures": f"{settings.samples} states; each the worst along the path, mean over states",
            "eigenvalues": f"{settings.krylov} products with each Jacobian (Arnoldi); the leading ones only",
            "nfe_at_error": "relative error at the end; work counts every direction of a Jacobian as an evaluation",
            "not_run": {candidate.name: reason for candidate, reason in report.costs.left_out},
        }
        if self.quality is not None:
            found |= _quality_document(self.quality)
            protocol |= _quality_protocol(self.quality)
        return plain_document({**found, "protocol": protocol})

    def tables(self) -> dict[str, list[Row]]:
        """Return the rows of each CSV table, by its name."""
        report = self.report
        found: dict[str, list[Row]] = {
            "spectrum": list(_spectrum(report)),
            "path": list(_path(report)),
            "local": [
                {
                    "method": name, "start": row.start, "end": row.end, "error": row.error.mean, "se": row.error.se,
                    "order": row.order.mean if row.order else None, "share": row.share,
                }
                for name, rows in report.local.items() for row in rows
            ],
            "costs": list(_costs(report)),
            "precision": [
                {
                    "precision": growth.name, "t": row.t, "difference": row.difference.mean, "se": row.difference.se,
                    "in_roundoffs": row.in_roundoffs.mean,
                }
                for growth in report.precision for row in growth.rows()
            ],
            "regions": [row for name, region in report.regions.items() for row in _region(name, region)],
        }  # fmt: skip
        if self.quality is not None:
            found["quality"] = list(_quality_rows(self.quality))
        return {name: rows for name, rows in found.items() if rows}


def study_stability(
    name: str,
    settings: StabilitySettings,
    seed: int,
    accelerator: str = "cpu",
    root: Path = Path("data"),
    progress: Callable[[str], None] = lambda _: None,
) -> Stability:
    """Measure a trained model or student.

    Args:
        name: of the model.
        settings: what is measured.
        seed: of all draws; models share it, so that their samples are paired.
        accelerator: see `isocline.app.artifacts.device_of`.
        root: folder of models, data and judges.
        progress: told what has just been measured.

    Raises:
        FileNotFoundError: if the model, its data or their judge is missing.
        ValueError: if it is no field.
    """
    field = trained_field(name, root / "models", accelerator)
    report = report_stability(field, settings, seed, progress)
    quality = None
    if settings.quality is not None and field.kind == "image":
        device, directory = device_of(accelerator), root / "models" / name
        model = load_model(directory, device=device)
        train, test = (load_tensors(root / f"images/{split}.safetensors")["images"] for split in ("train", "test"))
        quality = quality_over_nfe(
            wrapped(Denoiser(model.network, model.process), settings.quality.wrap, name),
            ImageReference(load_image_judge(root / "judges/images", device), train, test),
            settings.quality, seed,
            classes=model.config["network"].get("classes", 0), device=device,
            decode=lambda sampler: decoded(sampler, directory, device), shape=field.starts(1, 0).shape[1:],
            progress=progress,
        )  # fmt: skip
    return Stability(report, quality, settings)


def write_stability(found: Stability, directory: Path) -> None:
    """Write the tables as CSV files."""
    for name, rows in found.tables().items():
        write_table(directory / f"{name}.csv", rows)


def write_curve_along(report: StabilityReport, path: Path) -> None:
    """Write the plot's CSV: spectral radius and Lipschitz estimate over the field's time."""
    columns = ("t", "spectral_radius", "lipschitz")
    write_table(path, [{name: row[name] for name in columns} for row in _path(report)])


def _level(error: float) -> str:
    return f"{error:.0e}"


def _spectrum(report: StabilityReport) -> Iterator[Row]:
    found = report.spectrum
    for index, t in enumerate(found.ts.tolist()):
        for sample in range(found.values.shape[1]):
            for value, residual in zip(found.values[index, sample], found.residuals[index, sample], strict=True):
                pair = {"real": float(value.real), "imag": float(value.imag), "residual": float(residual)}
                yield {"t": t, "sample": float(sample), **pair}


def _path(report: StabilityReport) -> Iterator[dict[str, float | str | None]]:
    spectra, norms = report.spectrum.rows(), report.lipschitz.rows()
    for index, (spectrum, norm) in enumerate(zip(spectra, norms, strict=True)):
        measures = {
            "spectral_radius": spectrum.radius,
            "growth": spectrum.abscissa,
            "decay": spectrum.fastest_decay,
            "oscillation": spectrum.oscillation,
            "stiffness_ratio": spectrum.stiffness_ratio,
            "lipschitz": norm.norm,
            "log_norm": norm.log_norm,
            **{
                f"steps_{name}": Estimate.from_values(steps[index].tolist())
                for name, steps in report.stable_steps.items()
            },
        }
        row: dict[str, float | str | None] = {"t": spectrum.t}
        for name, estimate in measures.items():
            row |= {name: estimate.mean if estimate else None, f"{name}_se": estimate.se if estimate else None}
        yield row


def _costs(report: StabilityReport) -> Iterator[Row]:
    for row in report.costs.rows():
        cost = row.cost
        yield {
            "solver": row.solver, "kind": row.kind, "level": row.level,
            "nfe": cost and cost.nfe.mean, "se": cost and cost.nfe.se,
            "jacobians": cost and cost.jacobians.mean, "work": cost and cost.work.mean, "note": row.note,
        }  # fmt: skip


def _region(name: str, region: StabilityRegion) -> Iterator[Row]:
    """The stable stretches of each line of the plane, left to right; half a cell beyond the outermost stable points."""
    half = float(region.real[1] - region.real[0]) / 2
    for imag, line in zip(region.imag.tolist(), region.mask, strict=True):
        padded = torch.cat([torch.zeros(1), line.float(), torch.zeros(1)])
        turns = [index for index, (a, b) in enumerate(pairwise(padded.tolist())) if a != b]
        for first, after in zip(turns[::2], turns[1::2], strict=True):
            low, high = float(region.real[first]) - half, float(region.real[after - 1]) + half
            yield {"method": name, "imag": imag, "low": low, "high": high}


def _needs(quality: Quality, ask: Callable[[str], Needed | None]) -> dict[str, Any]:
    found = {solver: ask(solver) for solver in quality.points}
    return {solver: need.as_dict() for solver, need in found.items() if need is not None}


def _quality_document(quality: Quality) -> dict[str, Any]:
    points = quality.points.items()
    return {
        "frechet": {s: {key: point.frechet.as_dict() for key, point in curve.items()} for s, curve in points},
        "rmse": {s: {key: point.rmse.as_dict() for key, point in curve.items()} for s, curve in points},
        "spent_nfe": {s: {key: point.nfe for key, point in curve.items()} for s, curve in points},
        "nfe_equal_quality": _needs(quality, quality.for_quality),
        "nfe_equal_error": _needs(quality, quality.for_error),
        "reference": {"frechet": quality.reference.as_dict()},
        "floor": {"frechet": quality.floor.as_dict()},
    }


def _quality_protocol(quality: Quality) -> dict[str, Any]:
    settings = quality.settings
    return {
        "samples": f"{settings.samples}, the same noise for all solvers and models; {settings.groups} groups",
        "nfe_equal_quality": f"Fréchet distance at most {settings.within:.0%} above the model's own converged one",
        "nfe_equal_error": f"RMSE per pixel of at most {settings.error:g} from the flow's end",
        "within": settings.within,
        "error": settings.error,
    }


def _quality_rows(quality: Quality) -> Iterator[Row]:
    for solver, curve in quality.points.items():
        for key, point in curve.items():
            yield {
                "solver": solver, "setting": key, "nfe": point.nfe.mean, "nfe_sd": point.nfe.sd,
                "frechet": point.frechet.estimate.mean, "frechet_se": point.frechet.estimate.se,
                "rmse": point.rmse.estimate.mean, "rmse_se": point.rmse.estimate.se,
            }  # fmt: skip
