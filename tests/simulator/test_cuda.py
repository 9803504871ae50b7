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
from icobench.simulator import compiled, cuda, exact
from icobench.simulator.cuda import PLAN_THREADS, CudaKernel, compile_for_gpu
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

GPU_WORDS = """
#define __global__
#define __shared__ static
struct Index { unsigned x, y, z; };
extern "C" { thread_local Index blockIdx, threadIdx, blockDim; void (*cuda_meet)(); }
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
#define ENTRY(name) \
    extern "C" void call_##name( \
        unsigned x, unsigned y, unsigned z, unsigned threads, unsigned first, unsigned stop, void** given \
    ) { \
        blockIdx = {x, y, z}; blockDim = {threads, 1, 1}; \
        for (threadIdx.x = first; threadIdx.x < stop; ++threadIdx.x) call(name, given); \
    }
ENTRY(rotation_kernel) ENTRY(plan_kernel) ENTRY(products_float_kernel) ENTRY(products_double_kernel)
ENTRY(segment_terms_kernel) ENTRY(term_slopes_kernel)
ENTRY(edge_sum_float_kernel) ENTRY(edge_sum_double_kernel)
ENTRY(edge_sum_jacobian_float_kernel) ENTRY(edge_sum_jacobian_double_kernel)
"""
"""Some threads of a block, which are given the address of every argument, as by the driver."""

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
        assert (*others, stream.value, extra) == (1, 1, 0, STREAM, None)
        name = self.names[function.value or 0]
        self.launches.append(name)
        kernel, number = self.library[f"call_{name}"], threads if name == "plan_kernel" else 1
        parts = [(threads * part // number, threads * (part + 1) // number) for part in range(number)]
        with ThreadPoolExecutor(number) as pool:
            for block in product(range(x), range(y), range(z)):
                calls = [pool.submit(kernel, *block, threads, *part, arguments) for part in parts]
                assert [call.result() for call in calls]
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


@pytest.mark.parametrize(
    ("bodies", "sizes"),
    [
        # Two sizes in one batch, out of order; node rows are filled up with zeros; one launch a size and sum.
        ((33.0, 12.0, 34.0), 2),
        ((12.0, 33.0, 34.0), 2),
        ((34.0,), 1),
    ],
)
@pytest.mark.parametrize("segments", [4, 2])  # the second are fewer than there are
def test_the_same_field_and_derivatives(kernel, monkeypatch, generator, bodies, sizes, segments):
    monkeypatch.setattr(cuda, "SEGMENTS_OF_AN_EDGE", segments)
    simulator = Simulator(Experiment(pixels=32, refractive_index=0.89 + 0.0859j))
    radius, quaternion = torch.tensor(bodies), random_orientations(len(bodies), generator)
    also = ("refractive_index", "centre")
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    expected = simulator.field(radius, quaternion), *simulator.intensity_jacobian(radius, quaternion, also)
    program = compiled.kernels_of(kernel)
    monkeypatch.setattr(exact, "kernels", lambda *_: program)
    kernel.driver.launches.clear()
    field = simulator.field(radius, quaternion)
    for_all, for_a_size = ["rotation", "plan", "segment_terms"], ["edge_sum_float", *3 * ["products_float"]]
    assert kernel.driver.launches == [f"{name}_kernel" for name in for_all + sizes * for_a_size]
    found = field, *simulator.intensity_jacobian(radius, quaternion, also)
    for got, wanted, tolerance in zip(found, expected, (5e-6, 5e-6, 1e-3), strict=True):
        error = (got - wanted).flatten(-2).abs().square().sum(-1) / wanted.flatten(-2).abs().square().sum(-1)
        assert float(error.max().sqrt()) < tolerance


def test_without_nvrtc():
    with pytest.raises(RuntimeError, match="NVRTC"):
        compile_for_gpu("", "sm_90", ["/nonexistent/libnvrtc.so"])
