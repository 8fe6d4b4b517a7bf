"""Compose ``conf/`` into params.yaml, the only thing that stages read.

The composition and its text are those of DVC's own bridge (``dvc exp run -S``): compose, resolve interpolations, dump
with OmegaConf. What is added: the whole composition is checked first, an error is one line, and the file is replaced
in one step, so that an invalid or interrupted composition leaves the old one as it was.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isocline.app.catalog import in_group, like
from isocline.app.errors import one_line
from isocline.app.validate import ConfigurationError, check

__all__ = ["Composition", "compose", "replace_file", "write"]

CONFIG = "config"


@dataclass(frozen=True)
class Composition:
    """A composed configuration.

    Attributes:
        config: plain containers, interpolations resolved.
        text: the same as params.yaml's text.
    """

    config: dict[str, Any]
    text: str


def compose(overrides: Sequence[str], root: Path, *, validate: bool = True) -> Composition:
    """Compose ``<root>/conf/config.yaml``.

    Args:
        overrides: Hydra overrides, ``key=value`` or ``group=option``.
        root: the project's directory.
        validate: whether to check the whole composition (see `isocline.app.validate`).

    Raises:
        FileNotFoundError: if there is no configuration folder.
        ConfigurationError: if an override or the composition is wrong.
    """
    conf = root / "conf"
    if not (conf / f"{CONFIG}.yaml").exists():
        raise FileNotFoundError(f"no {conf / 'config.yaml'}; run isocline in the project's directory")
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise ConfigurationError(f"{override!r} is not of the form KEY=VALUE; for instance seed=1 or profile=smoke")
    composition = _compose([_spelt(override, conf) for override in overrides], conf)
    if validate:
        check(composition.config)
        if (root / "dvc.yaml").exists():
            _check_stages(composition.config, root)
    return composition


def _spelt(override: str, conf: Path) -> str:
    """Write the option that ``group=option`` or ``group@key=option`` names as its file does."""
    found = re.fullmatch(r"\+{0,2}([\w/]+)(?:@[\w.]+)?=(.+)", override)
    if found is None or not (conf / found[1]).is_dir() or (conf / found[1] / f"{found[2]}.yaml").exists():
        return override
    same = like(found[2].strip("'\""), in_group(found[1], conf))
    return f"{override.removesuffix(found[2])}{same[0].name}" if len(same) == 1 else override


def _check_stages(config: dict[str, Any], root: Path) -> None:
    """Raise unless the composition has every key that dvc.yaml refers to."""
    from isocline.app.declaration import declarations

    cure = "keep it in the composition, or take the stage out of dvc.yaml"
    try:
        stages = declarations(root, config)
    except ValueError as error:
        found = re.search(r"refers to \$\{([^}]+)\}", str(error))
        if found is None:
            raise
        raise ConfigurationError(f"{found[1]}: is missing, and a stage of dvc.yaml needs it; {cure}") from error
    for stage in stages.values():
        for key in stage.params:
            node: Any = config
            for part in key.split("."):
                if not isinstance(node, Mapping) or part not in node:
                    raise ConfigurationError(f"{key}: is missing, and stage {stage.name} of dvc.yaml reads it; {cure}")
                node = node[part]


def _compose(overrides: list[str], conf: Path) -> Composition:
    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf.resolve()), version_base=None):
            config = hydra_compose(config_name=CONFIG, overrides=overrides)
        OmegaConf.resolve(config)
        text = OmegaConf.to_yaml(config)
        plain = OmegaConf.to_container(config)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        if isinstance(error, yaml.YAMLError):
            raise ConfigurationError(f"a file under {conf} is not YAML: {one_line(error)}") from error
        raise ConfigurationError(_explain(error, overrides, conf)) from error
    assert isinstance(plain, dict)
    return Composition({str(key): value for key, value in plain.items()}, text)


def write(text: str, path: Path) -> bool:
    """Replace a text file in one step; return whether it changed.

    Raises:
        OSError: if it cannot be written; the old file is then as it was.
    """
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    replace_file(text.encode(), path)
    return True


def replace_file(content: bytes, path: Path) -> None:
    """Write a file so that it is either the old one or the new one, whole.

    Raises:
        OSError: if it cannot be written.
    """
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _explain(error: Exception, overrides: list[str], conf: Path) -> str:
    """Turn Hydra's message into one line that names the key and the nearest ones."""
    message = str(error).partition("\nConfig search path")[0]
    found = re.search(r"Could not (?:override|append to config) '([^']+)'", message)
    missing = re.search(r"Could not find '([^']+)'", message)
    if missing:
        group, _, wrong = missing.group(1).rpartition("/")
        names = [path.stem for path in sorted((conf / group).glob("*.yaml"))]
        near = difflib.get_close_matches(wrong, names, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"{group}: no option {wrong!r}; {hint}options: {', '.join(names) or 'none'}"
    if found:
        inner = re.search(r"not in struct\s+full_key: (\S+)", str(error.__cause__))
        key = inner.group(1) if inner else found.group(1)
        near = _nearest(key, conf) if overrides else []
        hint = f"did you mean {' or '.join(near)}?" if near else "`isocline compose --dry-run` prints all keys"
        return f"{key}: unknown key; {hint}"
    return one_line(error)


def _nearest(key: str, conf: Path) -> list[str]:
    """Return up to three known keys or groups close to ``key``."""
    try:
        known = list(_keys(_compose([], conf).config))
    except ConfigurationError:
        return []
    known += [str(path.relative_to(conf)) for path in conf.rglob("*") if path.is_dir()]
    near = difflib.get_close_matches(key, known, 3, cutoff=0.75)
    return near or [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]][:3]


def _keys(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        yield key
        if isinstance(value, Mapping):
            yield from _keys(value, key)
