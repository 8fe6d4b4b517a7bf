"""What the parts of a composition must agree on: data with networks, processes with samplers.

Each part may be valid by itself and the whole still fail, some of it after hours of training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isocline.app.density_checks import density_findings
from isocline.app.fitting import EXAMPLES, FAMILIES, class_of, family, locate, misfit, objective_misfit, trial
from isocline.app.sections import section_of

__all__ = ["Problem", "disagreements", "network_problems", "uses"]


@dataclass(frozen=True)
class Problem:
    """What is wrong with one key."""

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


@dataclass(frozen=True)
class _Images:
    """What is known of a data set without reading it; ``test`` is the official test part (0: none)."""

    shape: tuple[int, int, int]
    pool: int
    test: int = 0


_KNOWN = {
    "isocline.datasets.images.MNIST5k": _Images((1, 28, 28), 5000),
    "isocline.datasets.images.Digits": _Images((1, 8, 8), 1797),
    "isocline.datasets.fashion_mnist.FashionMNIST": _Images((1, 28, 28), 60000, 10000),
    "isocline.datasets.cifar10.CIFAR10": _Images((3, 32, 32), 50000, 10000),
}
_BLOCKWISE = ("BlockDiffusion", "BlockSampler")
_FITS = ("images", "latents", "text")
_NEEDED_SPLITS = ("train", "judge", "test")


def disagreements(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what does not fit together; parts that are malformed by themselves are passed over."""
    yield from _image_data(section_of(config, "data", "images"))
    yield from _text_data(section_of(config, "data", "text"))
    for modality in ("images", "text"):
        network = section_of(config, "judge", modality, "network")
        yield from network_problems(f"judge.{modality}.network", network, modality, config)
    for name in section_of(config, "models"):
        yield from _model(name, config)
    yield from _matrix(config)
    yield from (Problem(*finding) for finding in density_findings(config, locate))


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _image_data(data: Mapping[str, Any]) -> Iterator[Problem]:
    node, target = section_of(data, "dataset"), section_of(data, "dataset").get("_target_")
    names, known = getattr(class_of(node), "classes", None), _KNOWN.get(str(target))
    facts = dict(zip(("channels", "size"), known.shape, strict=False)) if known else {}
    facts |= {"classes": len(names)} if isinstance(names, tuple) else {}
    for name, value in facts.items():
        if _whole(data.get(name)) and data[name] != value:
            owner = str(target).rpartition(".")[2]
            yield Problem(
                f"data.images.{name}", f"{data[name]}, but {owner} has {value}; set data.images.{name}={value}"
            )
    splits = section_of(data, "splits")
    yield from _missing_splits("images", splits)
    apart = {name: size for name, size in splits.items() if known and known.test and name == "test"}
    pool = {name: size for name, size in splits.items() if name not in apart}
    yield from _sizes(pool, known.pool if known else None)
    yield from _sizes(apart, known.test if known else None)


def _missing_splits(modality: str, splits: Mapping[str, Any]) -> Iterator[Problem]:
    for name in _NEEDED_SPLITS if splits else ():
        if name not in splits:
            yield Problem(f"data.{modality}.splits.{name}", "is missing; every data set needs train, judge and test")


def _sizes(splits: Mapping[str, Any], available: int | None) -> Iterator[Problem]:
    rest = [name for name, size in splits.items() if size is None]
    if len(rest) > 1:
        yield Problem("data.images.splits", f"{' and '.join(rest)} are null; only one can take all that is left")
    sizes = {name: size for name, size in splits.items() if _whole(size)}
    room = None if available is None else available - len(rest)
    if room is not None and sum(sizes.values()) > room:
        name = max(sizes, key=lambda n: sizes[n])
        most = room - sum(size for other, size in sizes.items() if other != name)
        cure = f"give at most {most}" if most > 0 else "ask for fewer in every split"
        asked = (
            f"{sizes[name]} makes {sum(sizes.values())} with the other splits, and the data set has {available} images"
        )
        yield Problem(f"data.images.splits.{name}", f"{asked}; {cure}")


def _text_data(data: Mapping[str, Any]) -> Iterator[Problem]:
    splits = section_of(data, "splits")
    yield from _missing_splits("text", splits)
    shares = [share for share in splits.values() if isinstance(share, int | float)]
    if len(shares) == len(splits) and shares:
        for name, share in splits.items():
            if share <= 0:
                yield Problem(f"data.text.splits.{name}", f"{share}: a share must be positive")
        if abs(math.fsum(shares) - 1) > 1e-9:
            listed = ", ".join(f"{name} {share}" for name, share in splits.items())
            yield Problem("data.text.splits", f"{listed} add up to {math.fsum(shares):.6g}; make it 1")
    yield from _same("data.text.tokenizer.vocab_size", section_of(data, "tokenizer"), "vocab_size", data, "data.text")


def _same(key: str, node: Mapping[str, Any], name: str, data: Mapping[str, Any], where: str) -> Iterator[Problem]:
    value, wanted = node.get(name), data.get(name)
    if _whole(value) and _whole(wanted) and value != wanted:
        yield Problem(key, f"{value}, but {where}.{name} is {wanted}; give both the same value")


def network_problems(
    key: str, network: Mapping[str, Any], modality: Any, config: Mapping[str, Any]
) -> Iterator[Problem]:
    """Compare a network's shape with that of its data."""
    data, where = section_of(config, "data", str(modality)), f"data.{modality}"
    if modality == "latents":
        where, latents = "autoencoders.latents.network", section_of(config, "autoencoders", "latents", "network")
        names = {"channels": "latent_channels", "size": "latent_size"}
        data = {name: latents.get(theirs) for name, theirs in names.items()}
        if not latents:
            yield Problem(
                "autoencoders.latents",
                f"is missing, and {key} is of latents; set autoencoder@autoencoders.latents=convolutional",
            )
    mine, other = ("vocab_size", "channels") if modality == "text" else ("channels", "vocab_size")
    if other in network and mine not in network:
        kind = str(network.get("_target_")).rpartition(".")[2]
        yield Problem(key, f"{kind} has {other} and no {mine}: it is no network of {modality}; choose another one")
    for name in ("vocab_size",) if modality == "text" else ("channels", "size"):
        yield from _same(f"{key}.{name}", network, name, data, where)
    if modality in ("images", "text") and network.get("classes"):
        yield from _same(f"{key}.classes", network, "classes", data, where)
    if modality == "text" and network.get("classes") and not data.get("classes"):
        yield Problem(
            f"{key}.classes",
            f"{network['classes']}, but {where} has no labels; set data/text=kjv_groups",
        )
    length, wanted = network.get("length"), data.get("length")
    if modality == "text" and isinstance(length, int) and isinstance(wanted, int) and length < wanted:
        yield Problem(f"{key}.length", f"{length}, but data.text.length is {wanted}; give at least that")


def _model(name: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    key, model = f"models.{name}", section_of(config, "models", name)
    modality, process = model.get("modality"), section_of(model, "process")
    kind = class_of(process) if process else None
    kin = family(kind) if kind or not process else None
    if _classifies(model):
        yield from _classifier(key, model)
    elif kin and modality in _FITS and (kin == "gaussian") != (modality != "text"):
        right = "images" if kin == "gaussian" else "text"
        example = "linear" if modality == "images" else "absorbing"
        yield Problem(
            f"{key}.modality",
            f"{modality!r}, but {key}.process is {FAMILIES[kin]}; set {key}.modality={right}, or "
            f"process@{key}.process={example}",
        )
    network = section_of(model, "network")
    yield from network_problems(f"{key}.network", network, modality, config)
    if modality == "text":
        yield from _same(
            f"{key}.process.vocab_size", process, "vocab_size", section_of(config, "data", "text"), "data.text"
        )
    objective = section_of(model, "objective")
    if str(objective.get("_target_")).endswith("AutoregressiveObjective") and network.get("causal") is False:
        yield Problem(
            f"{key}.network.causal", "False, but the autoregressive objective needs a causal network; set true"
        )
    yield from _blocks(key, model)
    yield from uses(key, model, name, config)


def _blocks(key: str, model: Mapping[str, Any]) -> Iterator[Problem]:
    """Check that a network has the blocks that objective or sampler work by."""
    kinds = [class_of(section_of(model, part)) for part in ("objective", "sampler")]
    name = next((kind.__name__ for kind in kinds if kind is not None and kind.__name__ in _BLOCKWISE), None)
    if name is not None and "block_length" not in section_of(model, "network"):
        cure = f"set network@{key}.network=block_transformer, or choose another objective and sampler"
        yield Problem(f"{key}.network.block_length", f"is missing, and {name} works by blocks; {cure}")


def _classifies(model: Mapping[str, Any]) -> bool:
    """Whether a model says what an image is, instead of making one."""
    from isocline.objectives.classification import Classification

    objective = class_of(section_of(model, "objective"))
    return objective is not None and issubclass(objective, Classification)


def _classifier(key: str, model: Mapping[str, Any]) -> Iterator[Problem]:
    from isocline.networks.classifier import AbstractClassifier

    if model.get("modality") != "images":
        yield Problem(f"{key}.modality", f"{model.get('modality')!r}, but classifiers are models of images; set images")
    network = class_of(section_of(model, "network"))
    if network is not None and not issubclass(network, AbstractClassifier):
        yield Problem(
            f"{key}.network",
            f"{network.__name__} is no classifier, which {key}.objective needs; "
            f"for instance network@{key}.network=residual_classifier",
        )


def uses(key: str, part: Mapping[str, Any], name: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare the process of a model with the objective and the sampler that work on it."""
    process, where = section_of(config, "models", name, "process"), f"models.{name}.process"
    kind = class_of(process) if process else None
    if process and kind is None:
        return
    objective, sampler = class_of(section_of(part, "objective")), class_of(section_of(part, "sampler"))
    reason = objective_misfit(objective, kind) if objective else None
    if reason:
        yield Problem(f"{key}.objective", f"{reason} ({where}); choose another objective or process")
    example = EXAMPLES.get(family(kind) or "")
    cure = f"for instance sampler@{key}.sampler={example}" if example else "choose another sampler"
    reason = misfit(sampler, kind) if sampler else None
    if not part.get("sampler") and not _classifies(part):
        yield Problem(f"{key}.sampler", f"is missing, and the model is evaluated by its samples; {cure}")
    if sampler and reason is None:
        labelled = bool(section_of(config, "models", name, "network").get("classes"))
        budgets = section_of(config, "evaluation", "images").get("nfe")
        reason = trial(section_of(part, "sampler"), process, budgets, labelled)
    if reason:
        yield Problem(f"{key}.sampler", f"{reason} ({where}); {cure}")


_OF_ANY = ("stability", "analysis")
"""Studies that read models of any modality, densities included."""


def _matrix(config: Mapping[str, Any]) -> Iterator[Problem]:
    for modality, chosen in section_of(config, "matrix").items():
        for name, side in chosen.items() if isinstance(chosen, Mapping) and modality not in _OF_ANY else ():
            if side == "densities":
                yield Problem(f"matrix.{modality}.{name}", f"densities are evaluated by themselves; for {_OF_ANY} only")
            model = section_of(config, str(side), name)
            found = "classifiers" if _classifies(model) else model.get("modality")
            wanted = "images" if modality == "solvers" else modality
            if found in ("images", "text", "classifiers") and found != wanted:
                yield Problem(f"matrix.{modality}.{name}", f"{side}.{name} is of {found}; move it to matrix.{found}")
