"""The compiled kernels of the edge sum on NVIDIA GPUs.

The same C++ as on a CPU, with the entries of cuda.cu, is compiled by NVRTC, which comes with torch, and
launched through the driver's library; CUDA's compiler and headers are not needed. Five kernels do what takes
hundreds of operations on tensors, so that the processor that launches them does not limit the speed.
"""

import ctypes
import hashlib
import os
import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from icobench.cache import cache_folder
from icobench.simulator.overlay import MOST_FACETS, STEEPEST, BodyTensors, Plan, empty_plan, plan
from icobench.simulator.skeleton import Skeleton
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
        self._device, self._driver = device, ctypes.CDLL("libcuda.so.1")
        torch.zeros(1, device=device)  # so that there is a context
        self._context, self._module = ctypes.c_void_p(), ctypes.c_void_p()
        with torch.cuda.device(device):
            self._call("cuCtxGetCurrent", ctypes.byref(self._context))
            self._call("cuModuleLoadData", ctypes.byref(self._module), code)
        self._functions: dict[str, ctypes.c_void_p] = {}

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

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._driver, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} failed with CUDA error {status}")

    def _launch(self, name: str, blocks: tuple[int, int], threads: int, *arguments: Any) -> None:
        """Launch on torch's current stream; tensors are passed by address, numbers by value."""
        if name not in self._functions:
            function = ctypes.c_void_p()
            self._call("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
            self._functions[name] = function
        # All arguments take eight bytes: the driver is given the address of each.
        values = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
        kinds = "".join("d" if isinstance(value, float) else "q" for value in values)
        packed = ctypes.create_string_buffer(struct.pack(kinds, *values), 8 * len(values))
        first = ctypes.addressof(packed)
        pointers = (ctypes.c_void_p * len(values))(*range(first, first + 8 * len(values), 8))
        stream = ctypes.c_void_p(torch.cuda.current_stream(self._device).cuda_stream)
        self._call("cuCtxSetCurrent", self._context)
        self._call(
            "cuLaunchKernel", self._functions[name], *blocks, 1, threads, 1, 1, 0, stream, pointers, None
        )

    def plan(self, body: BodyTensors, rotation: Tensor) -> Plan:
        """As :func:`~icobench.simulator.overlay.plan`; tables are not filled beyond the live segments.

        The tables are wide enough for every body that was met; whoever reads ``live`` must check that
        (:meth:`~icobench.simulator.exact.ExactField`), since here that would wait for the GPU.
        """
        if len(body.normals) > MOST_FACETS:
            return plan(body, rotation)
        width = 4 * len(body.edges)
        tables = empty_plan(len(rotation), width, rotation.device)
        sizes = width, len(body.normals), len(body.edges)
        self._launch("plan_kernel", (len(rotation), 1), PLAN_THREADS, *sizes, *body, rotation, *tables)
        return tables

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
    ) -> tuple[Terms, Tensor, Tensor]:
        """As :func:`~icobench.simulator.terms.term_slopes`; nothing beyond the live segments."""
        terms, *slopes = tables = empty_terms(where, radius, parameters)
        batch, segments = where.edge.shape
        bounds = STEEPEST[dtype], SMALLEST_HALF_DAMPING[SLOPES_FLOOR if parameters else dtype]
        sizes = segments, len(body.normals), len(body.edges)
        name = "term_slopes_kernel" if parameters else "segment_terms_kernel"
        self._launch(
            name, (batch, -(-segments // PLAN_THREADS)), PLAN_THREADS, *sizes, *body, rotation, *where,
            radius, kappa, *bounds, terms.forms, terms.numbers, *slopes,
        )  # fmt: skip
        return tables

    def edge_sum(self, *tables: Any) -> Tensor:
        """As :func:`~icobench.simulator.edge_sum.edge_sum`, but of a whole skeleton: (2, B, N_a N)."""
        return self._run("edge_sum", 2, (), *tables)

    def edge_sum_jacobian(self, *tables: Any) -> Tensor:
        """As :func:`~icobench.simulator.edge_sum.edge_sum_jacobian`, for up to eight parameters."""
        parameters = tables[5].shape[1]
        return self._run("edge_sum_jacobian", 2 * (1 + parameters), (parameters,), *tables)

    def _run(
        self, name: str, rows: int, sizes: tuple[int, ...], forms: Tensor, numbers: Tensor, live: Tensor,
        skeleton: Skeleton, kappa: Tensor, *slopes: Tensor,
    ) -> Tensor:  # fmt: skip
        (batch, segments), nodes = numbers.shape[:2], skeleton.waves.shape[1]
        out = numbers.new_empty(rows, batch, skeleton.ragged.numel())
        slopes = tuple(slope.contiguous() for slope in slopes)  # kept until the launch
        self._launch(
            f"{name}_{SUFFIX[out.dtype]}_kernel", (batch, -(-nodes // THREADS)), THREADS,
            batch, segments, nodes, *sizes, forms, numbers, live, skeleton.waves, skeleton.places, kappa,
            *slopes, out,
        )  # fmt: skip
        return out
