"""The stability chapter, from the files that the stage's own code writes."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch

from isocline.app.evaluation_stage import write_json
from isocline.app.stability_stage import Stability, write_curve_along, write_stability
from isocline.dynamics.cost_curve import SolverCandidate
from isocline.dynamics.solver_cost import SolverSweep
from isocline.dynamics.stability_report import report_stability
from isocline.dynamics.stability_settings import StabilitySettings
from isocline.dynamics.trained_field import TrainedField
from isocline.metrics.jackknife import delete_group_jackknife
from isocline.metrics.quality_over_nfe import Quality, QualityPoint, QualitySettings
from isocline.metrics.uncertainty import Estimate
from isocline.report.sources import read_sources
from isocline.report.stability import chapter
from isocline.report.stability_figures import Bar, Stretch, bars, region_plot
from isocline.samplers.continuous import ContinuousSampler
from isocline.samplers.grid import UniformTimeGrid
from isocline.samplers.variable import LinearPathVariable
from isocline.solvers.explicit import RK4, Bosh3, Euler
from isocline.solvers.rosenbrock import Rodas4

GRID, BUDGETS = UniformTimeGrid(), (4, 8, 16, 32)
SETTINGS = StabilitySettings(
    {"euler": Euler(), "rk4": RK4()},
    SolverSweep([SolverCandidate("bosh3", Bosh3()), SolverCandidate("rodas4", Rodas4())], levels=(1e-2,)),
    QualitySettings(
        {"euler": Euler()}, {}, GRID, ContinuousSampler(RK4(), GRID, LinearPathVariable()), samples=40, groups=4
    ),
    local=["euler"],
    samples=2,
    resolution=21,
)


def field(name: str, rate: float) -> TrainedField:
    """Decay at two rates."""
    network = torch.nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.diag(torch.tensor([-rate, -1.0])))

    def starts(count: int, seed: int) -> torch.Tensor:
        return torch.ones(count, 2) + torch.arange(count)[:, None]

    return TrainedField(name, "density", network, lambda other: lambda t, x, cond: other(x), 0.0, 1.0, starts)


def quality(scale: float) -> Quality:
    """Curves that fall like 1/NFE, with noise that all budgets share."""
    assert SETTINGS.quality is not None
    noise = 0.01 * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def at(value: float):
        return delete_group_jackknife(lambda part: value * (1 + float(part.mean())), noise, 4)

    points = {
        str(n): QualityPoint(Estimate.from_values([float(n)] * 4), at(10 + scale / n), at(scale * 0.1 / n))
        for n in BUDGETS
    }
    return Quality({"euler": points}, at(10.0), at(1.0), SETTINGS.quality)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stability")
    (root / "metrics").mkdir()
    for name, rate, scale in (("flow", 20.0, 4.0), ("flow_kinetic", 5.0, 2.0), ("masked", 2.0, None)):
        report = report_stability(field(name, rate), SETTINGS, 0)
        found = Stability(report, None if scale is None else quality(scale), SETTINGS)
        write_stability(found, root / "data/stability" / name)
        write_curve_along(report, root / f"plots/stability-{name}.csv")
        write_json(root / f"metrics/stability-{name}.json", found.document())
    return root


PARAMS = {"matrix": {"stability": {"flow": "models", "flow_kinetic": "models", "masked": "models"}}}


def test_the_chapter_says_which_field_is_stiffest_and_what_a_regulariser_buys(root: Path) -> None:
    found = chapter(read_sources(root, PARAMS))
    assert found is not None
    side_by_side, study, *fields = found.parts
    assert side_by_side.findings[0].startswith("The shortest time constant fits 20.0 times into the span of flow, 2.00")
    measures, costs = side_by_side.tables
    assert [row.head for row in measures.rows] == ["flow", "flow_kinetic", "masked"]
    assert all(cell.text != "–" for row in costs.rows for cell in row.cells)
    assert [part.heading for part in fields] == ["flow", "flow_kinetic", "masked"]
    assert [len(part.charts) for part in fields] == [3, 3, 3]
    needs, converged = study.tables
    heads = [row.head for row in needs.rows]
    assert heads == ["flow, euler", "flow_kinetic, euler"]
    # The excess is scale/NFE of 10; 5 % of it is reached at NFE 8 and 4, the second within the first budget.
    assert [row.cells[1].text for row in needs.rows] == ["8.00", "≤ 4.00"]
    assert needs.rows[1].cells[3].text == "≤ 0.500×"
    assert needs.rows[1].cells[3].better
    assert any(sentence.startswith("Euler’s method needs 0.5") for sentence in study.findings)
    assert converged.rows[1].cells[1].text == "+0"


def test_a_solver_that_was_not_run_says_so_and_why(tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, sweep=dataclasses.replace(SETTINGS.sweep, largest_dense=1))
    found = Stability(report_stability(field("flow", 20.0), settings, 0), None, settings)
    write_stability(found, tmp_path / "data/stability/flow")
    write_json(tmp_path / "metrics/stability-flow.json", found.document())
    drawn = chapter(read_sources(tmp_path, {"matrix": {"stability": {"flow": "models"}}}))
    assert drawn is not None
    explicit, implicit = drawn.parts[0].tables[1].rows[0].cells
    assert float(explicit.text.removeprefix("≤ ")) > 0
    assert (implicit.text, implicit.small) == ("–", "not run")
    assert implicit.title == "not run: 2 components, dense Jacobians up to 1"
    assert "larger states: flow, 2 components, dense Jacobians up to 1." in drawn.parts[0].tables[1].note


def test_without_studies_there_is_no_chapter_and_without_images_no_comparison(root: Path) -> None:
    assert chapter(read_sources(root, {})) is None
    alone = chapter(read_sources(root, {"matrix": {"stability": {"masked": "models"}}}))
    assert alone is not None
    assert [part.heading for part in alone.parts] == ["Fields side by side", "masked"]


def test_eigenvalues_are_drawn_where_they_are_on_the_region_of_euler() -> None:
    disk = [Stretch(y / 10, -1 - (1 - (y / 10) ** 2) ** 0.5, -1 + (1 - (y / 10) ** 2) ** 0.5) for y in range(-9, 10)]
    drawing = str(region_plot({"euler": disk}, [(-1.0, 0.0, 7), (-9.0, 0.0, 7)], "Euler"))
    assert drawing.count('class="mark"') == 1
    assert drawing.count("z") >= len(disk)
    centre = re.search(r'class="mark" d="M([\d.]+) ([\d.]+)a', drawing)
    axis = re.search(r'class="axis" d="M40 ([\d.]+)H380M([\d.]+) ', drawing)
    assert centre is not None
    assert axis is not None
    assert float(centre[2]) == pytest.approx(float(axis[1]), abs=0.2)
    scale = 340 / 3
    assert float(axis[2]) - float(centre[1]) - 2.6 == pytest.approx(scale, abs=0.2)


def test_a_bar_without_an_upper_end_reaches_the_edge() -> None:
    drawing = str(bars([Bar("a", 4.0, 2.0, math.inf), Bar("b", 8.0, 6.0, 10.0)], "NFE", "two"))
    ends = [float(end) for end in re.findall(r'class="bar" d="M[\d.]+ [\d.]+H([\d.]+)"', drawing)]
    assert ends[0] == pytest.approx(450.0)
    assert ends[1] < 450.0
    assert "∞" in drawing
