"""What dvc.yaml declares for one stage: dependencies, parameters, outputs. A stage can read no other parameter."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

__all__ = ["Declaration", "Declared", "UndeclaredError", "declaration", "declared_part", "declarations", "load_params"]

_REFERENCE = re.compile(r"\$\{([^}]+)\}")
Tree = dict[str, Any]


class UndeclaredError(KeyError):
    """A stage read a parameter that its entry in dvc.yaml does not name."""

    def __str__(self) -> str:
        return str(self.args[0])


class Declared(Tree):
    """A mapping that knows which keys it hides, so that reading one is an error instead of a stale result."""

    def __init__(self, content: Tree, hidden: frozenset[str], where: str):
        super().__init__(content)
        self._hidden = hidden
        self._where = where

    def _refuse(self, key: object) -> None:
        if key in self._hidden:
            path = f"{self._where}{key}"
            raise UndeclaredError(f"the stage reads {path}, which dvc.yaml does not list under the stage's params")

    def __missing__(self, key: str) -> Any:
        self._refuse(key)
        raise KeyError(f"{self._where}{key}")

    def get(self, key: str, default: Any = None) -> Any:
        """As `dict.get`, except that a hidden key is an error."""
        self._refuse(key)
        return super().get(key, default)


@dataclass(frozen=True)
class Declaration:
    """One stage of dvc.yaml with its templates filled in.

    Attributes:
        name: the stage's name, with ``@item`` for one of many.
        command: what DVC runs.
        deps: paths that it reads.
        params: keys of params.yaml that it reads.
        outs: paths that it writes, metrics and plots included.
        metrics: the metrics files among them.
    """

    name: str
    command: str
    deps: list[str]
    params: list[str]
    outs: list[str]
    metrics: list[str]


def load_params(root: Path | None = None) -> Tree:
    """Read params.yaml as plain containers.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is not a mapping or not YAML.
    """
    return _load((root or Path()) / "params.yaml", "run `isocline compose` to write it")


def _load(path: Path, cure: str) -> Tree:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing in {path.absolute().parent}; {cure}")
    try:
        tree = OmegaConf.load(path) if path.name == "params.yaml" else _plain_yaml(path)
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    plain = OmegaConf.to_container(tree, resolve=True) if OmegaConf.is_config(tree) else tree
    if not isinstance(plain, dict):
        raise ValueError(f"{path} holds {type(plain).__name__}, not a mapping; {cure}")
    return plain  # type: ignore[return-value]


def _plain_yaml(path: Path) -> Any:
    import yaml

    return yaml.safe_load(path.read_text())


def declarations(root: Path | None = None, params: Tree | None = None) -> dict[str, Declaration]:
    """All stages of dvc.yaml by name, ``foreach`` and ``matrix`` spelt out."""
    folder = root or Path()
    params = load_params(folder) if params is None else params
    stages = _load(folder / "dvc.yaml", "run from the project's folder").get("stages") or {}
    return {found.name: found for name, entry in stages.items() for found in _expand(name, entry, params)}


def declaration(stage: str, item: str | None, root: Path | None = None, params: Tree | None = None) -> Declaration:
    """The declaration of ``stage``, or of ``stage@item``; a stage that is one of its kind ignores the item.

    Raises:
        ValueError: if dvc.yaml has no such stage.
    """
    found = declarations(root, params)
    for name in (f"{stage}@{item}", stage):
        if name in found:
            return found[name]
    wanted = stage if item is None else f"{stage} {item}"
    raise ValueError(f"dvc.yaml has no stage {wanted!r}; it has {', '.join(sorted(found))}")


def _expand(name: str, entry: Mapping[str, Any], params: Tree) -> Iterator[Declaration]:
    if "foreach" in entry:
        each = _fill(entry["foreach"], params)
        pairs = each.items() if isinstance(each, Mapping) else [(value, value) for value in each]
        for key, value in pairs:
            yield _declare(f"{name}@{key}", entry["do"], {**params, "key": key, "item": value})
    elif "matrix" in entry:
        axes = {axis: _fill(values, params) for axis, values in entry["matrix"].items()}
        for values in itertools.product(*axes.values()):
            item = dict(zip(axes, values, strict=True))
            label = "-".join(str(value) for value in values)
            yield _declare(f"{name}@{label}", entry, {**params, "item": item, "key": label})
    else:
        yield _declare(name, entry, params)


def _declare(name: str, entry: Mapping[str, Any], scope: Tree) -> Declaration:
    def names(section: str) -> list[str]:
        rows = [next(iter(row)) if isinstance(row, Mapping) else row for row in entry.get(section) or []]
        return [str(_fill(row, scope)) for row in rows]

    return Declaration(
        name,
        str(_fill(entry["cmd"], scope)),
        names("deps"),
        names("params"),
        names("outs") + names("metrics") + names("plots"),
        names("metrics"),
    )


def _fill(value: Any, scope: Tree) -> Any:
    if not isinstance(value, str):
        return value
    whole = _REFERENCE.fullmatch(value)
    if whole:
        return _lookup(whole[1], scope)
    return _REFERENCE.sub(lambda match: str(_lookup(match[1], scope)), value)


def _lookup(path: str, scope: Any) -> Any:
    for part in path.strip().split("."):
        if not isinstance(scope, Mapping) or part not in scope:
            raise ValueError(f"dvc.yaml refers to ${{{path}}}, which params.yaml does not have")
        scope = scope[part]
    return scope


def declared_part(params: Tree, keys: list[str], where: str = "") -> Tree:
    """The part of the parameters under ``keys`` (dotted), the rest hidden.

    Raises:
        ValueError: if a key is not there.
    """
    heads: dict[str, list[str]] = {}
    for key in keys:
        head, _, rest = key.partition(".")
        if not isinstance(params, Mapping) or head not in params:
            raise ValueError(f"params.yaml has no key {where}{head}, which dvc.yaml lists; run `isocline compose`")
        heads.setdefault(head, []).append(rest)
    content = {
        head: params[head] if "" in rests else declared_part(params[head], rests, f"{where}{head}.")
        for head, rests in heads.items()
    }
    return Declared(content, frozenset(params) - frozenset(content), where)
