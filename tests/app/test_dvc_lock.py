"""dvc.lock written one block at a time: the bytes are those that DVC writes."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import dumps_yaml, load_yaml, modify_yaml

from isocline.app import dvc_lock
from isocline.app.dvc_lock import HEAD, modify_lock, split_lock

ENTRY = {
    "cmd": "python pipeline/launch.py train flow",
    "deps": [{"path": "data/images", "hash": "md5", "md5": "0123.dir", "size": 12, "nfiles": 3}],
    "params": {"params.yaml": {"seed": 0, "models.flow.network": {
        "rate": 1e-05, "none": None, "empty": [], "text": "a: b # c", "number": "12", "many": [1, 2.5, True],
        "_target_": "isocline.a_module_with_a_long_name.another_one_below_it.AClassWithALongNameThatIsFolded"}}},
    "outs": [{"path": "data/models/flow", "hash": "md5", "md5": "4567.dir", "size": 1, "nfiles": 1}],
}  # fmt: skip
STAGES = {"train@flow": ENTRY, "report": {"cmd": "a"}, "judge-text": {**deepcopy(ENTRY), "cmd": "b"}}
LOCK = {"schema": "2.0", "stages": STAGES}

Change = Callable[[dict[str, Any]], None]


def change(name: str, entry: dict[str, Any]) -> Change:
    """What DVC does to the content of dvc.lock after a stage."""

    def apply(data: dict[str, Any]) -> None:
        data["stages"] = data.get("stages", {})
        data["stages"].get(name, {})
        data["stages"].update({name: entry})

    return apply


def written(modify: Any, path: Path, text: str, apply: Change) -> str:
    path.write_text(text)
    with modify(path) as data:
        apply(data)
    return path.read_text()


@pytest.mark.parametrize("name", ["train@flow", "report", "judge-text", "a_new_one"])
@pytest.mark.parametrize("entry", [ENTRY, {"cmd": "c", "outs": []}], ids=["full", "short"])
def test_the_text_is_the_one_that_dvc_writes(tmp_path: Path, name: str, entry: dict[str, Any]) -> None:
    lock, text = tmp_path / "dvc.lock", dumps_yaml(LOCK)
    assert split_lock(text), "the case is one that is cut"
    theirs = written(modify_yaml, lock, text, change(name, entry))
    assert written(modify_lock, lock, text, change(name, entry)) == theirs
    assert load_yaml(lock)["stages"] == {**STAGES, name: entry}


def test_an_entry_reads_as_dvc_reads_it(tmp_path: Path) -> None:
    lock = tmp_path / "dvc.lock"
    lock.write_text(dumps_yaml(LOCK))
    with modify_lock(lock) as data:
        assert {name: data["stages"].get(name) for name in STAGES} == STAGES
        assert data["stages"].get("no such stage", {}) == {}


def test_only_the_changed_block_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    loads = dvc_lock.loads_yaml
    monkeypatch.setattr(dvc_lock, "loads_yaml", lambda text, **more: parsed.append(text) or loads(text, **more))
    written(modify_lock, tmp_path / "dvc.lock", dumps_yaml(LOCK), change("report", {"cmd": "c"}))
    assert parsed == ["  report:\n    cmd: a\n"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEAD.replace("stages:\n", "stages: {}\n"),
        "# a remark\n" + dumps_yaml(LOCK),
        dumps_yaml(LOCK) + "datasets:\n- name: a\n",
        dumps_yaml({**LOCK, "stages": {"two words": {"cmd": "a"}, **STAGES}}),
        dumps_yaml({**LOCK, "stages": {"a": ENTRY, "b": {"cmd": "a", "outs": ENTRY["outs"]}}}),
        HEAD + "  a:\n    cmd: b\n  # a remark\n  c:\n    cmd: d\n",
        HEAD + "  a:\n    cmd: b\n  'c':\n    cmd: d\n",
        HEAD + "   a:\n     cmd: b\n",
    ],
    ids=["empty", "none", "remark", "datasets", "words", "anchors", "inner remark", "quoted", "deeper"],
)
def test_another_layout_is_left_to_dvc(tmp_path: Path, text: str) -> None:
    assert not split_lock(text)
    lock = tmp_path / "dvc.lock"
    theirs = written(modify_yaml, lock, text, change("a", {"cmd": "z"}))
    assert written(modify_lock, lock, text, change("a", {"cmd": "z"})) == theirs


def test_other_keys_are_kept_and_other_files_and_missing_ones_left_to_dvc(tmp_path: Path) -> None:
    def dataset(data: dict[str, Any]) -> None:
        data.update({"schema": "2.0"})
        data.setdefault("datasets", []).append({"name": "a"})

    lock, other = tmp_path / "dvc.lock", tmp_path / "dvc.yaml"
    text = dumps_yaml(LOCK)
    assert written(modify_lock, lock, text, dataset) == written(modify_yaml, lock, text, dataset)
    commented = "# a remark\n" + text
    assert written(modify_lock, other, commented, change("a", {"cmd": "b"})).startswith("# a remark\n")
    lock.unlink()
    with modify_lock(lock) as data:
        data["schema"] = "2.0"
        change("a", {"cmd": "b"})(data)
    assert lock.read_text() == HEAD + "  a:\n    cmd: b\n"


def test_the_projects_own_lock_is_cut_and_put_together_again() -> None:
    text = (Path(__file__).parents[2] / "dvc.lock").read_text()
    blocks = split_lock(text)
    assert blocks
    assert HEAD + "".join(blocks.values()) == text
