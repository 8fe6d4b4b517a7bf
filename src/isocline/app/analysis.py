"""Read trained models as dynamical systems: what a reading is given, all readings of one model, their files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from isocline.app.artifacts import LoadedModel, device_of, load_model, load_tensors
from isocline.app.evaluation_stage import plain_document, write_table
from isocline.app.judges import load_image_judge
from isocline.app.latent_space import FOLDER, load_autoencoder
from isocline.app.trained_field import depth_field, trained_field
from isocline.datasets.storage import write_bytes
from isocline.dynamics.readings.base import Findings, ImageSide, Subject, TextSide
from isocline.dynamics.readings.settings import AnalysisSettings
from isocline.dynamics.trained_field import TrainedField
from isocline.randomness import derive_seed
from isocline.report.dynamics_charts import dynamics_charts
from isocline.report.pictures import enlarge, png, tile
from isocline.report.standalone import svg_file
from isocline.report.study import Study

__all__ = ["Analysis", "analyse", "subject_of", "write_analysis"]

_ENLARGED = 2


@dataclass(frozen=True)
class Analysis:
    """What was read of one model.

    Attributes:
        name: of the model.
        findings: by the name of the reading.
        refused: by name of the reading, why it makes no sense of this model.
    """

    name: str
    findings: Mapping[str, Findings]
    refused: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return what ``metrics/analyse-<name>.json`` holds."""
        metrics = {name: dict(found.metrics) for name, found in self.findings.items()}
        protocol = {name: found.protocol for name, found in self.findings.items()}
        not_read = {name: f"not read: {reason}" for name, reason in self.refused.items()}
        return plain_document({**metrics, "protocol": {**protocol, **not_read}})


def subject_of(directory: Path, sampler: Mapping[str, Any] | None, accelerator: str = "cpu") -> Subject:
    """Load a model with all that is held against it.

    Args:
        directory: of the model; the data lie in ``../../`` of it.
        sampler: configuration of its own sampler, of models of text; None for others.
        accelerator: see `isocline.app.artifacts.device_of`.

    Raises:
        FileNotFoundError: if the model, its data or their judge is missing.
        ValueError: if one is damaged.
    """
    device, root = device_of(accelerator), directory.parent
    is_text = load_model(directory).modality == "text"
    model = load_model(directory, sampler if is_text else None, device)
    data = root.parent
    flow = _field(trained_field, model, root, accelerator)
    depth = _field(depth_field, model, root, accelerator)
    images = text = None
    if is_text:
        train, test = (load_tensors(data / f"text/{split}.safetensors")["tokens"] for split in ("train", "test"))
        text = TextSide(train, test[:, : int(model.config["network"]["length"])])
    elif model.modality in ("images", "latents"):
        train, test = (load_tensors(data / f"images/{split}.safetensors")["images"] for split in ("train", "test"))
        images = ImageSide(load_image_judge(data / "judges/images", device), train, test, _decoder(directory, device))
    return Subject(
        name=model.name,
        network=model.network,
        process=model.process,
        sampler=model.sampler,
        flow=None if flow is None or flow.kind == "depth" else flow,
        depth=depth,
        images=images,
        text=text,
        device=device,
    )


def _field(
    reader: Callable[..., TrainedField], model: LoadedModel, root: Path, accelerator: str
) -> TrainedField | None:
    """A model's field; None where it has none of that kind."""
    try:
        return reader(model.name, root, accelerator)
    except ValueError:
        return None


def _decoder(directory: Path, device: Any) -> Callable[[Tensor], Tensor]:
    """What turns clean states of a model into images."""
    if not (directory / FOLDER).is_dir():
        return lambda data: data
    return load_autoencoder(directory / FOLDER, device).decode


def analyse(
    subject: Subject, settings: AnalysisSettings, seed: int, progress: Callable[[str], None] = lambda _: None
) -> Analysis:
    """Make every reading that makes sense of a model.

    Args:
        subject: the model.
        settings: which readings.
        seed: run seed; a reading's draws depend on it and the reading's name alone.
        progress: told what is being read.

    Raises:
        ValueError: if no reading makes sense.
    """
    refused = {name: why for name, reading in settings.readings.items() if (why := reading.refusal(subject))}
    if len(refused) == len(settings.readings):
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
        raise ValueError(f"nothing can be read of {subject.name} ({reasons}); choose other readings")
    findings = {}
    for name, reading in settings.readings.items():
        if name not in refused:
            progress(name)
            findings[name] = reading.read(subject, derive_seed(seed, name))
    return Analysis(subject.name, findings, refused)


def write_analysis(analysis: Analysis, directory: Path) -> list[Path]:
    """Write tables (CSV), pictures (PNG) and charts (SVG); what lay in the folder before is removed.

    Returns:
        The files written.
    """
    shutil.rmtree(directory, ignore_errors=True)
    tables: dict[str, tuple[Mapping[str, str], ...]] = {}
    for found in analysis.findings.values():
        for name, rows in found.tables.items():
            if rows:
                write_table(directory / f"{name}.csv", rows)
                tables[name] = tuple({column: f"{value:.9g}" for column, value in row.items()} for row in rows)
        for name, sheet in found.pictures.items():
            pixels = tile(sheet.flatten(0, 1).cpu().numpy(), sheet.shape[1])
            write_bytes(directory / f"{name}.png", png(enlarge(pixels, _ENLARGED)))
    for name, chart in dynamics_charts(Study(analysis.name, {}, tables)).items():
        write_bytes(directory / f"{name}.svg", svg_file(chart))
    return sorted(directory.iterdir())
