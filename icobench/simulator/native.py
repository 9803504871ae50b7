"""The C++ kernel of the edge sum: built once per machine, then loaded from a cache on disk.

Only a C++ compiler (GCC or Clang) is needed, no headers of torch: building takes under a second. The work is
divided among as many Python threads as torch may use; a second OpenMP runtime would conflict with torch's.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icobench.cache import cache_folder
from icobench.simulator.edge_derivative import SHARED_SUMS
from icobench.simulator.overlay import STEEPEST, BodyTensors, Plan
from icobench.simulator.terms import (
    DIFFERENTIATED,
    NUMBERS,
    PARAMETERS,
    SLOPES_FLOOR,
    SMALLEST_HALF_DAMPING,
    Terms,
)

__all__ = ["NativeKernel", "built", "compiler"]

SOURCES = tuple(Path(__file__).with_name(name) for name in ("edge_sum.cpp", "terms.cpp"))

# Fused multiply-add where there is one; nothing that reorders sums or flushes small numbers to zero.
ARITHMETIC = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
FLAGS = ("-std=c++17", *ARITHMETIC, "-shared", "-fPIC", "-w")
TUNED = ("-march=native", "-mcpu=native", "")
"""Tried in turn: compilers for ARM know the second."""

LANES = {torch.float32: 16, torch.float64: 8}
SUFFIX = {torch.float32: "float", torch.float64: "double"}
SHARED_TERMS = 100_000
"""Segments times nodes below which a second thread costs more than it saves."""


def compiler() -> str | None:
    """The C++ compiler: ``$CXX``, else g++, clang++ or c++ on the path."""
    named = os.environ.get("CXX")
    if named:
        return named if shutil.which(shlex.split(named)[0]) else None
    return next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)


@lru_cache(maxsize=1)
def _processor() -> str:
    """The processor's features. Machines may share a home directory, and a binary fits only one of them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())


def _library(compiler: str) -> Path:
    sources = [source.read_text() for source in SOURCES]
    key = "\n".join((*sources, compiler, *FLAGS, platform.machine(), _processor()))
    return cache_folder() / f"kernel-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"


def built() -> bool:
    """Whether the kernel is in the cache."""
    command = compiler()
    return command is not None and _library(command).is_file()


def _build(command: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        library = Path(folder) / target.name
        for tuned in TUNED:
            result = subprocess.run(
                [*shlex.split(command), *FLAGS, *tuned.split(), *map(str, SOURCES), "-o", str(library)],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            if result.returncode == 0:
                os.replace(library, target)
                return
    first_line = (result.stderr.strip() or "the compiler failed").splitlines()[0]
    raise RuntimeError(first_line)


class _Threads:
    """One pool for each process, since threads do not survive a fork."""

    pool: ThreadPoolExecutor | None = None
    process = 0

    @classmethod
    def get(cls) -> ThreadPoolExecutor:
        if cls.pool is None or cls.process != os.getpid():
            cls.pool = ThreadPoolExecutor(os.cpu_count() or 1, "icobench-kernel")
            cls.process = os.getpid()
        return cls.pool


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class NativeKernel:
    """The edge sum and its Jacobian on a CPU, as the functions on tensors; float32 or float64.

    Raises:
        RuntimeError: there is no compiler, or it fails.
        OSError: the library cannot be written or loaded.
    """

    def __init__(self) -> None:
        command = compiler()
        if command is None:
            raise RuntimeError("there is no C++ compiler")
        library = _library(command)
        if not library.is_file():
            _build(command, library)
        self._library = ctypes.CDLL(str(library))

    def _run(self, name: str, sizes: tuple[int, ...], tensors: tuple[Tensor, ...], live: Tensor) -> None:
        """Divide the blocks of all items evenly among threads; ctypes releases Python's lock."""
        dtype = tensors[-1].dtype
        function = getattr(self._library, f"{name}_{SUFFIX[dtype]}")
        batch, nodes = sizes[0], sizes[2]
        tasks = batch * -(-nodes // LANES[dtype])
        work = int(live.sum()) * nodes
        threads = max(1, min(torch.get_num_threads(), work // SHARED_TERMS, tasks))
        shared = tuple(map(ctypes.c_int64, sizes)), tuple(map(_pointer, tensors))

        def share(part: int) -> None:
            first, last = tasks * part // threads, tasks * (part + 1) // threads
            function(ctypes.c_int64(first), ctypes.c_int64(last), *shared[0], *shared[1])

        others = [_Threads.get().submit(share, part) for part in range(1, threads)]
        share(0)
        for other in others:
            other.result()

    def terms(self, *geometry: Any) -> Terms:
        """As :func:`~icobench.simulator.terms.segment_terms`; zeros beyond the live segments."""
        return self._terms(*geometry, parameters=0)[0]

    def term_slopes(self, *geometry: Any) -> tuple[Terms, Tensor, Tensor]:
        """As :func:`~icobench.simulator.terms.term_slopes`; zeros beyond the live segments."""
        return self._terms(*geometry, parameters=PARAMETERS)

    def _terms(
        self,
        body: BodyTensors,
        rotation: Tensor,
        where: Plan,
        radius: Tensor,
        kappa: Tensor,
        dtype: torch.dtype,
        parameters: int,
    ) -> tuple[Terms, Tensor, Tensor]:
        batch, segments = where.edge.shape
        forms, numbers = radius.new_zeros(batch, segments, 4, 4), radius.new_zeros(batch, segments, NUMBERS)
        form_slopes = radius.new_zeros(batch, parameters, segments, 4, 4)
        number_slopes = radius.new_zeros(batch, parameters, segments, DIFFERENTIATED)
        tables = (
            body.normals, body.offsets, body.vertices, body.edges, rotation, radius, kappa,
            where.edge, where.sides, where.across, where.uncut, where.carrier, where.crossed, where.pair,
            where.on_entrance, where.on_exit, where.sign, where.weight, where.live,
        )  # fmt: skip
        kept = [table.contiguous() for table in tables]  # alive until the call returns
        slopes = [_pointer(table) if parameters else None for table in (form_slopes, number_slopes)]
        self._library.segment_terms(
            ctypes.c_int64(0),
            ctypes.c_int64(batch),
            ctypes.c_int64(segments),
            *map(_pointer, kept),
            ctypes.c_double(STEEPEST[dtype]),
            ctypes.c_double(SMALLEST_HALF_DAMPING[SLOPES_FLOOR if parameters else dtype]),
            _pointer(forms),
            _pointer(numbers),
            *slopes,
        )
        return Terms(forms, numbers, where.live), form_slopes, number_slopes

    def edge_sum(
        self, forms: Tensor, numbers: Tensor, live: Tensor, waves: Tensor, weights: Tensor
    ) -> Tensor:
        """As :func:`~icobench.simulator.edge_sum.edge_sum`."""
        batch, segments, nodes = len(forms), forms.shape[1], waves.shape[1]
        out = numbers.new_empty(2, batch, nodes)
        tensors = [table.contiguous() for table in (forms, numbers, live, waves, weights)]
        self._run("edge_sum", (batch, segments, nodes), (*tensors, out), live)
        return out

    def edge_sum_jacobian(self, *tables: Tensor) -> Tensor:
        """As :func:`~icobench.simulator.edge_derivative.edge_sum_jacobian`, for up to eight parameters."""
        forms, numbers, live, waves, _, form_slopes, _ = tables
        batch, segments, nodes, parameters = len(forms), forms.shape[1], waves.shape[1], form_slopes.shape[1]
        out = numbers.new_empty(2 * (1 + parameters + SHARED_SUMS), batch, nodes)
        tensors = [table.contiguous() for table in tables]
        self._run("edge_sum_jacobian", (batch, segments, nodes, parameters), (*tensors, out), live)
        return out
