"""Use a trained model: resolve its name, load it with a sampler that suits it, sample images into a grid."""

from __future__ import annotations

import difflib
import inspect
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from isocline.app.errors import one_line

if TYPE_CHECKING:
    from torch import Tensor

    from isocline.app.artifacts import LoadedModel

__all__ = ["ImageRequest", "load_fitting", "misfit_in_use", "reason_of", "resolve_model", "sample_images"]


_SHAPE = {"images": ("channels", "size"), "text": ("length",)}


@dataclass(frozen=True)
class ImageRequest:
    """What to sample: see ``isocline sample --help``."""

    count: int
    sampler: str | None
    nfe: int
    seed: int
    out: Path
    label: int | None = None
    guidance: str | None = None
    scale: float | None = None
    adapter: str | None = None


def resolve_model(name: str, root: Path) -> Path:
    """Return the directory of a model.

    Args:
        name: name under ``data/models``, a path, or an MLflow run id (its tag ``out.<path>`` is followed).
        root: the project's directory.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the run made no model, or its model is no longer the one on disk.
    """
    models = root / "data" / "models"
    for directory in (models / name, Path(name)):
        if name and (directory / "model.yaml").exists():
            return directory
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return _model_of_run(name, root)
    known = sorted(path.parent.name for path in models.glob("*/model.yaml"))
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"trained: {', '.join(known) or 'none yet; run `isocline repro`'}"
    raise FileNotFoundError(f"no model {name!r} under {models}; {hint}")


def _model_of_run(run_id: str, root: Path) -> Path:
    from isocline.app.compare import ask_store
    from isocline.tracking.provenance import digest

    tags = ask_store(run_id, lambda client, _: dict(client.get_run(run_id).data.tags))
    made = {tag.removeprefix("out."): md5 for tag, md5 in tags.items() if tag.startswith("out.data/models/")}
    if not made:
        raise ValueError(
            f"run {run_id} ({tags.get('dvc.stage', 'no stage')}) made no model; name a train or distill run"
        )
    path, md5 = next(iter(made.items()))
    if digest(root / path) != md5:
        commit = tags.get("mlflow.source.git.commit", "its commit")[:12]
        raise ValueError(f"{path} is not what run {run_id} wrote; git checkout {commit} && dvc checkout {path}")
    return root / path


def _sampler_section(model: Path, sampler: str | None, root: Path) -> tuple[dict[str, Any], str]:
    """Return the sampler's configuration and where it stands: the option's by name, else the model's own."""
    from isocline.app.catalog import find

    if sampler is not None:
        entry = find("samplers", sampler, root / "conf")
        try:
            section = yaml.safe_load(entry.path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{entry.path} is not YAML ({reason_of(error)}); correct it") from error
        source = f"--sampler {entry.name}"
    else:
        from isocline.app.declaration import load_params

        params = load_params(root)
        sections = [params.get(side, {}).get(model.name) for side in ("models", "students")]
        section = next((s["sampler"] for s in sections if s and s.get("sampler")), None)
        source = f"the sampler of {model.name} in params.yaml"
    if section is None:
        raise ValueError(
            f"params.yaml has no sampler for {model.name!r}; name one with --sampler (isocline list samplers)"
        )
    if not isinstance(section, dict) or "_target_" not in section:
        raise ValueError(f"{source} has no _target_; see conf/sampler/euler.yaml for one that has")
    return section, source


def load_fitting(
    name: str,
    root: Path,
    sampler: str | None,
    modality: str,
    adapter: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a model with a sampler that suits it; everything that does not fit is refused before anything is drawn.

    Args:
        name: of the model, see `resolve_model`.
        root: the project's directory.
        sampler: name of a sampler; None for the model's own.
        modality: ``images`` or ``text``, what is wanted of it.
        adapter: a student whose adapter is put on the model, and whose sampler is used if none is named.
        options: arguments of the sampler that take the place of its configuration's.

    Raises:
        FileNotFoundError: if the model is not there.
        ValueError: if it is damaged or of another modality, or the sampler does not suit it or takes no such option.
    """
    from hydra.errors import InstantiationException

    from isocline.app.adapters import adapted_model
    from isocline.app.artifacts import build
    from isocline.app.decoding import decoded

    directory = resolve_model(name, root)
    lender = directory if adapter is None else resolve_model(adapter, root)
    model = _loaded(name, directory, modality)
    section, source = _sampler_section(lender, sampler, root)
    try:
        made = build(section)
    except InstantiationException as error:
        raise ValueError(f"{source} cannot be built ({reason_of(error)}); correct it") from error
    _check_sampler(made, model, source, root)
    if options:
        made = _with_options(section, options, source)
    if adapter is not None:
        model = adapted_model(model, directory, lender)
    return replace(model, sampler=decoded(made, directory))


def _loaded(name: str, directory: Path, modality: str) -> LoadedModel:
    """Load a model, or raise where it is damaged or not of the modality that is wanted."""
    from hydra.errors import InstantiationException

    from isocline.app.artifacts import load_model

    try:
        model = load_model(directory)
    except (InstantiationException, KeyError, TypeError, AttributeError) as error:
        cure = f"delete {directory} and run `isocline repro` again"
        raise ValueError(f"{directory / 'model.yaml'} cannot be built ({reason_of(error)}); {cure}") from error
    if model.modality == "points":
        raise ValueError(f"{name} is a density on points; its samples are in data/evaluations/{name}")
    if model.modality != modality and (model.modality, modality) != ("latents", "images"):
        other = "generate" if model.modality == "text" else "sample"
        raise ValueError(f"{name} is a model of {model.modality}; use `isocline {other} {name}`")
    missing = [key for key in _SHAPE[modality] if key not in model.config["network"]]
    if missing:
        raise ValueError(
            f"{directory / 'model.yaml'}: network has no {missing[0]}, which `isocline` samples by; add it"
        )
    return model


def _with_options(section: Mapping[str, Any], options: Mapping[str, Any], source: str) -> Any:
    """Build a sampler, which can be built without them, with options of the command line.

    Raises:
        ValueError: if its constructor takes no such argument, or no such value.
    """
    from hydra.errors import InstantiationException

    from isocline.app.artifacts import build
    from isocline.app.fitting import locate

    target = section["_target_"]
    known = inspect.signature(locate(target)).parameters
    given = ", ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in options.items())
    for name, value in options.items():
        if name not in known:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option}: {source} ({target.rpartition('.')[2]}) does not take it; leave it out")
        if not math.isfinite(value):
            raise ValueError(f"--{name.replace('_', '-')} {value:g} is not a finite number; give one or leave it out")
    try:
        return build({**section, **options})
    except InstantiationException as error:
        raise ValueError(f"{given}: {source} refuses it ({reason_of(error)}); correct it or leave it out") from error


def _check_sampler(sampler: Any, model: LoadedModel, source: str, root: Path) -> None:
    """Raise unless the sampler can sample from the model's process.

    Raises:
        ValueError: naming the samplers that can.
    """
    from isocline.app.fitting import misfit
    from isocline.samplers.discrete import AbstractDiscreteSampler

    process = None if model.process is None else type(model.process)
    reason = misfit(type(sampler), process)
    if reason is None and process is not None and isinstance(sampler, AbstractDiscreteSampler):
        try:
            sampler.stepper(model.process)
        except TypeError as error:
            reason = str(error)
    if reason is None:
        return
    raise ValueError(f"{source} does not suit {model.name}: {reason}; {_fitting(sampler, model, root)}")


def _fitting(sampler: Any, model: LoadedModel, root: Path) -> str:
    """Name the samplers that can sample from a model, but for the one that cannot."""
    from isocline.app.catalog import entries
    from isocline.app.fitting import ConfigurationError, locate, misfit

    process = None if model.process is None else type(model.process)
    fitting = []
    for entry in entries("samplers", root / "conf"):
        try:
            other = locate(yaml.safe_load(entry.path.read_text(encoding="utf-8"))["_target_"])
        except (ConfigurationError, yaml.YAMLError, KeyError, TypeError):
            continue
        fits = inspect.isclass(other) and other is not type(sampler) and misfit(other, process) is None
        if fits and (model.modality != "text" or _writes(entry.path, model)):
            fitting.append(entry.name)
    most, last = ", ".join(fitting[:-1]), fitting[-1:]
    return f"use --sampler {' or '.join([most, *last] if most else last)}" if last else "see `isocline list samplers`"


def _writes(path: Path, model: LoadedModel) -> bool:
    """Whether the sampler of a file works on a model of text."""
    from hydra.errors import InstantiationException

    from isocline.app.artifacts import build

    try:
        return _works(build(yaml.safe_load(path.read_text(encoding="utf-8"))), model, 1)
    except InstantiationException:
        return False


def _works(sampler: Any, model: LoadedModel, nfe: int) -> bool:
    """Whether a sampler works on a model of text, found out by one text."""
    from isocline.randomness import generator

    shape = (1, int(model.config["network"]["length"]))
    try:
        sampler.sample(model.network, model.process, shape, nfe, generator(0, "trial"))
    except (ValueError, TypeError, AttributeError, RuntimeError):
        return False
    return True


def misfit_in_use(error: Exception, model: LoadedModel, sampler: str | None, root: Path) -> str | None:
    """Tell from an error in sampling text that a sampler cannot sample from this model; None if it can otherwise.

    Args:
        error: what was raised.
        model: with its sampler.
        sampler: the name that was given; None for the model's own.
        root: the project's directory.
    """
    if _works(model.sampler, model, 8):
        return None
    source = f"the sampler of {model.name} in params.yaml" if sampler is None else f"--sampler {sampler}"
    reason = one_line(error, 200)
    return f"{source} does not suit {model.name}: {reason}; {_fitting(model.sampler, model, root)}"


def reason_of(error: BaseException) -> str:
    """The cause of an error on one line."""
    return one_line(error.__cause__ or error, 200)


def _check_target(out: Path) -> None:
    """Raise unless a file can be written there: found out before the sampling, not after it."""
    if out.is_dir():
        raise IsADirectoryError(f"--out {out} is a folder; name a file in it, for instance {out / 'grid.png'}")
    folder = out.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} for --out; make it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--out {out}: {folder} cannot be written to; choose another folder")


def sample_images(name: str, root: Path, request: ImageRequest) -> int:
    """Sample images and write them as a grid; return the evaluations spent per image.

    Raises:
        OSError: if the model or the output's folder is not there, or the output is a folder.
        ValueError: if the model is damaged or not one of images, or sampler, class or guidance do not fit.
    """
    import torch

    from isocline.app.guide import guided, labels
    from isocline.processes.denoiser import Denoiser
    from isocline.randomness import generator, sample_noise

    _check_target(request.out)
    model = load_fitting(name, root, request.sampler, "images", request.adapter)
    network = model.config["network"]
    shape = (network["channels"], network["size"], network["size"])
    cond = labels(name, network.get("classes", 0), request)
    sampler = guided(model.sampler, request, root)
    noise = sample_noise(request.seed, "sample", range(request.count), shape)
    with torch.inference_mode():
        solution = sampler.sample(
            Denoiser(model.network, model.process),
            noise,
            request.nfe,
            cond=cond,
            generator=generator(request.seed, "sampler"),
        )
    _save_grid(solution.final, request.out)
    return int(solution.stats.nfe.max())


def _save_grid(images: Tensor, path: Path) -> None:
    """Write images in [-1, 1], shape (B, C, H, W), as one PNG, replaced in one step."""
    import torch

    from isocline.app.compose import replace_file
    from isocline.datasets.quantisation import to_uint8
    from isocline.report.pictures import enlarge, png, tile

    if not torch.isfinite(images).all():
        raise ValueError("the samples are not finite; use more evaluations (--nfe) or another sampler")
    count, height = len(images), images.shape[2]
    columns = min(count, max(1, round(count**0.5 * 1.2)))
    sheet = tile(to_uint8(images).cpu().numpy(), columns)
    replace_file(png(enlarge(sheet, max(1, 64 // height))), path)
