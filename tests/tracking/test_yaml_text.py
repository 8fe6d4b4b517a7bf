"""The fast reader reads what the slow one reads."""

from pathlib import Path

import pytest
import yaml

from isocline.tracking.yaml_text import load_yaml

TEXTS = ["", "a: 1e-3", "a: 1.0e-05", "md5: 12345678", "md5: 1234e567", "a: [yes, null, ~, 2024-01-01, '1']", "a: é"]


@pytest.mark.parametrize("text", TEXTS)
def test_it_reads_what_yaml_reads(text: str) -> None:
    assert load_yaml(text) == yaml.safe_load(text)


def test_it_reads_a_lock_file_as_yaml_does() -> None:
    text = (Path(__file__).parents[2] / "dvc.lock").read_text()[:40000].rpartition("\n  ")[0]
    assert load_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "\t"])
def test_it_refuses_what_yaml_refuses(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)
