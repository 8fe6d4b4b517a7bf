"""Build a trained model's weights with another average than the one that was saved."""

from __future__ import annotations

from pathlib import Path

from isocline.app.artifacts import AVERAGES, CONFIG, HISTORY, load_config, load_model, load_tensors, save_model
from isocline.networks.power_ema import Profiles, exponent, synthesise, with_average

__all__ = ["reaverage"]


def reaverage(directory: Path, sigma_rel: float, out: Path, step: int | None = None) -> float:
    """Write a model like the one in ``directory``, with the average of width σ_rel; its curve is that model's.

    Args:
        directory: a model trained with `isocline.networks.power_ema.PowerFunctionAverage`.
        sigma_rel: width of the wanted average.
        out: folder of the new model.
        step: at which the average is taken; None for the last.

    Returns:
        Distance of the profile from the wanted one, relative to the latter's norm.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if it kept no averages, a width or a step is out of range, or ``out`` is the model itself.
    """
    import csv

    if out.absolute() == directory.absolute():
        raise ValueError(f"--out {out} is the model itself; name another folder")
    if not (directory / AVERAGES).exists():
        raise ValueError(
            f"{directory} kept no averages; train it with ema: power (`isocline compose experiment=post_hoc_ema`)"
        )
    tensors = load_tensors(directory / AVERAGES)
    kept = Profiles(tensors["times"], tensors["gammas"], tensors["weights"])
    time = float(kept.times.max()) if step is None else float(step)
    found = synthesise(kept.times, kept.gammas, time, exponent(sigma_rel))
    model = load_model(directory)
    network = with_average(model.network, kept, found)
    with (directory / HISTORY).open(encoding="utf-8") as file:
        history = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    save_model(out, network, load_config(directory / CONFIG), history, process=model.process)
    return found.error
