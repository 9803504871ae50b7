"""What a CPU and a GPU want differently: pieces that fit a cache, or few and large calls."""

from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["by_device", "on_gpu", "sent"]

T = TypeVar("T")


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
