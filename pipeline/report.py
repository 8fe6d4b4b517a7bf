"""Write the report: one page that needs no network, from the artefacts of all other stages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from isocline.report import write_page

if TYPE_CHECKING:
    from isocline.tracking.stage import StageRun

PAGE = Path("reports/index.html")


def main(run: StageRun, params: dict[str, Any], item: str | None) -> None:
    """Write the page and hand it to the tracker."""
    sources = write_page(Path(), params, PAGE)
    for problem in sources.problems:
        print(f"report: {problem}", flush=True)
    print(f"report: {PAGE}, {PAGE.stat().st_size / 1e6:.1f} MB", flush=True)
    run.artifact(PAGE, "report")
