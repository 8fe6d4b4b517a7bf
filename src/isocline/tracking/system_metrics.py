"""Use of the machine while a stage runs, under the names that MLflow's own page groups as system metrics."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import psutil

__all__ = ["SystemSampler", "sample_system"]

_MEGABYTE = 2**20


def sample_system(process: psutil.Process | None = None) -> dict[str, float]:
    """One sample: processor %, memory MB and %, disk % and MB and, if torch runs on CUDA, the accelerator's.

    torch is looked at only if it is imported already, and CUDA only if it is initialised: looking never starts it.
    """
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(".")
    values = {
        "system/cpu_utilization_percentage": psutil.cpu_percent(),
        "system/system_memory_usage_megabytes": memory.used / _MEGABYTE,
        "system/system_memory_usage_percentage": memory.percent,
        "system/disk_usage_percentage": disk.percent,
        "system/disk_available_megabytes": disk.free / _MEGABYTE,
    }
    if process is not None:
        values["system/process_memory_megabytes"] = process.memory_info().rss / _MEGABYTE
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            values[f"system/gpu_{index}_memory_usage_megabytes"] = (total - free) / _MEGABYTE
            values[f"system/gpu_{index}_memory_usage_percentage"] = 100 * (total - free) / total
            try:
                values[f"system/gpu_{index}_utilization_percentage"] = float(torch.cuda.utilization(index))
            except (ModuleNotFoundError, RuntimeError):  # needs the vendor's management library
                continue
    return {name: float(value) for name, value in values.items()}


class SystemSampler:
    """Hands a sample to ``record(values, step)`` at once, every ``interval`` seconds and at the end."""

    def __init__(self, record: Callable[[dict[str, float], int], None], interval: float = 10.0, first_step: int = 0):
        self._record = record
        self._interval = interval
        self._step = first_step
        self._over = threading.Event()
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._run, name="system-metrics", daemon=True)

    def start(self) -> None:
        """Begin to sample in a thread of its own."""
        psutil.cpu_percent()  # the first call has nothing to compare with
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._over.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        try:
            values = sample_system(self._process)
        except (OSError, psutil.Error):  # a machine that does not tell is no reason to stop training
            return
        self._record(values, self._step)
        self._step += 1
