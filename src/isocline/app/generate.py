"""Use a trained model: resolve its name, sample images into a grid, generate text."""

from __future__ import annotations

import difflib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from torch import Tensor

    from isocline.app.artifacts import LoadedModel

__all__ = ["TextRequest", "generate_text", "resolve_model", "sample_images"]


@dataclass(frozen=True)
class TextRequest:
    """What to generate: see ``isocline generate --help``."""

    prompt: str = ""
    length: int | None = None
    nfe: int = 32
    seed: int = 0
    sampler: str | None = None
    count: int = 1


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
    from mlflow.exceptions import MlflowException

    from isocline.tracking.provenance import digest
    from isocline.tracking.store import connect

    client, _ = connect()
    try:
        tags = client.get_run(run_id).data.tags
    except MlflowException as error:
        raise ValueError(f"no MLflow run {run_id} in this store; MLFLOW_TRACKING_URI says where to look") from error
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


def _sampler_section(model: Path, sampler: str | None, root: Path) -> dict[str, Any]:
    """Return the sampler's configuration: the option's by name, else the model's own from params.yaml."""
    from isocline.app.catalog import entries

    if sampler is not None:
        found = {entry.name: entry.path for entry in entries("samplers", root / "conf")}
        if sampler not in found:
            raise ValueError(f"no sampler {sampler!r}; samplers are {', '.join(found)}")
        section = yaml.safe_load(found[sampler].read_text())
    else:
        from isocline.app.declaration import load_params

        params = load_params(root)
        sections = [params.get(side, {}).get(model.name) for side in ("models", "students")]
        section = next((s["sampler"] for s in sections if s and s.get("sampler")), None)
    if section is None:
        raise ValueError(
            f"params.yaml has no sampler for {model.name!r}; name one with --sampler (isocline list samplers)"
        )
    return dict(section)


def _load(name: str, root: Path, sampler: str | None, modality: str) -> LoadedModel:
    from isocline.app.artifacts import load_model

    directory = resolve_model(name, root)
    loaded = load_model(directory, _sampler_section(directory, sampler, root))
    if loaded.modality != modality:
        other = "generate" if loaded.modality == "text" else "sample"
        raise ValueError(f"{name} is a model of {loaded.modality}; use `isocline {other} {name}`")
    needs_process = loaded.process is not None and type(loaded.sampler).__name__.startswith("Autoregressive")
    if needs_process:
        raise ValueError(
            f"sampler {sampler!r} is for autoregressive models; {name} is not one (isocline list samplers)"
        )
    return loaded


def sample_images(name: str, root: Path, *, n: int, sampler: str | None, nfe: int, seed: int, out: Path) -> int:
    """Sample ``n`` images and write them as a grid; return the evaluations spent per image.

    Raises:
        FileNotFoundError: if the model or the output's folder is not there.
        ValueError: if the model is not one of images, or the sampler does not fit.
    """
    import torch

    from isocline.processes.denoiser import Denoiser
    from isocline.randomness import generator, sample_noise

    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"no folder {out.absolute().parent} for --out; make it first")
    model = _load(name, root, sampler, "images")
    network = model.config["network"]
    shape = (network["channels"], network["size"], network["size"])
    cond = torch.arange(n) % network["classes"] if network.get("classes") else None
    noise = sample_noise(seed, "sample", range(n), shape)
    with torch.inference_mode():
        solution = model.sampler.sample(
            Denoiser(model.network, model.process), noise, nfe, cond=cond, generator=generator(seed, "sampler")
        )
    _save_grid(solution.final, out)
    return int(solution.stats.nfe.max())


def _save_grid(images: Tensor, path: Path) -> None:
    """Write images in [-1, 1], shape (B, C, H, W), as one PNG, replaced in one step."""
    import torch
    from PIL import Image

    from isocline.app.compose import replace_file

    if not torch.isfinite(images).all():
        raise ValueError("the samples are not finite; use more evaluations (--nfe) or another sampler")
    count, channels, height, width = images.shape
    columns = min(count, max(1, round(count**0.5 * 1.2)))
    rows = -(-count // columns)
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    grid = torch.zeros(channels, rows * (height + 2) + 2, columns * (width + 2) + 2, dtype=torch.uint8)
    for index, image in enumerate(pixels):
        top, left = (2 + index // columns * (height + 2)), (2 + index % columns * (width + 2))
        grid[:, top : top + height, left : left + width] = image
    array = grid.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[..., 0] if channels == 1 else array)
    scale = max(1, 64 // height)
    content = io.BytesIO()
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(content, "PNG")
    replace_file(content.getvalue(), path)


def generate_text(name: str, root: Path, request: TextRequest) -> list[str]:
    """Generate texts that begin with a prompt.

    Raises:
        FileNotFoundError: if the model or the tokenizer is not there.
        ValueError: if the model is not one of text, the prompt is too long or holds unknown symbols.
    """
    import torch

    from isocline.datasets.tokenizer import Tokenizer
    from isocline.randomness import generator

    model = _load(name, root, request.sampler, "text")
    tokenizer = Tokenizer.load(root / "data" / "text" / "tokenizer.json")
    longest = int(model.config["network"]["length"])
    length = request.length or longest
    if length > longest:
        raise ValueError(f"--length {length} is more than the model's {longest} tokens")
    try:
        start = tokenizer.encode(_as_in_training(request.prompt, root))
    except ValueError as error:
        raise ValueError(f"--prompt {request.prompt!r}: {error}") from error
    if len(start) >= length:
        raise ValueError(
            f"--prompt takes {len(start)} of {length} tokens; shorten it or raise --length (at most {longest})"
        )
    prompt = None
    if len(start):
        tokens, fixed = torch.zeros(request.count, length, dtype=torch.int64), torch.zeros(length, dtype=torch.bool)
        tokens[:, : len(start)] = start
        fixed[: len(start)] = True
        prompt = (tokens, fixed.expand(request.count, length).clone())
    with torch.inference_mode():
        solution = model.sampler.sample(
            model.network,
            model.process,
            (request.count, length),
            request.nfe,
            generator(request.seed, "generate"),
            prompt=prompt,
        )
    return tokenizer.decode_batch(solution.final)


def _as_in_training(prompt: str, root: Path) -> str:
    """Simplify a prompt as the training text was (the data card says how)."""
    from isocline.app.artifacts import build

    card = root / "data" / "text" / "card.json"
    normalise = build(json.loads(card.read_text()).get("normalise")) if card.exists() else None
    return str(normalise(prompt)) if prompt and normalise else prompt
