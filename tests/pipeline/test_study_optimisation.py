"""The stage of optimisers at its smoke size."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from isocline.app.compose import compose
from isocline.app.gate import direction_of, flatten

ROOT = Path(__file__).parents[2]


class Run:
    """Keeps documents and artefacts, takes everything else."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.documents, self.files = directory, [], []

    def document(self, document):
        self.documents.append(document)

    def artifact(self, path, folder):
        self.files.append(path.name)

    def __getattr__(self, name):
        return lambda *args, **kwargs: None


@pytest.mark.slow
def test_every_optimiser_is_studied_and_a_second_run_writes_the_same_bytes(tmp_path: Path, monkeypatch) -> None:
    params = compose(["profile=smoke", "evaluation.optimisation.evaluations=12"], ROOT).config
    spec = importlib.util.spec_from_file_location("study_optimisation", ROOT / "pipeline/study_optimisation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        run = Run(tmp_path / name)
        module.main(run, params, None)
        files = sorted(path for path in Path().rglob("*") if path.is_file())
        written.append({str(path): path.read_bytes() for path in files})
    assert written[0] == written[1]
    tables = {"losses.csv", "edges.csv", "distances.csv", "amplification.csv", "eigenvalues.csv"}
    charts = {"losses.svg", "sharpness.svg", "step_sizes.svg", "regions.svg", "distances.svg"}
    assert set(run.files) == tables | charts
    for name in charts:
        drawing = ElementTree.parse(Path("data/optimisation") / name)
        assert len(drawing.findall(".//{http://www.w3.org/2000/svg}path")) > 2, name

    document = json.loads(Path("metrics/optimisation.json").read_text())
    assert run.documents == [document]
    methods = set(params["evaluation"]["optimisation"]["optimizers"])
    assert {"heavy_ball", "nesterov", "implicit", "adaptive", "imex", "exponential", "runge_kutta", "pid"} <= methods
    assert set(document["loss_decades"]) == methods
    readings = dict(flatten(document, "optimisation"))
    assert readings["optimisation.loss_decades.heavy_ball"].se > 0
    assert direction_of("optimisation.loss_decades.heavy_ball") == "lower"
    with Path("data/optimisation/losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"evaluations"} | methods
    assert float(rows[-1]["heavy_ball"]) == pytest.approx(document["loss_decades"]["heavy_ball"]["mean"], rel=1e-6)
