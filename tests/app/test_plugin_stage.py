"""Optimised grids of a model as files: read back as written, and no two budgets of one number of steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from isocline.app.plugin_stage import MadeGrid, SamplerGrids, read_grids, write_grids

GRIDS = {
    "adams_bashforth": SamplerGrids(
        {"_target_": "a"}, {2: MadeGrid([1.0, 0.5], 0.1), 3: MadeGrid([1.0, 0.6, 0.2], 0.05)}
    ),
    "dpm_solver_2": SamplerGrids({"_target_": "b"}, {3: MadeGrid([1.0, 0.4], 0.07)}),
}


def test_grids_are_read_as_they_were_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_grids("flow", GRIDS)
    assert read_grids("flow") == GRIDS
    times = read_grids("flow")["adams_bashforth"].grid().times
    assert {n: t.tolist() for n, t in times.items()} == {2: [1.0, 0.5], 3: [1.0, 0.6, 0.2]}
    assert all(t.dtype == torch.float64 for t in times.values())


def test_missing_grids_are_named_with_the_cure(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="dvc repro optimise-grid@flow"):
        read_grids("flow")


def test_budgets_of_one_number_of_steps_are_refused() -> None:
    both = SamplerGrids({}, {8: MadeGrid([1.0, 0.5], 0.1), 9: MadeGrid([1.0, 0.4], 0.1)})
    with pytest.raises(ValueError, match=r"plugins\.grid\.nfe: two budgets .*8 makes 2, 9 makes 2"):
        both.grid()
