"""The page as a document: deterministic, self-contained, tolerant of what is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from isocline.report import read_sources, render_page, write_page
from isocline.report.page import Piece, class_counts, pieces, text_steps, usual_budget
from isocline.report.sources import TextStep

Project = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def html(project: Project) -> str:
    root, params = project
    return render_page(read_sources(root, params))


class Tags(HTMLParser):
    """Collects every start tag with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_same_artefacts_give_the_same_bytes_from_another_folder(project: Project, tmp_path: Path) -> None:
    root, params = project
    shutil.copytree(root, tmp_path / "elsewhere")
    write_page(root, params, tmp_path / "a.html")
    write_page(tmp_path / "elsewhere", params, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_the_page_holds_no_path_of_this_machine_and_no_date(html: str, project: Project) -> None:
    assert str(project[0]) not in html
    assert not re.search(r"\b20[2-9]\d-[01]\d-[0-3]\d\b", html)


def test_nothing_is_loaded_from_elsewhere_but_the_optional_runs(html: str) -> None:
    loads = []
    for tag, attrs in Tags(html).found:
        for key in ("src", "srcset", "data", "poster", "action") + (
            ("href",) if tag in ("link", "use", "image") else ()
        ):
            if attrs.get(key):
                loads.append(str(attrs[key]))
    assert {load for load in loads if not load.startswith("data:")} == {"runs.js"}
    assert not re.search(r"@import|url\((?!data:)", html)


def test_every_image_has_a_description_and_every_table_headers(html: str) -> None:
    tags = Tags(html).found
    images = [attrs for tag, attrs in tags if tag == "img"]
    assert len(images) >= 4 * 6 + 4 + 4
    assert all(len(attrs.get("alt") or "") > 10 for attrs in images)
    drawings = [attrs for tag, attrs in tags if tag == "svg" and "aria-hidden" not in attrs]
    assert drawings
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for attrs in drawings)
    assert html.count("<table>") == html.count("</caption>")
    assert all("scope" in attrs for tag, attrs in tags if tag == "th")


def test_ids_are_unique_and_links_inside_the_page_lead_somewhere(html: str) -> None:
    tags = Tags(html).found
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [
        str(attrs["href"])[1:] for tag, attrs in tags if tag == "a" and str(attrs.get("href", "")).startswith("#")
    ]
    assert targets
    assert set(targets) <= set(ids)


def test_headlines_name_the_best_model_and_the_gap_to_the_exact_one(html: str) -> None:
    findings = re.findall(r"<li>(.*?)</li>", html[html.index('<ul class="finding">') :])[:3]
    assert "reflow at 32 evaluations" in findings[0]
    assert "consistency leads" in findings[1]
    assert "ar needs 1.66 bits per character; closest is masked, +38.4 %" in findings[2]
    assert "exact by left to right" in findings[2]


def test_an_empty_project_says_what_was_not_run(tmp_path: Path, project: Project) -> None:
    page = render_page(read_sources(tmp_path, project[1]))
    assert page.count("Not run.") >= 8
    assert "<h2>Text</h2>" in page
    assert render_page(read_sources(tmp_path, {})).count("Not run.") >= 8


@pytest.mark.parametrize(
    "gone",
    ["metrics/evaluate-flow.json", "data/evaluations/flow", "data/evaluations/masked", "data/models/ar", "dvc.yaml",
     "data/images/card.json", "data/images/test.safetensors", "metrics", "data"],
)  # fmt: skip
def test_any_missing_piece_leaves_a_page(gone: str, project: Project, tmp_path: Path) -> None:
    root, params = project
    shutil.copytree(root, tmp_path / "p")
    target = tmp_path / "p" / gone
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = render_page(read_sources(tmp_path / "p", params))
    assert page.rstrip().endswith("</html>")


def test_a_model_that_has_no_likelihood_leaves_a_file_without_rows(project: Project, tmp_path: Path) -> None:
    root, params = project
    shutil.copytree(root, tmp_path / "p")
    save_file({"characters": np.zeros(0)}, tmp_path / "p/data/evaluations/dfm/likelihood.safetensors")
    assert "could not be read" not in render_page(read_sources(tmp_path / "p", params))


def test_a_damaged_file_is_named_on_the_page_without_a_crash(project: Project, tmp_path: Path) -> None:
    root, params = project
    shutil.copytree(root, tmp_path / "p")
    (tmp_path / "p/metrics/evaluate-vp.json").write_text("{ not json")
    (tmp_path / "p/data/evaluations/flow/samples.safetensors").write_bytes(b"\x01" * 40)
    page = render_page(read_sources(tmp_path / "p", params))
    assert "metrics/evaluate-vp.json could not be read" in page
    assert "data/evaluations/flow/samples.safetensors could not be read" in page


def test_text_of_models_is_escaped(project: Project, tmp_path: Path) -> None:
    root, params = project
    shutil.copytree(root, tmp_path / "p")
    texts = tmp_path / "p/data/evaluations/ar/texts.json"
    texts.write_text('{"samples": {"48": ["<script>alert(1)</script>"]}, "trajectory": []}')
    page = render_page(read_sources(tmp_path / "p", params))
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_an_interrupted_write_keeps_the_last_page(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, params = project
    path = tmp_path / "index.html"
    path.write_text("the last one")

    def fail(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr("isocline.report.page.render_page", fail)
    with pytest.raises(OSError, match="disk full"):
        write_page(root, params, path)
    assert path.read_text() == "the last one"


def test_masked_tokens_are_told_from_words() -> None:
    found = pieces("in the ▒▒ning", None)
    assert found == [Piece("in the ", False), Piece("▒", True), Piece("▒", True), Piece("ning", False)]
    assert pieces("a_b", "_") == [Piece("a", False), Piece("_", True), Piece("b", False)]


def test_a_long_text_trajectory_keeps_both_ends() -> None:
    steps = [TextStep(1 - i / 99, str(i)) for i in range(100)]
    shown = text_steps(steps, None, most=5)
    assert shown[0][0] == "1.00"
    assert shown[-1][1][0].text == "99"
    assert len(shown) == 5


def test_comparison_starts_at_the_budget_that_most_models_share() -> None:
    assert usual_budget([[48], [4, 8, 32], [8, 32]]) == 32
    assert usual_budget([]) is None


def test_class_counts_come_from_the_training_split() -> None:
    card = {"classes": ["zero", "one"], "splits": {"train": {"by_class": [5, 7]}, "test": {"by_class": [1, 1]}}}
    assert class_counts(card) == [("zero", 5), ("one", 7)]
    assert class_counts({}) == []


def test_importing_the_report_imports_neither_torch_nor_matplotlib() -> None:
    heavy = ("torch", "matplotlib", "scipy", "mlflow")
    code = f"import sys, isocline.report; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
