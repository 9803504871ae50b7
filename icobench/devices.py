"""What a CPU and a GPU want differently: pieces that fit a cache, or few and large calls."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["Recorded", "by_device", "has_triton", "joined", "one_thread", "sent"]

T = TypeVar("T")


@lru_cache(maxsize=1)
def has_triton() -> bool:
    """Whether kernels for a GPU can be compiled; Triton comes with torch's own packages for Linux."""
    return find_spec("triton") is not None


def on_gpu(device: torch.device) -> bool:
    """Whether calls should be few and large, and never wait; tests and benchmarks may say so of a CPU."""
    return device.type != "cpu"


def by_device(device: torch.device, cpu: T, gpu: T) -> T:
    """One of two values."""
    return gpu if on_gpu(device) else cpu


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Values on a device; from the host to a GPU by pinned memory, for which the processor does not wait."""
    if values.device.type == "cpu" and device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """One after the other; a single one without a copy."""
    return torch.cat(tuple(parts)) if len(parts) > 1 else parts[0]


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch in this process, as in a worker; also a decorator of functions."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Recorded:
    """A function on a GPU, recorded once and then replayed as a whole: one launch instead of hundreds.

    Args:
        function: of tensors, to a tensor, row by row. It does not wait for the GPU, nor copy from the host.
        inputs: like all later ones, but for the number of rows.
        rows: so many at most.
    """

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor, rows: int) -> None:
        self.inputs = [values.new_zeros(rows, *values.shape[1:]) for values in inputs]
        self.lock = threading.Lock()
        for filled, values in zip(self.inputs, inputs, strict=True):
            filled[: len(values)] = values
        device = inputs[0].device
        aside, now = torch.cuda.Stream(device), torch.cuda.current_stream(device)
        aside.wait_stream(now)
        with torch.cuda.stream(aside):  # tables and plans are made before
            function(*self.inputs)
        now.wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.output = function(*self.inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The result for other inputs, on the CPU."""
        with self.lock:
            rows = len(inputs[0])  # what earlier ones left in the others changes nothing
            for filled, values in zip(self.inputs, inputs, strict=True):
                filled[:rows].copy_(values)
            self.graph.replay()
            return self.output[:rows].cpu()
