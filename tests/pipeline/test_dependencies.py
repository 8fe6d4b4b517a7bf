"""What dvc.yaml says a stage depends on is what its code imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# They record and show what a stage did; no output depends on them. The report's stage does depend on the page.
ASIDE = ("src/isocline/tracking/", "src/isocline/report/")


def _file(module: str) -> Path | None:
    path = ROOT / "src" / Path(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.exists()), None)


def _imports(path: Path) -> set[Path]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {file for name in names if name.startswith("isocline") and (file := _file(name))}


def _closure(entry: Path) -> set[str]:
    seen: set[Path] = set()
    left = {entry}
    while left:
        path = left.pop()
        if not path.relative_to(ROOT).as_posix().startswith(ASIDE):
            seen.add(path)
            left |= _imports(path) - seen
    # An empty __init__ decides nothing.
    return {path.relative_to(ROOT).as_posix() for path in seen if path.read_text().strip()}


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_every_module_that_a_stage_imports_is_among_its_dependencies(stage: str) -> None:
    body = STAGES[stage].get("do", STAGES[stage])
    declared = tuple(body["deps"])
    needed = _closure(ROOT / f"pipeline/{stage.replace('-', '_')}.py")
    missing = {path for path in needed if not any(path == dep or path.startswith(f"{dep}/") for dep in declared)}
    assert not missing


def test_every_dependency_exists() -> None:
    code = {dep for stage in STAGES.values() for dep in stage.get("do", stage)["deps"] if dep.startswith("src")}
    assert not {dep for dep in code if not (ROOT / dep).exists()}
