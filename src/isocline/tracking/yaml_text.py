"""YAML read by libyaml where PyYAML has it: dvc.lock takes a tenth of the time."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["load_yaml"]

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(text: str) -> Any:
    """Return what ``yaml.safe_load`` returns.

    Raises:
        yaml.YAMLError: if it is not YAML.
    """
    return yaml.load(text, Loader=_Loader)
