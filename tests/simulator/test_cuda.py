"""The kernels for GPUs, on a CPU: cuda.cu as C++, every thread of every block called in turn.

What only a GPU can show is in reports/gpu.py.
"""

import ctypes
import shlex
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest
import torch

from icobench.geometry.orientation import random_orientations
from icobench.simulator import compiled, exact
from icobench.simulator.cuda import PLAN_THREADS, CudaKernel, compile_for_gpu
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

GPU_WORDS = """
#define __global__
#define __shared__ static
struct Index { unsigned x, y, z; };
extern "C" { thread_local Index blockIdx, threadIdx, blockDim; void (*cuda_meet)(); }
extern "C" void cuda_place(unsigned bx, unsigned by, unsigned tx, unsigned threads) {
    blockIdx = {bx, by, 0}; threadIdx = {tx, 0, 0}; blockDim = {threads, 1, 1};
}
#define __syncthreads() cuda_meet()
"""

ENTRIES = """
#include <utility>
template <typename... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}
template <typename... A>
void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>{});
}
#define ENTRY(name) extern "C" void call_##name(void** arguments) { call(name, arguments); }
ENTRY(plan_kernel) ENTRY(segment_terms_kernel) ENTRY(term_slopes_kernel)
ENTRY(edge_sum_float_kernel) ENTRY(edge_sum_double_kernel)
ENTRY(edge_sum_jacobian_float_kernel) ENTRY(edge_sum_jacobian_double_kernel)
"""
"""As the driver calls kernels: given the address of every argument."""

STREAM, CONTEXT = 5, 6


class Driver:
    """The driver's library: launches become calls.

    Only the threads of a plan, which wait for each other, run in threads.
    """

    def __init__(self, folder):
        files = [*compiled.SOURCES, compiled.SOURCES[0].with_name("cuda.cu")]
        source, library = folder / "cuda.cpp", folder / "cuda.so"
        cpp, cuda = "".join(file.read_text() for file in files[:-1]), files[-1].read_text()
        source.write_text(cpp + GPU_WORDS + cuda + ENTRIES)
        command = [*shlex.split(compiled.compiler()), "-std=c++17", "-O1", "-w", "-shared", "-fPIC"]
        subprocess.run([*command, str(source), "-o", str(library)], check=True)
        self.library, self.launches, self.names = ctypes.CDLL(str(library)), [], []
        barrier = threading.Barrier(PLAN_THREADS)
        self.wait = ctypes.CFUNCTYPE(None)(lambda: barrier.wait() and None)
        ctypes.c_void_p.in_dll(self.library, "cuda_meet").value = ctypes.cast(
            self.wait, ctypes.c_void_p
        ).value

    def cuCtxSetCurrent(self, context):  # noqa: N802
        return int(context.value != CONTEXT)

    def cuModuleGetFunction(self, function, module, name):  # noqa: N802
        function._obj.value = len(self.names)
        self.names.append(name.decode())
        return 0

    def cuLaunchKernel(self, function, x, y, z, threads, *rest):  # noqa: N802
        *others, stream, arguments, extra = rest
        assert (z, *others, stream.value, extra) == (1, 1, 1, 0, STREAM, None)
        name = self.names[function.value or 0]
        self.launches.append(name)

        def call(x, y, thread):
            self.library.cuda_place(x, y, thread, threads)
            self.library[f"call_{name}"](arguments)

        with ThreadPoolExecutor(threads if name == "plan_kernel" else 1) as pool:
            for block in product(range(x), range(y)):
                list(pool.map(lambda thread, block=block: call(*block, thread), range(threads)))
        return 0


class CudaOnCpu(CudaKernel):
    """Launches by :class:`Driver`."""

    def __init__(self, folder):
        self.driver = Driver(folder)
        self._use(self.driver, ctypes.c_void_p(CONTEXT), ctypes.c_void_p(), 0)


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    if compiled.compiler() is None:
        pytest.skip("no C++ compiler")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: STREAM, raising=False)
        yield CudaOnCpu(tmp_path_factory.mktemp("cuda"))


def test_the_same_field_and_derivatives(kernel, monkeypatch, generator):
    """Two sizes in one batch, out of order; node rows are filled up with zeros; one launch a size and sum."""
    simulator = Simulator(Experiment(pixels=32, refractive_index=0.89 + 0.0859j))
    radius, quaternion = torch.tensor([33.0, 12.0, 34.0]), random_orientations(3, generator)
    also = ("refractive_index", "centre")
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    expected = simulator.field(radius, quaternion), *simulator.intensity_jacobian(radius, quaternion, also)
    functions = kernel.plan, kernel.terms, kernel.term_slopes, kernel.edge_sum, kernel.edge_sum_jacobian
    program = compiled.Kernels(*functions, fused=True, padded=True)
    monkeypatch.setattr(exact, "kernels", lambda *_: program)
    kernel.driver.launches.clear()
    field = simulator.field(radius, quaternion)
    assert kernel.driver.launches == ["plan_kernel", "segment_terms_kernel"] + 2 * ["edge_sum_float_kernel"]
    found = field, *simulator.intensity_jacobian(radius, quaternion, also)
    for got, wanted, tolerance in zip(found, expected, (5e-6, 5e-6, 1e-3), strict=True):
        error = (got - wanted).flatten(-2).abs().square().sum(-1) / wanted.flatten(-2).abs().square().sum(-1)
        assert float(error.max().sqrt()) < tolerance


def test_without_nvrtc():
    with pytest.raises(RuntimeError, match="NVRTC"):
        compile_for_gpu("", "sm_90", ["/nonexistent/libnvrtc.so"])
