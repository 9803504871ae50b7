"""The compiled kernels of the edge sum on NVIDIA GPUs.

The same C++ as on a CPU, with the entries of cuda.cu, is compiled by NVRTC, which comes with torch, and
launched through the driver's library; CUDA's compiler and headers are not needed. Seven kernels do what takes
hundreds of operations on tensors, so that the processor that launches them does not limit the speed.
"""

import ctypes
import hashlib
import os
import struct
import threading
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from icobench.cache import cache_folder
from icobench.simulator.overlay import MOST_FACETS, STEEPEST, BodyTensors, Plan, plan
from icobench.simulator.skeleton import Skeleton, fill_pixels
from icobench.simulator.terms import (
    PARAMETERS,
    SLOPES_FLOOR,
    SMALLEST_HALF_DAMPING,
    Terms,
    empty_terms,
)

__all__ = ["CudaKernel", "compile_for_gpu", "nvrtc_libraries"]

THREADS, PLAN_THREADS = 128, 64
"""In a block; the second as cuda.cu says."""

SUFFIX = {torch.float32: "float", torch.float64: "double"}

MOST_ARGUMENTS = 40
"""Of a kernel."""

FEW_FIELDS = 32
"""Real fields that a kernel carries from nodes to pixels faster than a library's matrix products."""

SEGMENTS_OF_AN_EDGE = 4
"""Enough for every body that was met; of four, all tables of a plan begin at multiples of eight bytes."""

PLAN_BYTES = (8, 32, 8, 2, 16, 16, 32, 1, 1, 8, 16)
"""Of a segment, in every table of a :class:`~icobench.simulator.overlay.Plan` but ``live``."""


class _Plan(NamedTuple):
    """A plan on the GPU, as kernels read it.

    Attributes:
        segments: that its tables hold.
        tables: their addresses, in the order of :class:`~icobench.simulator.overlay.Plan`.
        live: (B,) number of segments.
        kept: what holds the memory.
    """

    segments: int
    tables: list[int]
    live: Tensor
    kept: Any


class _Arguments(threading.local):
    """Room for the arguments of a launch, in each thread: the driver has copied them when the call returns.

    All arguments take eight bytes; the driver is given the address of each.
    """

    def __init__(self) -> None:
        self.values = ctypes.create_string_buffer(8 * MOST_ARGUMENTS)
        first = ctypes.addressof(self.values)
        self.addresses = (ctypes.c_void_p * MOST_ARGUMENTS)(*range(first, first + 8 * MOST_ARGUMENTS, 8))


def _addresses(tables: Iterable[Tensor]) -> list[int]:
    return [table.data_ptr() for table in tables]


def _body(body: BodyTensors) -> list[int]:
    """As kernels take it: number of facets and of edges, and the tables."""
    return [body.normals.shape[0], body.edges.shape[0], *_addresses(body)]


def nvrtc_libraries() -> list[str]:
    """Where NVRTC may be: torch has loaded it, or it lies beside torch, or the system knows it."""
    major = (torch.version.cuda or "").partition(".")[0]
    name = f"libnvrtc.so.{major}"
    packages = Path(torch.__file__).parents[1]
    beside = [*packages.glob(f"nvidia/*/lib/{name}"), *packages.glob(f"torch/lib/{name}")]
    return [*map(str, beside), name]


def compile_for_gpu(source: str, architecture: str, libraries: list[str]) -> bytes:
    """Machine code ("cubin") for an architecture such as "sm_90".

    Raises:
        RuntimeError: there is no NVRTC, or it refuses the source; its first line says why.
    """
    for library in libraries:
        try:
            nvrtc = ctypes.CDLL(library)
            break
        except OSError:
            continue
    else:
        raise RuntimeError("NVRTC, which comes with torch for CUDA, was not found")
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = [f"--gpu-architecture={architecture}", "--std=c++17", "--device-as-default-execution-space"]
    texts = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"icobench.cu", 0, None, None)
    status = status or nvrtc.nvrtcCompileProgram(program, len(options), texts)
    if status:
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        lines = [line for line in log.value.decode().splitlines() if "error" in line]
        raise RuntimeError((lines or [f"NVRTC failed with status {status}"])[0])
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetCUBIN(program, code)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code.raw


class CudaKernel:
    """The edge sum, its Jacobian and what they need, on one GPU; float32 or float64.

    Args:
        device: the GPU.
        sources: the files in C++, in order.

    Raises:
        RuntimeError: no NVRTC, or it or the driver refuses.
    """

    def __init__(self, device: torch.device, sources: tuple[Path, ...]) -> None:
        files = [*sources, Path(__file__).with_name("cuda.cu")]
        source = "".join(file.read_text() for file in files)
        architecture = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
        code = self._code(source, architecture)
        torch.zeros(1, device=device)  # so that there is a context
        context, module, driver = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.CDLL("libcuda.so.1")
        with torch.cuda.device(device):
            _check("cuCtxGetCurrent", driver.cuCtxGetCurrent(ctypes.byref(context)))
            _check("cuModuleLoadData", driver.cuModuleLoadData(ctypes.byref(module), code))
            self._use(driver, context, module, torch.cuda.current_device())

    def _use(self, driver: Any, context: ctypes.c_void_p, module: ctypes.c_void_p, device: int) -> None:
        """Launch by this driver's library."""
        self._driver, self._context, self._module, self._device = driver, context, module, device
        self._set_context, self._start = driver.cuCtxSetCurrent, driver.cuLaunchKernel
        self._kernels: dict[str, tuple[ctypes.c_void_p, struct.Struct]] = {}
        self._arguments = _Arguments()

    @staticmethod
    def _code(source: str, architecture: str) -> bytes:
        key = "\n".join((source, architecture, str(torch.version.cuda)))
        file = cache_folder() / f"kernel-{hashlib.sha256(key.encode()).hexdigest()[:16]}.cubin"
        try:
            return file.read_bytes()
        except OSError:
            code = compile_for_gpu(source, architecture, nvrtc_libraries())
        try:  # A cache that cannot be written costs the next process some seconds.
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_name(f"{file.name}.{os.getpid()}")
            temporary.write_bytes(code)
            os.replace(temporary, file)
        except OSError:
            pass
        return code

    def _launch(self, name: str, blocks: tuple[int, int, int], threads: int, *values: float) -> None:
        """Launch on torch's current stream; tables are passed by address, numbers by value."""
        if name not in self._kernels:
            found = ctypes.c_void_p()
            status = self._driver.cuModuleGetFunction(ctypes.byref(found), self._module, name.encode())
            _check("cuModuleGetFunction", status)
            kinds = ("d" if isinstance(value, float) else "q" for value in values)
            self._kernels[name] = found, struct.Struct("".join(kinds))
        function, packing = self._kernels[name]
        packing.pack_into(self._arguments.values, 0, *values)
        stream = ctypes.c_void_p(torch._C._cuda_getCurrentRawStream(self._device))
        _check("cuCtxSetCurrent", self._set_context(self._context))
        status = self._start(function, *blocks, threads, 1, 1, 0, stream, self._arguments.addresses, None)
        _check("cuLaunchKernel", status)

    def rotation(self, quaternion: Tensor) -> Tensor:
        """As :func:`~icobench.geometry.rotations.quaternion_to_matrix`, of (B, 4) float64."""
        quaternion, batch = quaternion.contiguous(), len(quaternion)
        rotation = quaternion.new_empty(batch, 3, 3)
        addresses = _addresses((quaternion, rotation))
        self._launch("rotation_kernel", (-(-batch // THREADS), 1, 1), THREADS, batch, *addresses)
        return rotation

    def plan(self, body: BodyTensors, rotation: Tensor) -> _Plan:
        """As :func:`~icobench.simulator.overlay.plan`, for kernels; it waits for the GPU.

        All tables lie in one piece of memory; where they are too narrow the plan is made by tensors.
        """
        facets, edges, *_ = shape = _body(body)
        if facets <= MOST_FACETS:
            batch, width = len(rotation), SEGMENTS_OF_AN_EDGE * edges
            *offsets, size = accumulate((batch * width * item for item in PLAN_BYTES), initial=0)
            memory = torch.empty(size // 8 + batch, dtype=torch.long, device=rotation.device)
            first, live = memory.data_ptr(), memory[size // 8 :]
            tables = [first + offset for offset in offsets]
            everything = width, *shape, rotation.data_ptr(), *tables, first + size
            self._launch("plan_kernel", (batch, 1, 1), PLAN_THREADS, *everything)
            if live.cpu().numpy().max() <= width:
                return _Plan(width, tables, live, memory)
        where = Plan._make(table.contiguous() for table in plan(body, rotation))
        return _Plan(where.edge.shape[1], _addresses(where[:-1]), where.live, where)

    def terms(self, *geometry: Any) -> Terms:
        """As :func:`~icobench.simulator.terms.segment_terms`; nothing beyond the live segments."""
        return self.term_slopes(*geometry, parameters=0)[0]

    def term_slopes(
        self,
        body: BodyTensors,
        rotation: Tensor,
        where: _Plan,
        radius: Tensor,
        kappa: Tensor,
        dtype: torch.dtype,
        *,
        parameters: int = PARAMETERS,
    ) -> tuple[Any, ...]:
        """As :func:`~icobench.simulator.terms.term_slopes`; nothing beyond the live segments."""
        terms, *slopes = tables = empty_terms(where.live, where.segments, radius, parameters)
        radius = radius.contiguous()
        bounds = STEEPEST[dtype], SMALLEST_HALF_DAMPING[SLOPES_FLOOR if parameters else dtype]
        blocks = len(radius), -(-where.segments // PLAN_THREADS), 1
        self._launch(
            "term_slopes_kernel" if parameters else "segment_terms_kernel", blocks, PLAN_THREADS,
            where.segments, *_body(body), rotation.data_ptr(),
            *where.tables, *_addresses((where.live, radius, kappa)), *bounds,
            *_addresses((terms.forms, terms.numbers)), *(_addresses(slopes) or (0, 0)),
        )  # fmt: skip
        return tables

    def edge_sum(self, *tables: Any) -> Tensor:
        """As :func:`~icobench.simulator.edge_sum.edge_sum`, but of a whole skeleton: (2, B, N_a N)."""
        return self._run("edge_sum", 2, (), *tables)

    def edge_sum_jacobian(self, *tables: Any) -> Tensor:
        """As :func:`~icobench.simulator.edge_sum.edge_sum_jacobian`, for up to eight parameters."""
        parameters = tables[5].shape[1]
        return self._run("edge_sum_jacobian", 2 * (1 + parameters), (parameters,), *tables)

    def fill_pixels(self, skeleton: Skeleton, values: Tensor, fields: Tensor, bodies: Tensor | slice) -> None:
        """As :func:`~icobench.simulator.skeleton.fill_pixels`.

        Few fields are carried by a kernel: to start a library's matrix products takes the processor longer.
        """
        (parts, batch, nodes), (rows, across, common) = values.shape, skeleton.level.shape
        if parts * batch > FEW_FIELDS or nodes != rows * across or not len(skeleton.rows):
            return fill_pixels(skeleton, values, fields, bodies)
        count, pixels, values = parts * batch, len(skeleton.rows), values.contiguous()
        level, lines = values.new_empty(count, rows, common), values.new_empty(count, pixels, common)
        name = f"products_{SUFFIX[fields.dtype]}_kernel"

        def multiply(matrices: int, sizes: tuple[int, ...], *tables: Tensor | int) -> None:
            values = [table.data_ptr() if isinstance(table, Tensor) else table for table in tables]
            self._launch(name, (matrices, count, -(-sizes[1] // THREADS)), THREADS, *sizes, *values)

        in_level, in_lines = rows * common, pixels * common  # numbers of a field
        multiply(
            rows, (across, common, 1), values, across, nodes, skeleton.level, across * common, 0,
            0, level, in_level, 0, 2 * in_level, common, 1,
        )  # fmt: skip
        multiply(
            pixels, (rows, common, 1), skeleton.rows, rows, 0, level, 0, in_level,
            0, lines, in_lines, 0, 2 * in_lines, common, 1,
        )  # fmt: skip
        places, first = (0, fields[:, bodies]) if isinstance(bodies, slice) else (bodies, fields)
        multiply(
            pixels, (common, pixels, batch), lines, common, in_lines, skeleton.columns, common * pixels, 0,
            places, first, *fields.stride(),
        )  # fmt: skip
        return None

    def _run(
        self, name: str, rows: int, sizes: tuple[int, ...], forms: Tensor, numbers: Tensor, live: Tensor,
        skeleton: Skeleton, kappa: Tensor, *slopes: Tensor,
    ) -> Tensor:  # fmt: skip
        (batch, segments), nodes = numbers.shape[:2], skeleton.waves.shape[1]
        out = numbers.new_empty(rows, batch, skeleton.ragged.numel())
        slopes = tuple(slope.contiguous() for slope in slopes)  # kept until the launch
        tables = forms, numbers, live, skeleton.waves, skeleton.places, kappa, *slopes, out
        self._launch(
            f"{name}_{SUFFIX[out.dtype]}_kernel", (batch, -(-nodes // THREADS), 1), THREADS,
            batch, segments, nodes, *sizes, *_addresses(tables),
        )  # fmt: skip
        return out


def _check(name: str, status: int) -> None:
    if status:
        raise RuntimeError(f"{name} failed with CUDA error {status}")
