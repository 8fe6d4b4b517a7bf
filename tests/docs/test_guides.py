"""Every worked example of the guides runs, in a copy of the configuration."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
WANTED = (
    "add-a-data-set", "add-a-process", "add-an-objective", "add-a-sampler", "add-a-distiller",
    "change-one-parameter", "use-a-server", "solvers", "samplers", "distillation", "migrate-from-torchdiffeq",
    "language", "kernels", "objectives-text", "stability", "depth", "dynamics",
    "regularisers", "optimisers", "reading-models",
)  # fmt: skip


def blocks(path):
    return FENCE.findall(path.read_text())


def marked(path):
    return pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem == "use-a-server" else ())


def test_every_guide_is_there_with_a_worked_example():
    assert set(WANTED) <= {path.stem for path in GUIDES}
    assert [path.name for path in GUIDES if not blocks(path)] == []


@pytest.mark.parametrize("guide", [marked(path) for path in GUIDES])
def test_the_worked_example_runs(guide, tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    names = {"__name__": "guide"}
    for number, block in enumerate(blocks(guide), 1):
        exec(compile(block, f"{guide.name}, example {number}", "exec"), names)


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target


def test_decisions_are_five_lines():
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        lines = [line for line in page.read_text().splitlines() if line.strip()]
        assert len(lines) == 5, page.name
        assert lines[0].startswith("# ")
