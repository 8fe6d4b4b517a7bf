"""Files that are whole or absent: every write goes to a temporary neighbour and is renamed at the end."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors.torch import save
from torch import Tensor

__all__ = ["atomic_file", "file_digest", "write_bytes", "write_json", "write_tensors"]


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` that takes its name on success and disappears on any failure.

    A full disk is reported under ``path``: the error of a write names no file by itself.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
            error.filename = str(path)
        raise


def write_bytes(path: Path, content: bytes) -> str:
    """Write a file atomically; return the sha256 of its content."""
    with atomic_file(path) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write named tensors as safetensors, atomically; return the sha256 of the file."""
    return write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def write_json(path: Path, value: Any) -> str:
    """Write sorted, indented JSON, atomically; return the sha256 of the file."""
    return write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
