"""What tests of the sender have in common: a small stage, and what a store holds of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isocline.tracking.limits import PARAM_LIMIT
from isocline.tracking.stage import open_stage
from isocline.tracking.store import connect


def runs(uri: str) -> list[Any]:
    client, experiment = connect(uri)
    return list(client.search_runs([experiment], order_by=["start_time ASC"]))


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    points = connect(uri)[0].get_metric_history(run_id, name)
    return sorted((point.step, point.value) for point in points)


def small_stage(points: int = 5) -> None:
    Path("weights").write_text("w")
    with open_stage("train@a", {"network": {"width": 8}, "text": "x" * 9000}, ["weights"], ["weights"]) as run:
        for step in range(points):
            run.metric("loss", 1.0 / (step + 1), step)
        run.tag("colour@", "blue")
        run.dataset("digits", "d" * 32, "data/images", "train")
        run.model("a", "weights")
        run.artifact("weights", "figures")


def assert_complete(uri: str, points: int = 5) -> None:
    (run,) = runs(uri)
    client, _ = connect(uri)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "train@a"
    assert run.data.params["network.width"] == "8"
    assert len(run.data.params["text"]) == PARAM_LIMIT
    assert run.data.tags["colour:"] == "blue"
    assert run.data.tags["dvc.stage"] == "train@a"
    assert history(uri, run.info.run_id, "loss") == [(step, 1.0 / (step + 1)) for step in range(points)]
    assert [(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs] == [("digits", "d" * 32)]
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.source_run_id, model.tags["isocline.path"]) == ("a", run.info.run_id, "weights")
    assert [file.path for file in client.list_artifacts(run.info.run_id, "figures")] == ["figures/weights"]
