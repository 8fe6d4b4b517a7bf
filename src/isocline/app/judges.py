"""Read the judges that the judging stages wrote."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from isocline.app.artifacts import build, load_config, load_tensors, restore
from isocline.app.judge_files import CONFIG, NGRAM, WEIGHTS
from isocline.metrics.judge_image import ImageJudge
from isocline.metrics.judge_text import negative_log_likelihood
from isocline.metrics.ngram import KneserNey

__all__ = ["load_image_judge", "load_text_judges"]

Scorer = Callable[[Tensor], Tensor]
"""Tokens ``(N, L)`` to negative log-likelihoods in nats ``(N,)``."""


def _load_network(directory: Path, device: str | torch.device) -> nn.Module:
    if not (directory / CONFIG).exists():
        raise FileNotFoundError(f"{directory / CONFIG} is missing; run `dvc repro` to make it, or `dvc pull`")
    config = load_config(directory / CONFIG, ["network"])
    network: nn.Module = build(config["network"])
    restore(network, directory / WEIGHTS, device)
    return network


def load_image_judge(directory: Path = Path("data/judges/images"), device: str | torch.device = "cpu") -> ImageJudge:
    """Read the image judge, in evaluation mode.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is damaged.
    """
    network = _load_network(directory, device)
    assert isinstance(network, ImageJudge)
    return network


def load_text_judges(
    directory: Path = Path("data/judges/text"), device: str | torch.device = "cpu"
) -> dict[str, Scorer]:
    """Read the text judges as scorers: ``ar`` (the network) and ``ngram``.

    Raises:
        FileNotFoundError: if one is missing.
        ValueError: if one is damaged.
    """
    ngram = KneserNey.from_state_dict(load_tensors(directory / NGRAM))
    network = _load_network(directory, device)
    return {"ar": functools.partial(negative_log_likelihood, network), "ngram": ngram.negative_log_likelihood}
