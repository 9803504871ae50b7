"""The kernels for GPUs, on a CPU: cuda.cu as C++, every thread of every block called in turn.

What only a GPU can show is in reports/gpu.py.
"""

import ctypes
import shlex
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

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


class CudaOnCpu(CudaKernel):
    """Launches become calls; only plans, whose threads wait for each other, run in threads."""

    def __init__(self, folder):
        files = [*compiled.SOURCES, compiled.SOURCES[0].with_name("cuda.cu")]
        source, library = folder / "cuda.cpp", folder / "cuda.so"
        cpp, cuda = "".join(file.read_text() for file in files[:-1]), files[-1].read_text()
        source.write_text(cpp + GPU_WORDS + cuda)
        command = [*shlex.split(compiled.compiler()), "-std=c++17", "-O1", "-w", "-shared", "-fPIC"]
        subprocess.run([*command, str(source), "-o", str(library)], check=True)
        self.library, self.launches = ctypes.CDLL(str(library)), []
        barrier = threading.Barrier(PLAN_THREADS)
        self.wait = ctypes.CFUNCTYPE(None)(lambda: barrier.wait() and None)
        ctypes.c_void_p.in_dll(self.library, "cuda_meet").value = ctypes.cast(
            self.wait, ctypes.c_void_p
        ).value

    def _launch(self, name, blocks, threads, *arguments):
        self.launches.append(name)
        values = []
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                values.append(ctypes.c_void_p(argument.data_ptr()))
            else:
                values.append((ctypes.c_int64 if isinstance(argument, int) else ctypes.c_double)(argument))

        def call(x, y, thread):
            self.library.cuda_place(x, y, thread, threads)
            getattr(self.library, name)(*values)

        with ThreadPoolExecutor(threads if name == "plan_kernel" else 1) as pool:
            for x in range(blocks[0]):
                for y in range(blocks[1]):
                    list(pool.map(lambda thread, x=x, y=y: call(x, y, thread), range(threads)))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    if compiled.compiler() is None:
        pytest.skip("no C++ compiler")
    return CudaOnCpu(tmp_path_factory.mktemp("cuda"))


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
    kernel.launches.clear()
    field = simulator.field(radius, quaternion)
    assert kernel.launches == ["plan_kernel", "segment_terms_kernel"] + 2 * ["edge_sum_float_kernel"]
    found = field, *simulator.intensity_jacobian(radius, quaternion, also)
    for got, wanted, tolerance in zip(found, expected, (5e-6, 5e-6, 1e-3), strict=True):
        error = (got - wanted).flatten(-2).abs().square().sum(-1) / wanted.flatten(-2).abs().square().sum(-1)
        assert float(error.max().sqrt()) < tolerance


def test_without_nvrtc():
    with pytest.raises(RuntimeError, match="NVRTC"):
        compile_for_gpu("", "sm_90", ["/nonexistent/libnvrtc.so"])
