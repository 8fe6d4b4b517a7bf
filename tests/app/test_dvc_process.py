"""DVC's own work, done once where it does it again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from isocline.app import dvc_process
from isocline.app.dvc_process import parse_once


def test_a_text_is_parsed_once_and_handed_out_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = dvc_process.parse_yaml
    monkeypatch.setattr(dvc_process, "parse_yaml", lambda text, *more: parsed.append(text) or parse(text, *more))
    text = (Path(__file__).parents[2] / "params.yaml").read_text()[:3000].rpartition("\n")[0]
    first = parse_once(text, "params.yaml")
    assert first == parse(text, "params.yaml")
    first.clear()
    assert parse_once(text, "params.yaml") == parse(text, "params.yaml")
    assert parse_once(text + "\nmore: 1", "params.yaml")["more"] == 1
    assert parsed == [text, text + "\nmore: 1"]
    with pytest.raises(Exception, match=r"params\.yaml"):
        parse_once("a: [", "params.yaml")
    assert parse_once(text, "params.yaml", "rt").ca is not None, "what keeps comments is left to DVC"
