"""When the edge sum is compiled, that it then gives the same, and that a broken tool chain stops no work."""

import concurrent.futures
import subprocess
import sys

import pytest
import torch

from icobench.geometry.convex import icosahedron
from icobench.geometry.orientation import random_orientations
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.geometry.shapes import shape
from icobench.simulator import compiled
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.overlay import Plan, body_tensors, plan
from icobench.simulator.simulator import Simulator
from icobench.simulator.skeleton import build_skeleton, fill_pixels
from icobench.simulator.terms import segment_terms, term_slopes

CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(compiled.compiler() is None, reason="no C++ compiler")


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Counters as in a new process and an empty cache."""
    monkeypatch.setattr(compiled._State, "requested", 0)
    monkeypatch.setattr(compiled._State, "compiled", {})
    monkeypatch.setenv("ICOBENCH_CACHE", str(tmp_path))
    return tmp_path


def test_never(fresh, monkeypatch):
    monkeypatch.setenv("ICOBENCH_COMPILE", "0")
    assert compiled.kernels(CPU, 10**6) is compiled.EAGER
    assert not list(fresh.iterdir())


@needs_compiler
def test_at_once(fresh, monkeypatch):
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    kernels = compiled.kernels(CPU, 1)
    assert kernels.fused
    assert compiled.kernels(CPU, 1) is kernels
    assert [path.suffix for path in (fresh / "icobench").iterdir()] == [".so"]  # nothing half-made stays


@needs_compiler
def test_only_after_enough_images_unless_cached(fresh, monkeypatch, caplog):
    monkeypatch.delenv("ICOBENCH_COMPILE")
    caplog.set_level("INFO")
    assert compiled.kernels(CPU, compiled.WORTH_COMPILING["cpu"] - 1) is compiled.EAGER
    assert compiled.kernels(CPU, 1).fused
    assert len(caplog.records) == 1  # the notice is one line
    monkeypatch.setattr(compiled._State, "requested", 0)
    monkeypatch.setattr(compiled._State, "compiled", {})
    assert compiled.kernels(CPU, 1).fused


@pytest.mark.parametrize("command", ["/nonexistent/c++", "false"], ids=["missing", "fails"])
def test_failure_falls_back_to_eager(fresh, monkeypatch, caplog, command):
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    monkeypatch.setenv("CXX", command)
    assert compiled.kernels(CPU, 1) is compiled.EAGER
    assert compiled.kernels(CPU, 1) is compiled.EAGER
    assert "uncompiled" in caplog.text
    assert len(caplog.records) == 1  # tried once, said once


@needs_compiler
def test_a_cache_that_cannot_be_written(fresh, monkeypatch, caplog):
    """The kernel is made for this process alone, and that is said."""
    (fresh / "file").write_text("")
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    monkeypatch.setenv("ICOBENCH_CACHE", str(fresh / "file"))
    assert compiled.kernels(CPU, 1).fused
    assert caplog.text.count("the kernel is not kept for the next time") == 1


@pytest.fixture
def through_kernel(monkeypatch):
    """A simulator that uses the native kernel."""
    monkeypatch.setattr(compiled._State, "compiled", {})
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")
    simulator = Simulator(Experiment(pixels=64, refractive_index=0.89 + 0.0859j))
    assert compiled.kernels(CPU, 1).fused
    return simulator


@needs_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_kernel_gives_the_same_field_and_derivatives(through_kernel, monkeypatch, generator, threads):
    """One body alone in its bucket, ragged numbers of segments, blocks that do not fill sixteen lanes."""
    radius, quaternion = torch.tensor([40.0, 41.0, 70.0, 5.0]), random_orientations(4, generator)
    monkeypatch.setattr(compiled, "SHARED_TERMS", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        field = through_kernel.field(radius, quaternion)
        intensity, slopes = through_kernel.intensity_jacobian(radius, quaternion)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setenv("ICOBENCH_COMPILE", "0")
    eager = through_kernel.field(radius, quaternion)
    eager_intensity, eager_slopes = through_kernel.intensity_jacobian(radius, quaternion)

    def relative(found, expected):
        scale = expected.flatten(-2).abs().square().sum(-1)
        return float(((found - expected).flatten(-2).abs().square().sum(-1) / scale).max().sqrt())

    assert relative(field, eager) < 5e-6
    assert relative(intensity, eager_intensity) < 5e-6
    assert relative(slopes, eager_slopes) < 1e-3


@needs_compiler
@pytest.mark.parametrize("kappa", [(0.0, 0.04), (-0.05, 0.04), (0.0, 0.0)], ids=["gain", "both", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernel_gives_the_same_terms_and_slopes(generator, kappa, dtype):
    """The C++ of terms.cpp against the tensor functions and their forward-mode derivatives."""
    body = body_tensors(icosahedron())
    rotation = quaternion_to_matrix(random_orientations(20, generator))
    radius = torch.linspace(5, 160, 20, dtype=torch.float64)
    where = plan(body, rotation)
    arguments = body, rotation, where, radius, torch.tensor(kappa, dtype=torch.float64), dtype
    kernel = compiled.NativeKernel()
    found, *found_slopes = kernel.term_slopes(*arguments)
    expected, *expected_slopes = term_slopes(*arguments)
    live = torch.arange(where.edge.shape[1]) < where.live[:, None]
    for got, wanted in ((found, expected), (kernel.terms(*arguments), segment_terms(*arguments))):
        torch.testing.assert_close(got.forms[live], wanted.forms[live], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(got.numbers[live], wanted.numbers[live], rtol=1e-7, atol=1e-9)
    for got, wanted in zip(found_slopes, expected_slopes, strict=True):
        got, wanted = got.transpose(1, 2)[live], wanted.transpose(1, 2)[live]
        scale = wanted.flatten(1).abs().amax(1).clamp_min(1).view(-1, *[1] * (wanted.ndim - 1))
        torch.testing.assert_close(got / scale, wanted / scale, rtol=1e-6, atol=1e-9)


@needs_compiler
@pytest.mark.parametrize("name", ["icosahedron", "cube", "truncated-octahedron"])
def test_kernel_gives_the_same_plan(generator, name):
    """The C++ of overlay.cpp against the functions on tensors."""
    body = body_tensors(icosahedron() if name == "icosahedron" else shape(name))
    rotation = quaternion_to_matrix(random_orientations(60, generator))
    expected, found = plan(body, rotation), compiled.NativeKernel().plan(body, rotation)
    assert torch.equal(found.live, expected.live)
    live = torch.arange(expected.edge.shape[1]) < expected.live[:, None]
    assert (found.sign[live] != 0).all()
    # Neither the facet across an uncut edge nor what crosses its ends is used.
    cut = live[..., None] & ~expected.uncut
    across = live & ~(expected.on_entrance & expected.on_exit)
    masks = dict.fromkeys(Plan._fields[:-1], live) | dict.fromkeys(("carrier", "crossed", "pair"), cut)
    for field, mask in (masks | {"across": across}).items():
        assert torch.equal(getattr(found, field)[mask], getattr(expected, field)[mask]), field


@needs_compiler
def test_kernel_is_independent_of_the_batch_bit_for_bit(through_kernel, generator):
    radius = torch.cat((torch.full((9,), 41.0), torch.tensor([40.0, 75.0, 160.0])))
    quaternion = random_orientations(12, generator)
    together = through_kernel.field(radius, quaternion)
    for i in (0, 8, 9, 11):
        assert torch.equal(together[i], through_kernel.field(radius[i : i + 1], quaternion[i : i + 1])[0])


@needs_compiler
def test_kernel_in_several_callers_at_once(through_kernel, generator):
    radius, quaternion = torch.full((4,), 60.0), random_orientations(4, generator)
    expected = through_kernel.field(radius, quaternion)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(through_kernel.field, radius, quaternion) for _ in range(6)]
        assert all(torch.equal(job.result(), expected) for job in jobs)


@needs_compiler
def test_kernel_survives_a_fork():
    """Threads do not: a child process must make its own."""
    code = """
import os, torch
from icobench.simulator import compiled
from icobench.simulator.simulator import Simulator
compiled.SHARED_TERMS = 1
torch.set_num_threads(2)
body = torch.tensor([60.0]), torch.tensor([[1.0, 0.2, 0.1, 0.3]])
simulator = Simulator()
simulator.field(*body)
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    compiled.torch.get_num_threads = lambda: 2
    kernel = compiled.NativeKernel()
    out = kernel.edge_sum(torch.rand(1, 64, 4, 4).double(), torch.rand(1, 64, 13) + 0.1,
                          torch.tensor([64]), torch.rand(4, 999).double(), torch.rand(2).double())
    os._exit(0 if out.isfinite().all() else 1)
raise SystemExit(os.waitpid(child, 0)[1])
"""
    environment = {**__import__("os").environ, "ICOBENCH_COMPILE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


def test_a_child_of_a_process_with_several_threads_does_not_wait_for_ever():
    """The threads of torch do not survive a fork."""
    code = """
import os, torch
from icobench.simulator.simulator import Simulator
torch.set_num_threads(2)
body = torch.full((16,), 60.0), torch.tensor([[1.0, 0.2, 0.1, 0.3]]).expand(16, 4)
Simulator().intensity(*body)
child = os.fork()
if child == 0:
    os._exit(0 if Simulator().intensity(*body).isfinite().all() else 1)
raise SystemExit(os.waitpid(child, 0)[1])
"""
    environment = {**__import__("os").environ, "ICOBENCH_COMPILE": "0"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)


@needs_compiler
@pytest.mark.parametrize(
    ("experiment", "dtype", "threads"),
    [
        (Experiment(), torch.float32, 1),
        (Experiment(pixels=50, sin_theta_max=0.3), torch.float32, 2),  # fewer nodes than lanes
        (Experiment(detector=FlatDetector(100.0, 1.2), pixels=100), torch.float32, 3),
        (Experiment(pixels=64), torch.float64, 3),
        (Experiment(detector=FlatDetector(100.0, 1.2), pixels=64), torch.float64, 1),
    ],
    ids=str,
)
def test_kernel_carries_nodes_to_the_same_pixels(experiment, dtype, threads, generator, monkeypatch):
    """The C++ of pixels.cpp against the tensor function, and the same digits for any number of bodies."""
    monkeypatch.setattr(compiled, "SHARED_PRODUCTS", 1)
    kernel, pixels, before = compiled.NativeKernel(), experiment.pixels, torch.get_num_threads()
    for radius, bodies in ((12.0, 1), (60.0, 7)):
        skeleton = build_skeleton(experiment, radius, dtype)
        nodes = skeleton.waves.shape[1]
        values = torch.randn(4, bodies, nodes, generator=generator, dtype=dtype)
        where = torch.randperm(bodies + 1, generator=generator)[:bodies]
        expected = torch.zeros(2, bodies + 1, 2, pixels, pixels, dtype=dtype)
        found = expected.clone()
        fill_pixels(skeleton, values, expected, where)
        torch.set_num_threads(threads)
        try:
            kernel.fill_pixels(skeleton, values, found, where)
        finally:
            torch.set_num_threads(before)
        torch.testing.assert_close(found, expected, rtol=0, atol=float(expected.abs().max()) * 1e-6)
        alone = expected.new_empty(2, 1, 2, pixels, pixels)
        kernel.fill_pixels(skeleton, values[:, -1:], alone, slice(None))
        assert torch.equal(alone[:, 0], found[:, where[-1]])
