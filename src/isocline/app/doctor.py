"""Examine environment, data, tracking and accelerator: what is wrong, and the cure."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import shutil
import socket
import sqlite3
import struct
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from isocline.app.jobs import usable_cores

__all__ = ["Finding", "examine", "port_is_free", "safetensors_problem"]

_MARKS = {"ok": "ok   ", "warning": "WARN ", "error": "ERROR"}
_LOWEST_TORCH = (2, 11)
_DISK_ERROR, _DISK_WARNING = 1.0, 5.0
_HEADER_LIMIT = 100 * 2**20


@dataclass(frozen=True)
class Finding:
    """One observation.

    Attributes:
        level: ``ok``, ``warning`` or ``error``.
        subject: what was looked at.
        message: what was seen.
        cure: what to do; empty if all is well.
    """

    level: str
    subject: str
    message: str
    cure: str = ""

    def __str__(self) -> str:
        cure = f"; cure: {self.cure}" if self.cure else ""
        return f"{_MARKS[self.level]} {self.subject}: {self.message}{cure}"


def examine(root: Path) -> list[Finding]:
    """Run every check; a check that breaks is itself a finding."""
    checks: tuple[Callable[[Path], Iterator[Finding]], ...] = (
        _versions, _threads, _disk, _configuration, _history, _pipeline, _data_cards, _artefacts, _tracking, _port,
        _accelerator,
    )  # fmt: skip
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check(root)
        except Exception as error:
            name = check.__name__.strip("_").replace("_", " ")
            message = f"cannot be examined ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            findings.append(Finding("error", name, message, "see the message; ISOCLINE_DEBUG=1 for commands"))
    return findings


def _versions(root: Path) -> Iterator[Finding]:
    found = sys.version_info
    if found < (3, 11):
        yield Finding(
            "error", "python", f"{found.major}.{found.minor}", "install Python 3.11 or newer, then make clean repro"
        )
    else:
        yield Finding("ok", "python", f"{found.major}.{found.minor}.{found.micro}")
    required = ("torch", "pytorch-lightning", "dvc", "mlflow", "hydra-core", "omegaconf", "torchmetrics")
    missing = []
    for name in required:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if name == "torch" and tuple(map(int, version.split(".")[:2])) < _LOWEST_TORCH:
            yield Finding("error", "torch", f"{version} is too old", "pip install 'torch>=2.11'")
        elif name == "torch":
            yield Finding("ok", "torch", version)
    if missing:
        yield Finding("error", "packages", f"{', '.join(missing)} not installed", "rm -f .venv/.installed && make env")


def _threads(root: Path) -> Iterator[Finding]:
    cores = usable_cores()
    load = os.getloadavg()[0]
    yield Finding("ok", "cores", f"{cores} usable, load {load:.1f}")
    wanted = os.environ.get("ISOCLINE_THREADS") or _parameters(root).get("threads", 2)
    if not str(wanted).isdecimal() or int(wanted) < 1:
        yield Finding(
            "error", "threads", f"{wanted!r} is no count", "isocline compose threads=1, or unset ISOCLINE_THREADS"
        )
        return
    threads = int(wanted)
    if threads > cores:
        advice = f"isocline compose threads={cores} (results differ in the last bits)"
        yield Finding("warning", "threads", f"{threads} on {cores} cores: spinning threads slow each other 10x", advice)
    elif threads > 1 and load > cores - threads + 0.75:
        advice = "wait for the other work to end, or isocline compose threads=1"
        yield Finding(
            "warning", "threads", f"{threads} wanted, but other work keeps the cores busy (load {load:.1f})", advice
        )
    else:
        yield Finding("ok", "threads", f"{threads} of {cores}")
    if os.environ.get("OMP_WAIT_POLICY", "").upper() == "ACTIVE":
        yield Finding("warning", "OMP_WAIT_POLICY", "ACTIVE makes waiting threads spin", "unset OMP_WAIT_POLICY")


def _disk(root: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(root.absolute()).free / 2**30
    level = "error" if free < _DISK_ERROR else "warning" if free < _DISK_WARNING else "ok"
    cure = "" if level == "ok" else "free some space; dvc gc --workspace drops cached results of old runs"
    yield Finding(level, "disk", f"{free:.1f} GiB free", cure)


def _parameters(root: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load((root / "params.yaml").read_text())
    except (OSError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _configuration(root: Path) -> Iterator[Finding]:
    path = root / "params.yaml"
    if not path.exists():
        yield Finding("error", "params.yaml", "missing", "isocline compose")
        return
    from isocline.app.declaration import load_params
    from isocline.app.validate import problems

    try:
        found = list(problems(load_params(root)))
    except ValueError as error:
        yield Finding("error", "params.yaml", str(error), "isocline compose")
        return
    for problem in found[:5]:
        yield Finding("error", "params.yaml", str(problem), "isocline compose (with your overrides)")
    if not found:
        yield Finding("ok", "params.yaml", f"valid, profile {_parameters(root).get('profile')}")


def _history(root: Path) -> Iterator[Finding]:
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    head = git("rev-parse", "--short", "HEAD")
    if head is None:
        yield Finding("error", "git", "no commit here", "run inside a clone: git clone …")
    else:
        dirty = git("status", "--porcelain", "--untracked-files=no")
        yield Finding("ok", "git", f"{head}{' with uncommitted changes (runs are tagged dirty)' if dirty else ''}")
    if not (root / ".dvc").is_dir():
        yield Finding("error", "dvc", "no .dvc folder", "git checkout -- .dvc, or dvc init")
        return
    config = (root / ".dvc" / "config").read_text() if (root / ".dvc" / "config").exists() else ""
    if "enabled = true" not in config.lower():
        yield Finding("warning", "dvc", "Hydra composition is off: dvc exp run -S …", "dvc config hydra.enabled True")
    yield from _stale_locks(root / ".dvc" / "tmp" / "rwlock")


def _stale_locks(path: Path) -> Iterator[Finding]:
    """Entries of DVC's read-write lock whose process is gone block the next run."""
    if not path.exists() or not path.read_text().strip():
        return
    import psutil

    cure = f"rm {path} (no dvc may be running)"
    try:
        entries = json.loads(path.read_text())
        holders = [e for held in entries.values() for e in (held.get("read") or []) + [held.get("write")] if e]
        dead = sorted({e["pid"] for e in holders if not psutil.pid_exists(e["pid"])})
    except (ValueError, AttributeError, TypeError, KeyError):
        yield Finding("error", "dvc lock", f"{path} is damaged", cure)
        return
    if dead:
        yield Finding("warning", "dvc lock", f"held by ended process {', '.join(map(str, dead))}", cure)


def _pipeline(root: Path) -> Iterator[Finding]:
    """Compare what dvc.lock says was written with what is there."""
    path = root / "dvc.lock"
    if not path.exists():
        yield Finding("warning", "pipeline", "has not been run (no dvc.lock)", "make repro")
        return
    from isocline.tracking.provenance import digest

    try:
        stages = yaml.safe_load(path.read_text())["stages"]
        outs = [(stage, out) for stage, entry in stages.items() for out in entry.get("outs", [])]
    except (yaml.YAMLError, TypeError, KeyError, AttributeError):
        yield Finding("error", "dvc.lock", "damaged", "git checkout -- dvc.lock, or rm dvc.lock && isocline repro")
        return
    bad = False
    for stage, out in outs:
        found = digest(root / out["path"])
        if found is None:
            bad = True
            yield Finding("warning", out["path"], f"missing (stage {stage} made it)", "dvc checkout, or isocline repro")
        elif found != out.get("md5"):
            bad = True
            message = f"differs from what stage {stage} wrote (md5 {found[:12]}, expected {str(out.get('md5'))[:12]})"
            yield Finding(
                "error", out["path"], message, f"rm -r {out['path']} && dvc checkout {out['path']}, or isocline repro"
            )
    if not bad:
        yield Finding("ok", "pipeline", f"{len(outs)} outputs are what dvc.lock says")


def _data_cards(root: Path) -> Iterator[Finding]:
    """Check every data card's sha256 digests against the files beside it."""
    for card in sorted((root / "data").glob("*/card.json")):
        name = card.parent.relative_to(root)
        try:
            listed = dict(_digests(json.loads(card.read_text())))
        except ValueError:
            yield Finding("error", str(card.relative_to(root)), "not JSON", f"rm -r {name} && isocline repro")
            continue
        from isocline.datasets.storage import file_digest

        wrong = [
            file
            for file, expected in listed.items()
            if not (card.parent / file).exists() or file_digest(card.parent / file) != expected
        ]
        for file in wrong:
            state = "differs from its card's digest" if (card.parent / file).exists() else "is missing"
            yield Finding("error", f"{name}/{file}", state, f"rm -r {name} && isocline repro")
        if listed and not wrong:
            yield Finding("ok", str(name), f"{len(listed)} files match their digests")


def _digests(card: Any) -> Iterator[tuple[str, str]]:
    """Yield ``(file name, sha256)`` wherever a card holds them."""
    for name, value in card.items() if isinstance(card, dict) else ():
        if isinstance(value, str) and len(value) == 64 and "." in name and "/" not in name:
            yield name, value
        elif name in ("digests", "sha256", "files"):
            yield from _digests(value)


def _artefacts(root: Path) -> Iterator[Finding]:
    files = sorted((root / "data").rglob("*.safetensors"))
    bad = 0
    for path in files:
        problem = safetensors_problem(path)
        if problem:
            bad += 1
            folder = path.parent.relative_to(root)
            yield Finding("error", str(path.relative_to(root)), problem, f"rm -r {folder} && isocline repro")
    if files and not bad:
        yield Finding("ok", "tensors", f"{len(files)} safetensors files are whole")


def safetensors_problem(path: Path) -> str | None:
    """Return what is wrong with a safetensors file's frame (header, length), or None; tensors are not read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            return f"truncated to {size} bytes"
        (length,) = struct.unpack("<Q", head)
        if length > min(size - 8, _HEADER_LIMIT):
            return "damaged header"
        try:
            header = json.loads(file.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, TypeError, KeyError, AttributeError):
            return "damaged header"
    return None if size == 8 + length + end else f"{size} bytes, expected {8 + length + end}"


def _tracking(root: Path) -> Iterator[Finding]:
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    yield from _server(uri) if uri.startswith(("http://", "https://")) else _store(uri, root)
    from isocline.tracking.spool import RUNS

    waiting = len(list((root / RUNS / "pipeline").glob("*/spool-*"))) if (root / RUNS / "pipeline").is_dir() else 0
    if waiting:
        yield Finding(
            "ok", "buffer", f"{waiting} pipeline runs kept under {RUNS}; isocline sync sends what is not sent"
        )


def _server(uri: str) -> Iterator[Finding]:
    """Ask what tracking will ask: the health page answers any host name, and without credentials."""
    from isocline.tracking.store import ask, is_denied, without_credentials

    shown = without_credentials(uri).rstrip("/")
    kept = "until then runs are kept on disk and isocline sync sends them"
    try:
        with contextlib.suppress(urllib.error.HTTPError):  # it answers; the question below says more
            urllib.request.urlopen(f"{shown}/health", timeout=3).close()
    except (OSError, ValueError) as error:
        cure = f"start the server, or unset MLFLOW_TRACKING_URI; {kept}"
        yield Finding("error", "tracking", f"{shown} does not answer ({getattr(error, 'reason', error)})", cure)
        return
    try:
        ask(uri)
    except Exception as error:
        reason = " ".join(without_credentials(str(error)).split())[:200]
        if "Invalid Host header" in reason:
            cure = f"start the server with --allowed-hosts '{urllib.parse.urlsplit(shown).netloc}'; {kept}"
        elif is_denied(error):
            cure = f"renew MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; {kept}"
        else:
            cure = f"see the server's log, and that MLFLOW_TRACKING_URI is its address; {kept}"
        yield Finding("error", "tracking", f"{shown} lists no experiments ({reason})", cure)
        return
    yield Finding("ok", "tracking", f"{shown} lists its experiments")


def _store(uri: str, root: Path) -> Iterator[Finding]:
    if "://" not in uri:
        cure = "give sqlite:///path.db or a server's http:// address"
        yield Finding("error", "tracking", f"MLFLOW_TRACKING_URI={uri} is a folder", cure)
        return
    if not uri.startswith("sqlite:///"):
        yield Finding("ok", "tracking", f"{uri.partition('://')[0]} store, not examined")
        return
    path = root / uri.removeprefix("sqlite:///")
    if not path.exists():
        yield Finding("ok", "tracking", f"{path.name} will be made by the first run")
        return
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=3) as connection:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        answer = str(error)
    if answer == "ok":
        yield Finding("ok", "tracking", f"{path.name} is whole")
    else:
        cure = f"mv {path.name} {path.name}.damaged && isocline sync"
        yield Finding("error", "tracking", f"{path.name}: {answer}", cure)


def port_is_free(port: int) -> bool:
    """Tell whether a server could listen on this port of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _port(root: Path, port: int = 5000) -> Iterator[Finding]:
    if port_is_free(port):
        yield Finding("ok", "port", f"{port} is free for isocline ui")
    else:
        yield Finding("warning", "port", f"{port} is in use", f"isocline ui --port {port + 1}")


def _accelerator(root: Path) -> Iterator[Finding]:
    import torch

    wanted = {
        (section.get("trainer") or {}).get("accelerator")
        for side in ("models", "students")
        for section in (_parameters(root).get(side) or {}).values()
        if isinstance(section, dict)
    }
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        level = "ok" if wanted - {"cpu"} or not wanted else "warning"
        cure = "" if level == "ok" else "isocline compose profile=gpu uses it"
        yield Finding(level, "accelerator", f"{name}, CUDA {torch.version.cuda}", cure)
    elif shutil.which("nvidia-smi"):
        version = torch.__version__
        cure = "install a torch built for the driver's CUDA (pytorch.org), then make env"
        yield Finding("warning", "accelerator", f"there is an NVIDIA driver, but torch {version} cannot use it", cure)
    elif wanted & {"gpu", "cuda"}:
        yield Finding(
            "error", "accelerator", "params.yaml wants one and there is none", "isocline compose profile=laptop"
        )
    else:
        yield Finding("ok", "accelerator", "none; the CPU is used")
