"""Which device a configuration means, and which side of the parameters a stage is shown."""

from __future__ import annotations

import pytest
import torch

from isocline.app.artifacts import device_of
from isocline.app.declaration import declared_part
from isocline.app.evaluation_stage import model_section


def test_cpu_is_the_cpu_and_auto_takes_what_there_is() -> None:
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto") == (torch.accelerator.current_accelerator() or torch.device("cpu"))


def test_an_accelerator_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    assert device_of("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="accelerator = cuda: this machine has none; use auto"):
        device_of("cuda")


def test_auto_takes_the_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    found = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: found)
    assert [device_of(name) for name in ("auto", "gpu", "cuda")] == [found] * 3
    assert device_of("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="accelerator = mps: this machine has cuda"):
        device_of("mps")


def test_a_model_is_found_on_the_side_that_dvc_declares() -> None:
    params = {"models": {"flow": {"sampler": 1}}, "students": {"reflow": {"sampler": 2}}}
    assert model_section(declared_part(params, ["models.flow.sampler"]), "flow")["sampler"] == 1
    assert model_section(declared_part(params, ["students.reflow.sampler"]), "reflow")["sampler"] == 2
