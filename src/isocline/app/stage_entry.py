"""Runs one pipeline stage: parameters in, tracked run around it, one clear line if it fails."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from isocline.app.declaration import Declaration, declaration, declared_part, load_params
from isocline.app.errors import disk_full
from isocline.tracking.provenance import digests, git_state
from isocline.tracking.spool import RUNS, Spool, exclusive
from isocline.tracking.stage import PARENT_VARIABLE, open_stage

__all__ = ["DEFAULT_THREADS", "parent_spool", "run_stage", "thread_count", "thread_environment"]

DEFAULT_THREADS = 2
INTERRUPTED = 130
_EXPECTED = (ValueError, TypeError, OSError, RuntimeError, ImportError, LookupError, ArithmeticError, MemoryError)


def thread_count(params: dict[str, Any]) -> int:
    """Threads for numeric libraries: ``ISOCLINE_THREADS``, else the key ``threads``, else two.

    Raises:
        ValueError: if it is not a whole number above zero.
    """
    given = os.environ.get("ISOCLINE_THREADS") or params.get("threads", DEFAULT_THREADS)
    if isinstance(given, bool) or not str(given).isdecimal() or int(given) < 1:
        raise ValueError(f"threads is {given!r}; give a whole number above zero")
    return int(given)


def thread_environment(threads: int) -> dict[str, str]:
    """Settings that OpenMP, BLAS and cuBLAS read when they are loaded.

    Waiting threads spin for a moment and then sleep: sleeping at once slows a small network by a quarter on idle cores,
    spinning on slows it five times on busy ones (docs/results/threads.md).
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    waiting = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
    return {**dict.fromkeys(names, str(threads)), **waiting, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def _set_threads(threads: int) -> None:
    """Make results depend on the configuration alone, not on whether the libraries were loaded before the fork."""
    os.environ.update(thread_environment(threads))
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)
    torch.set_num_threads(threads)
    # Some CUDA kernels (a float cumulative sum, say) have no deterministic form: there, a warning instead of an error.
    torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())


def _stage_module(stage: str) -> ModuleType:
    path = Path("pipeline") / f"{stage.replace('-', '_')}.py"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing in {Path.cwd()}; stage {stage!r} has no entry point")
    name = f"isocline_pipeline_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path.absolute())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _shown(params: dict[str, Any], item: str | None) -> dict[str, Any]:
    """Parameters under names that all models share: ``models.flow.network`` is shown as ``network`` in flow's run."""
    shown: dict[str, Any] = {}
    for key, value in params.items():
        if isinstance(value, dict) and item is not None and isinstance(value.get(item), dict):
            shown.update({f"{key}.{other}": part for other, part in value.items() if other != item})
            shown.update(value[item])
        else:
            shown[key] = value
    return shown


def parent_spool(identity: str, name: str) -> tuple[Spool, str]:
    """Spool of a parent run and its path relative to the runs folder."""
    relative = f"pipeline/{identity}/spool-parent"
    spool = Spool(RUNS / relative)
    spool.open(name, "pipeline", identity=identity)
    return spool, relative


def _raw_parent() -> str:
    """The parent of stages that plain ``dvc repro`` runs: one per params.yaml, dvc.yaml and commit."""
    git = git_state()
    inputs = {**digests(["params.yaml", "dvc.yaml"]), "commit": git.get("mlflow.source.git.commit", "none")}
    identity = "raw-" + hashlib.sha256(repr(sorted(inputs.items())).encode()).hexdigest()[:12]
    with exclusive(RUNS / "pipeline" / "lock"):
        spool, relative = parent_spool(identity, "dvc repro")
        if spool.status is None:
            spool.append(
                {
                    "e": "tags",
                    "v": {"dvc.stage": "pipeline", **git, **{f"digest.{name}": md5 for name, md5 in inputs.items()}},
                }
            )
            if Path("params.yaml").exists():
                spool.append(spool.keep(Path("params.yaml"), ""))
        spool.append({"e": "status", "v": "FINISHED"})
        spool.close()
    return relative


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Turn a request to terminate into KeyboardInterrupt, so that the run is recorded as killed."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(stage: str, item: str | None) -> None:
    params = load_params()
    declared: Declaration = declaration(stage, item, params=params)
    part = declared_part(params, declared.params)
    _set_threads(thread_count(params))
    main = _stage_module(stage).main
    with open_stage(declared.name, part, declared.deps, declared.outs, logged=_shown(part, item)) as run:
        main(run, part, item)


def run_stage(stage: str, item: str | None = None) -> int:
    """Run a stage of the working directory's pipeline.

    Args:
        stage: its name in dvc.yaml, without ``@item``.
        item: which one of many.

    Returns:
        The exit code: 0, 1 after an error (one line on standard error; the whole trace with ``ISOCLINE_DEBUG=1``),
        130 after an interruption.
    """
    code = 0
    alone = PARENT_VARIABLE not in os.environ
    try:
        with _interruptible():
            if alone:
                os.environ[PARENT_VARIABLE] = _raw_parent()
            _run(stage, item)
    except KeyboardInterrupt:
        print(f"stage {stage}: interrupted; run again to go on from the last checkpoint", file=sys.stderr)
        code = INTERRUPTED
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:
        if os.environ.get("ISOCLINE_DEBUG"):
            traceback.print_exc()
        elif isinstance(error, _EXPECTED):
            print(f"stage {stage}{f' {item}' if item else ''}: {_line(error)}", file=sys.stderr)
        else:
            print(f"stage {stage}: {type(error).__name__}: {_line(error)}", file=sys.stderr)
        code = 1
    finally:
        if alone:
            os.environ.pop(PARENT_VARIABLE, None)
    if alone:
        _send()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _line(error: BaseException) -> str:
    if full := disk_full(error):
        return full
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError) and type(error) is KeyError:
        text = f"missing key {text}"
    if not os.environ.get("ISOCLINE_DEBUG") and isinstance(
        error, RuntimeError | KeyError | IndexError | AttributeError
    ):
        text += " (ISOCLINE_DEBUG=1 shows where)"
    return text


def _send() -> None:
    """Send what the stage recorded; tracking never fails a stage that succeeded."""
    from isocline.tracking.sender import sync

    try:
        sync()
    except Exception as error:
        print(f"tracking: {error}; everything is kept in .runs", file=sys.stderr)
