"""Choice of the program for the edge sum: plain torch, or one compiled for the device.

On a CPU the compiled program is :mod:`~icobench.simulator.native`, built in under a second; on a GPU
``torch.compile`` turns the functions on tensors into one loop. A process compiles only when it has simulated
so many images that compiling pays (at once if the cache holds the result). Set ``ICOBENCH_COMPILE=0`` to
never compile, ``=1`` to compile at once.
"""

import logging
import os
import time
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from icobench.simulator import native
from icobench.simulator.edge_derivative import edge_sum_jacobian
from icobench.simulator.edge_sum import edge_sum
from icobench.simulator.terms import Terms, segment_terms, term_slopes

__all__ = ["EAGER", "Kernels", "fused_edge_sum", "kernels", "prepare_kernel"]

logger = logging.getLogger("icobench")

WORTH_COMPILING = {"cpu": 100, "cuda": 20_000}
"""Images after which the compiler's time is repaid."""


class Kernels(NamedTuple):
    """Terms of the edge sum, with slopes, the sum and its Jacobian; ``fused`` without intermediate arrays."""

    terms: Callable[..., Terms]
    term_slopes: Callable[..., tuple[Terms, Tensor, Tensor]]
    edge_sum: Callable[..., Tensor]
    edge_sum_jacobian: Callable[..., Tensor]
    fused: bool


EAGER = Kernels(segment_terms, term_slopes, edge_sum, edge_sum_jacobian, False)


class _State:
    requested = 0
    compiled: ClassVar[dict[str, Kernels]] = {}


def kernels(device: torch.device, dtype: torch.dtype, images: int) -> Kernels:
    """The fastest kernels that are worth compiling; those of float64, for checks, are compiled only on a CPU.

    Args:
        device, dtype: of the tensors to come.
        images: number of images that the caller is about to simulate.
    """
    _State.requested += images
    setting = os.environ.get("ICOBENCH_COMPILE", "auto")
    if setting == "0" or device.type not in WORTH_COMPILING:
        return EAGER
    if dtype != torch.float32 and device.type != "cpu":
        return EAGER
    if device.type not in _State.compiled:
        enough = _State.requested >= WORTH_COMPILING[device.type]
        if not (enough or setting == "1" or (device.type == "cpu" and native.built())):
            return EAGER
        _State.compiled[device.type] = _make(device)
    return _State.compiled[device.type]


def _make(device: torch.device) -> Kernels:
    start = time.perf_counter()
    try:
        if device.type == "cpu":
            kernel = native.NativeKernel()
            program = Kernels(
                kernel.terms, kernel.term_slopes, kernel.edge_sum, kernel.edge_sum_jacobian, True
            )
        else:
            logger.info("compiling the simulator's kernel (under a minute; then cached)")
            program = EAGER._replace(edge_sum=fused_edge_sum(device), fused=True)
    except Exception as error:  # A broken tool chain must not stop the work.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        logger.warning("the simulator runs uncompiled, about 8 times slower: %s", reason)
        return EAGER
    logger.info("the simulator's compiled kernel is ready (%.1f s)", time.perf_counter() - start)
    return program


def fused_edge_sum(device: torch.device) -> Callable[..., Tensor]:
    """``edge_sum`` through ``torch.compile``, for any sizes."""
    # By default Inductor stores intermediates that are read often; these limits keep all in one loop.
    options: dict[str, Any] = dict.fromkeys(
        ("realize_opcount_threshold", "realize_reads_threshold", "realize_acc_reads_threshold"), 100_000
    )
    kernel = torch.compile(edge_sum, dynamic=True, options=options)
    # Distinct sizes, none of them 1, so that torch keeps all of them variable.
    forms = torch.rand(3, 46, 4, 4, device=device, dtype=torch.float64)
    live = torch.tensor([46, 46, 46], device=device)
    waves = torch.rand(4, 500, device=device, dtype=torch.float64)
    with torch.no_grad():
        kernel(forms, torch.rand(3, 46, 13, device=device), live, waves, torch.rand(4, 500, device=device))
    return kernel


def prepare_kernel(device: torch.device) -> None:
    """Compile now, because many images will be simulated; does nothing where compiling is not possible."""
    kernels(device, torch.float32, WORTH_COMPILING.get(device.type, 0))
