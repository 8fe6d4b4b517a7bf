"""Commands that use a trained model: sample, generate, analyse, average."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]

_MODEL = typer.Argument(help="name under data/models, path, or MLflow run id")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(sample)
    app.command()(generate)
    app.command()(analyse)
    app.command()(average)


def sample(
    model: Annotated[str, _MODEL],
    n: Annotated[int, typer.Option("--n", help="number of images", min=1, max=4096)] = 16,
    sampler: Annotated[str | None, typer.Option(help="see `isocline list samplers`; default: the model's")] = None,
    nfe: Annotated[int, typer.Option(help="network evaluations per image", min=1)] = 16,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path, typer.Option(help="PNG to write")] = Path("grid.png"),
    label: Annotated[int | None, typer.Option("--class", help="class of all images; default: all in turn")] = None,
    guidance: Annotated[str | None, typer.Option(help="see `isocline list guidance`; default: the sampler's")] = None,
    scale: Annotated[float | None, typer.Option(help="strength of --guidance; 1 is none; default: its own")] = None,
    adapter: Annotated[str | None, typer.Option(help="student whose adapter is put on the model")] = None,
) -> None:
    """Sample images into a grid."""
    from isocline.app import generate as generating

    request = generating.ImageRequest(n, sampler, nfe, seed, out, label, guidance, scale, adapter)
    used = generating.sample_images(model, Path(), request)
    print(f"{out}: {n} images, {used} evaluations each")


def generate(
    model: Annotated[str, _MODEL],
    prompt: Annotated[str, typer.Option(help="text to go on from; ___ is a gap to fill")] = "",
    length: Annotated[int | None, typer.Option(help="tokens, prompt included; default: the model's", min=1)] = None,
    nfe: Annotated[int, typer.Option(help="network evaluations", min=1)] = 32,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    sampler: Annotated[str | None, typer.Option(help="see `isocline list samplers`; default: the model's")] = None,
    count: Annotated[int, typer.Option("--count", "--n", help="number of texts", min=1, max=256)] = 1,
    gap: Annotated[int | None, typer.Option(help="tokens of every gap; default: 8, or what fits", min=1)] = None,
    temperature: Annotated[float | None, typer.Option(help="of the law of tokens; 0 is greedy; default: 1")] = None,
    top_p: Annotated[float | None, typer.Option(help="draw from the likeliest tokens of this mass")] = None,
    min_p: Annotated[float | None, typer.Option(help="leave out tokens below this share of the likeliest")] = None,
    label: Annotated[int | None, typer.Option(help="class of the text, for models that know classes")] = None,
    show: Annotated[bool, typer.Option("--show", help="draw the text as it is written")] = False,
    pause: Annotated[
        float | None, typer.Option(help="seconds between two states of --show; default: 0.1", min=0, max=10)
    ] = None,
) -> None:
    """Generate text: go on from a prompt, or fill its gaps ("In the beginning ___ created")."""
    from isocline.app import generate_text as generating

    if pause is not None and not show:
        raise ValueError(f"--pause {pause:g} is the time between the states that --show draws; add --show")
    request = generating.TextRequest(
        prompt, length, nfe, seed, sampler, count, gap, temperature=temperature, top_p=top_p, min_p=min_p, label=label
    )
    if show:
        from isocline.app.denoising_view import DenoisingView

        with DenoisingView.on(sys.stderr, 0.1 if pause is None else pause) as view:
            written = generating.generate_text(model, Path(), request, view)
    else:
        written = generating.generate_text(model, Path(), request)
    for text in written.texts:
        print(text)
    if written.note:
        print(f"isocline: note: {written.note}", file=sys.stderr)


def analyse(
    run: Annotated[str, _MODEL],
    out: Annotated[Path | None, typer.Option(help="folder to write to; default: analysis-MODEL")] = None,
    only: Annotated[str, typer.Option(help="readings, with commas between: decision,geometry,…; default: all")] = "",
    samples: Annotated[int | None, typer.Option(help="of every reading; default: each one's own", min=2)] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Read a model as a dynamical system: decision times, fixed points, attractors, depth, …; logged to its run."""
    from isocline.app.analysis_command import AnalysisRequest, analyse_run, show_analysis

    names = tuple(name for name in only.split(",") if name.strip())
    show_analysis(analyse_run(run, Path(), AnalysisRequest(out, names, samples, seed)))


def average(
    model: Annotated[str, _MODEL],
    sigma_rel: Annotated[float, typer.Option(help="width of the average relative to the run, up to 0.2886")],
    out: Annotated[Path, typer.Option(help="folder to write the model to")],
    step: Annotated[int | None, typer.Option(help="of training; default: the last", min=1)] = None,
) -> None:
    """Build a model's weights with another average (needs ema: power in its configuration)."""
    from isocline.app.generate import resolve_model
    from isocline.app.reaverage import reaverage

    error = reaverage(resolve_model(model, Path()), sigma_rel, out, step)
    print(f"{out}: sigma_rel {sigma_rel:g}, profile met within {100 * error:.2g} %")
