"""Energy of a GPU while something runs, if its driver reports power."""

import shutil
import subprocess
import threading
import time
from types import TracebackType

__all__ = ["PowerMeter"]

QUERY = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "--loop-ms=250"]


class PowerMeter:
    """Integrates the power that ``nvidia-smi`` reports, four times a second, of the first GPU.

    Args:
        query: command that prints a number of watts a line; empty for no meter.

    Attributes:
        joules: after the end; None if nothing was reported.
    """

    def __init__(self, query: list[str] | None = None) -> None:
        self.query = QUERY if query is None else query
        self.joules: float | None = None
        self.samples: list[tuple[float, float]] = []
        self.process: subprocess.Popen[str] | None = None

    def _read(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        for line in self.process.stdout:
            try:
                self.samples.append((time.perf_counter(), float(line)))
            except ValueError:  # "[N/A]", or another GPU's complaint
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
