"""When and how the edge sum is compiled.

``torch.compile`` turns the sum into one loop without intermediate arrays, about eight times
faster than eager torch, but takes half a minute the first time on a machine (a few seconds
from torch's cache on disk). So it is started only after a process has asked for enough images, and
only where it can work. Set ``ICOBENCH_COMPILE=0`` to never compile, ``=1`` to compile at once.
"""

import logging
import os
import shutil
from collections.abc import Callable

import torch

from icobench.simulator.edge_sum import Terms, edge_sum

__all__ = ["edge_sum_kernel", "prepare_kernel"]

logger = logging.getLogger("icobench")

WORTH_COMPILING = 1_500
"""Images after which the compiler's time is repaid on two cores."""

# Inductor would store every intermediate that is read often; fused into one loop, nothing is stored.
_FUSE: dict[str, str | int | bool | Callable] = {
    "realize_opcount_threshold": 100_000,
    "realize_reads_threshold": 100_000,
    "realize_acc_reads_threshold": 100_000,
}


class _State:
    requested = 0
    kernel: Callable | None = None
    failed = False


def _compilable() -> bool:
    setting = os.environ.get("ICOBENCH_COMPILE", "auto")
    if setting == "0" or _State.failed:
        return False
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    return compiler is not None


def _compile(device: torch.device, dtype: torch.dtype) -> Callable | None:
    logger.info("compiling the simulator's kernel (once per machine, about 30 s; then cached)")

    def sample(segments: int) -> Terms:
        forms = torch.rand(3, segments, 4, 4, device=device, dtype=dtype)
        return Terms(forms, torch.rand(3, segments, 6, device=device, dtype=dtype))

    try:
        kernel = torch.compile(edge_sum, dynamic=True, options=_FUSE)
        # Distinct sizes, none of them 1: torch then keeps every one of them variable.
        parts = (sample(46), sample(36), sample(12))
        waves = torch.rand(4, 500, device=device, dtype=dtype)
        with torch.no_grad():
            kernel(parts, waves, 0.01, 0.04)
    except Exception as error:  # A broken tool chain must not stop the work.
        logger.warning("the simulator runs uncompiled, about 8 times slower: %s", _first_line(error))
        _State.failed = True
        return None
    return kernel


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def edge_sum_kernel(device: torch.device, dtype: torch.dtype, images: int) -> Callable | None:
    """The compiled edge sum, or None where eager torch should do the work.

    Args:
        device, dtype: of the tensors to come.
        images: how many images the caller is about to ask for.
    """
    _State.requested += images
    if dtype != torch.float32 or not _compilable():
        return None
    if _State.kernel is None:
        at_once = os.environ.get("ICOBENCH_COMPILE") == "1"
        if not at_once and _State.requested < WORTH_COMPILING:
            return None
        _State.kernel = _compile(device, dtype)
    return _State.kernel


def prepare_kernel(device: torch.device) -> None:
    """Compile now, for callers who know that much work lies ahead; does nothing where it cannot be."""
    edge_sum_kernel(device, torch.float32, WORTH_COMPILING)
