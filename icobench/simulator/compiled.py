"""Choice of the program for the edge sum: plain torch, or one compiled for the device.

The compiled program is C++, the same lines for CPUs and GPUs, built once per machine and then loaded from a
cache on disk. On a GPU it is compiled at once, by a library that comes with torch
(:mod:`~icobench.simulator.cuda`); on a CPU only when the process has simulated so many images that compiling
pays, or if the cache holds the result. Set ``ICOBENCH_COMPILE=0`` to never compile, ``=1`` to compile
at once.

On a CPU only a compiler (GCC or Clang) is needed, no headers of torch: building takes a few seconds. The work
is divided among as many Python threads as torch may use; a second OpenMP runtime would conflict with torch's.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from icobench.cache import cache_folder
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.simulator.cuda import CudaKernel
from icobench.simulator.edge_sum import edge_sum, edge_sum_jacobian
from icobench.simulator.overlay import MOST_FACETS, STEEPEST, BodyTensors, Plan, empty_plan, plan
from icobench.simulator.skeleton import Skeleton, fill_pixels
from icobench.simulator.terms import (
    PARAMETERS,
    SLOPES_FLOOR,
    SMALLEST_HALF_DAMPING,
    Terms,
    empty_terms,
    segment_terms,
    term_slopes,
)

__all__ = ["EAGER", "Kernels", "NativeKernel", "compiler", "kernels", "kernels_of", "prepare_kernel"]

logger = logging.getLogger("icobench")

WORTH_COMPILING = {"cpu": 100, "cuda": 0}
"""Images after which the compiler's time is repaid."""

SOURCES = tuple(Path(__file__).with_name(name) for name in ("overlay.cpp", "terms.cpp", "edge_sum.cpp"))
"""Compiled as one file, in this order."""

PIXELS = Path(__file__).with_name("pixels.cpp")
"""Compiled after these on a CPU alone: a GPU has a library's matrix products, or for few fields cuda.cu's."""

FLAGS = (
    "-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-shared", "-fPIC", "-w",
)  # fmt: skip
"""Fused multiply-add where there is one; nothing that reorders sums or flushes small numbers to zero."""

TUNED = ("-march=native", "-mcpu=native", "")
"""Tried in turn: compilers for ARM know the second."""

LANES = {torch.float32: 16, torch.float64: 8}
SUFFIX = {torch.float32: "float", torch.float64: "double"}
SHARED_TERMS, SHARED_PRODUCTS = 100_000, 4_000_000
"""Segments times nodes, and products of matrices, below which a second thread costs more than it saves."""

FIELDS_AT_ONCE = 8
"""As in ``pixels.cpp``."""


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
    sources = [source.read_text() for source in (*SOURCES, PIXELS)]
    key = "\n".join((*sources, compiler, *FLAGS, platform.machine(), _processor()))
    return cache_folder() / f"kernel-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"


def _built() -> bool:
    """Whether the C++ kernel is in the cache."""
    command = compiler()
    return command is not None and _library(command).is_file()


def _build(command: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        library, source = Path(folder) / target.name, Path(folder) / "kernel.cpp"
        source.write_text("".join(part.read_text() for part in (*SOURCES, PIXELS)))
        for tuned in TUNED:
            call = [*shlex.split(command), *FLAGS, *tuned.split(), str(source), "-o", str(library)]
            result = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
            if result.returncode == 0:
                os.replace(library, target)
                return
    raise RuntimeError((result.stderr.strip() or "the compiler failed").splitlines()[0])


# The threads of torch do not survive a fork, and a child that waits for them would wait for ever.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    """One pool for each process, by its number, since threads do not survive a fork."""
    return ThreadPoolExecutor(os.cpu_count() or 1, "icobench-kernel")


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class NativeKernel:
    """The edge sum and its Jacobian on a CPU, as the functions on tensors; float32 or float64."""

    def __init__(self) -> None:
        command = compiler()
        if command is None:
            raise RuntimeError("there is no C++ compiler")
        library = _library(command)
        if not library.is_file():
            try:
                _build(command, library)
            except OSError as error:
                reason = error.strerror
                logger.warning("the kernel is not kept for the next time: %s (%s)", library.parent, reason)
                self._folder = tempfile.TemporaryDirectory(prefix="icobench-")
                library = Path(self._folder.name) / library.name
                _build(command, library)
        self._library = ctypes.CDLL(str(library))

    def plan(self, body: BodyTensors, rotation: Tensor) -> Plan:
        """As :func:`~icobench.simulator.overlay.plan`; tables are not filled beyond the live segments."""
        if len(body.normals) > MOST_FACETS:
            return plan(body, rotation)
        width = 4 * len(body.edges)
        while True:
            tables = empty_plan(len(rotation), width, rotation.device)
            kept = [table.contiguous() for table in (*body, rotation)]  # alive until the call returns
            self._library.plan(
                *map(ctypes.c_int64, (len(rotation), width, len(body.normals), len(body.edges))),
                *map(_pointer, (*kept, *tables)),
            )
            widest = int(tables.live.max())
            if widest <= width:
                return tables.narrowed(widest)
            width = widest

    def terms(self, *geometry: Any) -> Terms:
        """As :func:`~icobench.simulator.terms.segment_terms`; nothing beyond the live segments."""
        return self.term_slopes(*geometry, parameters=0)[0]

    def term_slopes(
        self,
        body: BodyTensors,
        rotation: Tensor,
        where: Plan,
        radius: Tensor,
        kappa: Tensor,
        dtype: torch.dtype,
        *,
        parameters: int = PARAMETERS,
    ) -> tuple[Any, ...]:
        """As :func:`~icobench.simulator.terms.term_slopes`; nothing beyond the live segments."""
        batch, segments = where.edge.shape
        terms, *slopes = tables = empty_terms(where.live, segments, radius, parameters)
        # alive until the call returns
        kept = [table.contiguous() for table in (*body, rotation, *where, radius, kappa)]
        results = [_pointer(table) for table in (terms.forms, terms.numbers, *slopes)]
        bounds = STEEPEST[dtype], SMALLEST_HALF_DAMPING[SLOPES_FLOOR if parameters else dtype]
        sizes = batch, segments, len(body.normals), len(body.edges)
        self._library.segment_terms(
            *map(ctypes.c_int64, sizes), *map(_pointer, kept), *map(ctypes.c_double, bounds),
            *results, *(() if slopes else (None, None)),
        )  # fmt: skip
        return tables

    def edge_sum(self, *tables: Tensor) -> Tensor:
        """As :func:`~icobench.simulator.edge_sum.edge_sum`."""
        return self._run("edge_sum", 2, (), tables)

    def edge_sum_jacobian(self, *tables: Tensor) -> Tensor:
        """As :func:`~icobench.simulator.edge_sum.edge_sum_jacobian`, for up to eight parameters."""
        parameters = tables[5].shape[1]
        return self._run("edge_sum_jacobian", 2 * (1 + parameters), (parameters,), tables)

    def _run(self, name: str, rows: int, sizes: tuple[int, ...], tables: tuple[Tensor, ...]) -> Tensor:
        """Divide the blocks of all items evenly among threads; ctypes releases Python's lock."""
        _, numbers, live, waves = tables[:4]
        (batch, segments), nodes = numbers.shape[:2], waves.shape[1]
        out = numbers.new_empty(rows, batch, nodes)
        tasks = batch * -(-nodes // LANES[out.dtype])
        threads = min(torch.get_num_threads(), int(live.sum()) * nodes // SHARED_TERMS)
        self._share(name, tasks, threads, (batch, segments, nodes, *sizes), (*tables, out))
        return out

    def fill_pixels(self, skeleton: Skeleton, values: Tensor, fields: Tensor, bodies: Tensor | slice) -> None:
        """As :func:`~icobench.simulator.skeleton.fill_pixels`."""
        (parts, batch, nodes), (rows, across, common) = values.shape, skeleton.level.shape
        _, total, of_body, pixels, _ = fields.shape
        index = torch.arange(total)[bodies]
        field, part = torch.arange(of_body)[:, None, None], torch.arange(2)[:, None]
        places = ((part * total + index) * of_body + field) * pixels**2
        tiles = -(-parts * batch // FIELDS_AT_ONCE)
        operations = parts * batch * (rows * across * common + skeleton.rows.numel() * common)
        operations += parts * batch * skeleton.columns.numel()
        threads = min(torch.get_num_threads(), operations // SHARED_PRODUCTS)
        # Few fields are divided by lines, which repeats the first of three products.
        lines = threads if threads > 1 and tiles < 4 * threads else 1
        sizes = lines, parts * batch, nodes, rows, across, common, pixels, not len(skeleton.rows)
        tables = values, skeleton.starts, skeleton.level, skeleton.rows, skeleton.columns, places, fields
        self._share("to_pixels", tiles * lines, threads, sizes, tables)

    def _share(
        self, name: str, tasks: int, threads: int, sizes: tuple[int, ...], tables: tuple[Tensor, ...]
    ) -> None:
        """Divide tasks evenly among threads; ctypes releases Python's lock. The last table is the result."""
        function = getattr(self._library, f"{name}_{SUFFIX[tables[-1].dtype]}")
        threads = max(1, min(threads, tasks))
        kept = [table.contiguous() for table in tables]  # alive until the calls return
        arguments = [*map(ctypes.c_int64, sizes), *map(_pointer, kept)]

        def share(part: int) -> None:
            ends = tasks * part // threads, tasks * (part + 1) // threads
            function(*map(ctypes.c_int64, ends), *arguments)

        others = [_threads(os.getpid()).submit(share, part) for part in range(1, threads)]
        share(0)
        for other in others:
            other.result()


class Kernels(NamedTuple):
    """Plan, terms of the edge sum, with slopes, the sum, its Jacobian, from nodes to pixels, and rotations.

    Kernels that are ``fused`` need no intermediate arrays. The sums of kernels that are ``padded`` are given
    a whole skeleton for its wave vectors, and their results fill up its rows of nodes.
    """

    plan: Callable[..., Any]
    terms: Callable[..., Terms]
    term_slopes: Callable[..., tuple[Any, ...]]
    edge_sum: Callable[..., Tensor]
    edge_sum_jacobian: Callable[..., Tensor]
    fill_pixels: Callable[..., None] = fill_pixels
    rotation: Callable[[Tensor], Tensor] = quaternion_to_matrix
    fused: bool = False
    padded: bool = False


EAGER = Kernels(plan, segment_terms, term_slopes, edge_sum, edge_sum_jacobian)


def kernels_of(kernel: NativeKernel | CudaKernel) -> Kernels:
    """Those of a compiled program."""
    return Kernels(
        kernel.plan, kernel.terms, kernel.term_slopes, kernel.edge_sum, kernel.edge_sum_jacobian,
        kernel.fill_pixels, kernel.rotation if isinstance(kernel, CudaKernel) else quaternion_to_matrix,
        fused=True, padded=isinstance(kernel, CudaKernel),
    )  # fmt: skip


class _State:
    requested = 0
    compiled: ClassVar[dict[torch.device, Kernels]] = {}


def kernels(device: torch.device, images: int) -> Kernels:
    """The fastest kernels that are worth compiling for a caller that is about to simulate so many images."""
    _State.requested += images
    setting, on_cpu = os.environ.get("ICOBENCH_COMPILE", "auto"), device.type == "cpu"
    if setting == "0" or device.type not in WORTH_COMPILING:
        return EAGER
    if device not in _State.compiled:
        enough = _State.requested >= WORTH_COMPILING[device.type]
        if not (enough or setting == "1" or (on_cpu and _built())):
            return EAGER
        _State.compiled[device] = _make(device)
    return _State.compiled[device]


def _make(device: torch.device) -> Kernels:
    start = time.perf_counter()
    try:
        kernel = NativeKernel() if device.type == "cpu" else CudaKernel(device, SOURCES)
    except Exception as error:  # A broken tool chain must not stop the work.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        logger.warning("the simulator runs uncompiled, about 8 times slower: %s", reason)
        return EAGER
    logger.info("the simulator's compiled kernel is ready (%.1f s)", time.perf_counter() - start)
    return kernels_of(kernel)


def prepare_kernel(device: torch.device) -> None:
    """Compile now, because many images will be simulated; does nothing where compiling is not possible."""
    kernels(device, WORTH_COMPILING.get(device.type, 0))
