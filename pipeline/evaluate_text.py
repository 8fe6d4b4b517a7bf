"""Evaluate a language model: bits per character, then what it generates over function evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isocline.app.artifacts import build, class_labels, device_of, load_model, load_tensors
from isocline.app.evaluation_stage import metrics_document, model_section, write_curve, write_json
from isocline.app.judges import load_text_judges
from isocline.datasets.storage import write_tensors
from isocline.datasets.tokenizer import MASK_SHOWN, Tokenizer
from isocline.metrics.settings import TextSettings
from isocline.metrics.text_evaluation import evaluate_text, text_floor
from isocline.metrics.text_likelihood import likelihood_tensors, likelihood_values, spread_rows, text_likelihoods
from isocline.metrics.text_metrics import TextReference
from isocline.metrics.text_statistics import vocabulary_of
from isocline.randomness import derive_seed
from isocline.tracking.stage import StageRun


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Evaluate model ``item``: write its metrics, its curve over NFE, its texts and a trajectory."""
    assert item is not None
    settings: TextSettings = build(params["evaluation"]["text"])
    device, seed = device_of(params["accelerator"]), derive_seed(params["seed"], "evaluate-text")
    section = model_section(params, item)
    model = load_model(Path("data/models") / item, section["sampler"], device)
    tokenizer = Tokenizer.load(Path("data/text/tokenizer.json"))
    train, valid, test = (load_tensors(Path(f"data/text/{split}.safetensors")) for split in ("train", "valid", "test"))
    run.dataset_file("data/text/test.safetensors", context="test")
    length, rows = test["tokens"].shape[1], spread_rows(len(test["tokens"]), settings.likelihood_sequences)
    reference = TextReference(
        judges=load_text_judges(device=device),
        decode=tokenizer.decode,
        held_out=[tokenizer.decode(row) for row in test["tokens"]],
        vocabulary=vocabulary_of(tokenizer.decode(row) for row in train["tokens"]),
    )
    labels = class_labels(model, test)
    scored = text_likelihoods(
        model.network, model.objective, test["tokens"][rows], test["characters"][rows],
        seed=seed, strata=settings.strata, chain_sequences=settings.chain_sequences, batch_size=settings.batch_size,
        labels=None if labels is None else labels[rows], device=device,
    )  # fmt: skip
    result = evaluate_text(
        model.network, model.process, model.sampler, reference, settings, length, seed, labels=labels, device=device,
        progress=lambda line: print(f"evaluate {item}: {line}", flush=True),
    )  # fmt: skip

    protocol = {
        "sequences": settings.sequences,
        "seeds": settings.seeds,
        "length": length,
        "likelihood_sequences": len(rows),
        "chain_sequences": min(settings.chain_sequences, len(rows)),
        "strata": settings.strata,
        "floor": f"validation sequences, {settings.sequences} a set",
        "last_step": "decides every position that is still open; none is left undecided",
        "sampler": section["sampler"],
        **({} if labels is None else {"classes": "given; those generated are as frequent as in the test split"}),
    }
    floor = text_floor(reference, settings.metrics.values(), valid["tokens"], settings.sequences, settings.seeds, seed)
    document = metrics_document(result.values, floor, protocol, **likelihood_values(scored))
    outputs = Path("data/evaluations") / item
    write_tensors(outputs / "likelihood.safetensors", likelihood_tensors(scored))
    trajectory = [state._asdict() for state in result.trajectory]
    write_json(outputs / "texts.json", {"mask": MASK_SHOWN, "samples": result.texts, "trajectory": trajectory})
    run.artifact(outputs / "texts.json", "samples")
    write_curve(Path(f"plots/nfe-{item}.csv"), result.estimates())
    write_json(Path(f"metrics/evaluate-{item}.json"), document)
    run.document(document)
    if model.teacher:
        run.tag("isocline.teacher", model.teacher)
    for nfe, rate in result.rates.items():
        run.timing(f"tokens_per_second_nfe_{nfe}", rate)
