"""Energy of a GPU while something runs, if its driver reports power."""

import os
import shutil
import subprocess
import threading
import time
from types import TracebackType

import torch

__all__ = ["PowerMeter", "power_query"]

QUERY = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "--loop-ms=250"]


def power_query(device: torch.device) -> list[str]:
    """The command that prints this GPU's watts, and no other's; empty for a CPU.

    The driver's program counts all GPUs, torch those of ``CUDA_VISIBLE_DEVICES``, by number or by name.
    """
    if device.type != "cuda":
        return []
    number = device.index or 0
    visible = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return [*QUERY, f"--id={visible[number] if number < len(visible) and visible[number] else number}"]


class PowerMeter:
    """Integrates the power that a command reports, for one GPU four times a second.

    Args:
        query: command that prints a number of watts a line, see :func:`power_query`; empty for no meter.

    Attributes:
        joules: after the end; None if nothing was reported.
    """

    def __init__(self, query: list[str]) -> None:
        self.query = query
        self.joules: float | None = None
        self.samples: list[tuple[float, float]] = []
        self.process: subprocess.Popen[str] | None = None

    def _read(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.samples.append((time.perf_counter(), float(line)))
            except ValueError:  # "[N/A]"
                continue

    def __enter__(self) -> "PowerMeter":
        self.begin = time.perf_counter()
        if self.query and shutil.which(self.query[0]):
            self.process = subprocess.Popen(
                self.query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            self.reader = threading.Thread(target=self._read, daemon=True)
            self.reader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process is None:
            return
        self.process.terminate()
        self.process.wait()
        self.reader.join(timeout=5)
        seconds = time.perf_counter() - self.begin
        if self.samples:
            watts = [power for _, power in self.samples]
            self.joules = seconds * sum(watts) / len(watts)
