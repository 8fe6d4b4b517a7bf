"""The forking server runs a stage as if the launcher had run it itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from isocline.app.repro import stage_server

LAUNCH = Path(__file__).parents[2] / "pipeline" / "launch.py"

STAGE = """
import os, sys, time
from pathlib import Path

def main(run, params, item):
    mode = params["toy"]["mode"]
    if mode == "report":
        print("out", sys.stdin.read().strip(), os.environ.get("COLOUR"), Path.cwd().name, item, flush=True)
        print("err", "pytest" in sys.modules, "marker" in dir(sys.modules.get("json")), file=sys.stderr, flush=True)
        import torch
        print((torch.ones(64, 64) @ torch.ones(64, 64)).sum().item(), torch.get_num_threads())
    if mode == "fail":
        raise ValueError("width is -1; give a width above zero")
    if mode == "sleep":
        Path("pid").write_text(str(os.getpid()))
        time.sleep(120)
    if mode == "exit":
        os._exit(7)
"""


def make_project(folder: Path, mode: str) -> Path:
    (folder / "pipeline").mkdir(parents=True)
    (folder / "pipeline" / "launch.py").write_text(LAUNCH.read_text())
    (folder / "pipeline" / "toy_stage.py").write_text(STAGE)
    (folder / "params.yaml").write_text(f"toy: {{mode: {mode}}}\nthreads: 2\n")
    (folder / "dvc.yaml").write_text(
        "stages:\n  toy-stage:\n    foreach: [one]\n    do:\n"
        "      cmd: python pipeline/launch.py toy-stage one\n      params: [toy]\n"
    )
    return folder


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with stage_server(2, ("torch",)) as found:
        yield found


def launcher(project: Path, address: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "ISOCLINE_STAGE_SERVER": address, "ISOCLINE_PARENT": "none", "COLOUR": "blue"}
    return subprocess.Popen(
        [sys.executable, "pipeline/launch.py", "toy-stage", "one"],
        cwd=project,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited for half a minute")


def sleeping_pid(project: Path) -> int:
    wait_for(lambda: (project / "pid").exists() and (project / "pid").read_text() != "")
    return int((project / "pid").read_text())


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_stage_sees_the_launchers_folder_environment_and_streams(tmp_path: Path, address: str) -> None:
    process = launcher(make_project(tmp_path / "toy", "report"), address)
    out, err = process.communicate("typed")
    assert process.returncode == 0, err
    assert out.splitlines() == ["out typed blue toy one", "262144.0 2"]
    assert err.splitlines() == ["err False False"]


def test_error_is_one_line_and_exit_code_one(tmp_path: Path, address: str) -> None:
    process = launcher(make_project(tmp_path / "toy", "fail"), address)
    _, err = process.communicate()
    assert process.returncode == 1
    assert err == "stage toy-stage one: width is -1; give a width above zero\n"


def test_exit_code_of_the_stage_is_the_launchers(tmp_path: Path, address: str) -> None:
    process = launcher(make_project(tmp_path / "toy", "exit"), address)
    process.communicate()
    assert process.returncode == 7


def test_server_and_own_process_leave_the_same_words_and_code(tmp_path: Path, address: str) -> None:
    project = make_project(tmp_path / "toy", "report")
    warm, cold = launcher(project, address).communicate("x"), launcher(project, "").communicate("x")
    assert warm == cold


def test_stage_dies_with_a_launcher_that_is_killed(tmp_path: Path, address: str) -> None:
    process = launcher(project := make_project(tmp_path / "toy", "sleep"), address)
    pid = sleeping_pid(project)
    assert pid != process.pid
    process.kill()
    process.communicate()
    wait_for(lambda: is_gone(pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_launcher_interrupts_the_stage_which_says_so(
    tmp_path: Path, address: str, number: signal.Signals
) -> None:
    process = launcher(project := make_project(tmp_path / "toy", "sleep"), address)
    pid = sleeping_pid(project)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "interrupted; run again" in err
    wait_for(lambda: is_gone(pid))


def test_killed_stage_is_told_from_a_failed_one(tmp_path: Path, address: str) -> None:
    process = launcher(project := make_project(tmp_path / "toy", "sleep"), address)
    os.kill(sleeping_pid(project), signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGKILL
    assert "killed by signal 9" in err


def test_two_stages_run_side_by_side(tmp_path: Path, address: str) -> None:
    sleeper = launcher(project := make_project(tmp_path / "a", "sleep"), address)
    pid = sleeping_pid(project)
    other = launcher(make_project(tmp_path / "b", "report"), address)
    other.communicate("x")
    assert other.returncode == 0
    assert not is_gone(pid)
    sleeper.kill()
    sleeper.communicate()
    wait_for(lambda: is_gone(pid))


def test_stage_dies_with_a_server_that_is_killed_and_the_launcher_says_so(tmp_path: Path) -> None:
    project = make_project(tmp_path / "toy", "sleep")
    with stage_server(1, ("json",)) as own:
        process = launcher(project, own)
        pid = sleeping_pid(project)
        psutil.Process(psutil.Process(pid).ppid()).kill()
        _, err = process.communicate()
    assert process.returncode == 1
    assert "the stage server died" in err
    wait_for(lambda: is_gone(pid))


def test_launcher_runs_the_stage_itself_when_no_server_answers(tmp_path: Path) -> None:
    process = launcher(make_project(tmp_path / "toy", "report"), str(tmp_path / "nobody"))
    out, err = process.communicate("x")
    assert process.returncode == 0, err
    assert out.startswith("out x blue toy one")
    assert "does not answer" in err


def test_server_has_a_single_thread_when_it_forks(address: str, tmp_path: Path) -> None:
    process = launcher(project := make_project(tmp_path / "toy", "sleep"), address)
    server = psutil.Process(psutil.Process(sleeping_pid(project)).ppid())
    names = {Path(f"/proc/{server.pid}/task/{t.id}/comm").read_text().strip() for t in server.threads()}
    kernels = [thread for thread in server.threads() if thread.user_time + thread.system_time > 0]
    process.kill()
    process.communicate()
    assert len(kernels) == 1, names
