"""What work takes: seconds on the wall, and core-seconds, in which machines of several cores compare."""

import time

import torch

__all__ = ["Stopwatch"]


class Stopwatch:
    """Measures from its making on.

    Args:
        device: of the work. On a GPU a core-second is a second of the GPU.

    Example:
        >>> watch = Stopwatch(torch.device("cpu"))
        >>> seconds, core_seconds = watch.read()
    """

    def __init__(self, device: torch.device) -> None:
        self.cores = time.perf_counter if device.type == "cuda" else time.process_time
        self.begin, self.cores_begin = time.perf_counter(), self.cores()

    def read(self) -> tuple[float, float]:
        """Seconds, and those of all of this process's cores together; does not wait for a GPU."""
        return time.perf_counter() - self.begin, self.cores() - self.cores_begin
