"""A GPU gets few and large calls, counted here as operators that a CPU dispatches on the same path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_benchmarks import ROOT

from icobench.images import augment as filters
from icobench.network import orbit, selection
from icobench.network.selection import SHIPPED, load_network, predict
from icobench.sets.simulate import simulate
from icobench.simulator.speed import bodies

LIMIT = 400
"""Of a call with 1,024 photon counts, or of the filters of 256 images."""


@pytest.fixture
def common(monkeypatch):
    """What the benchmarks count with."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import common

    return common


def test_a_network_answers_in_few_launches_however_many_images(common, monkeypatch):
    for room in (selection, orbit):  # a CPU's pieces would show
        monkeypatch.setattr(room, "CHUNK", 1)
    images = simulate(*bodies(4), photons=1e5, hole_degrees=3.0)
    networks = load_network(SHIPPED / "counts.safetensors")

    def launches(count: int) -> int:
        some = images.subset(torch.arange(count))
        with common.as_on_gpu():
            return common.launches(lambda: predict(networks, some))

    assert launches(2) == launches(4) <= LIMIT
    assert min(selection.GPU_CHUNK, orbit.GPU_CHUNK) >= 1024


def test_random_filters_need_few_launches(common):
    images = torch.rand(256, 24, 24, generator=torch.Generator().manual_seed(3))
    with common.as_on_gpu():
        assert common.launches(lambda: filters.augment(images, "random", 5)) <= LIMIT


def test_the_field_and_its_derivatives_need_few_launches(common):
    from benchmarks.bench_simulator import Launches

    bench = Launches()
    bench.setup()
    assert bench.track_launches_field_of_one() <= 20
    assert bench.track_launches_field() <= 120
    assert bench.track_launches_jacobian() <= 300


KERNELS = """
import torch
from icobench.images import philox, philox_kernel
from icobench.network import orbit
device = "cuda" if torch.cuda.is_available() else "cpu"
numbers = torch.tensor([0, 3, 2**31 + 5, 2**40 + 7, -1])
streams = torch.tensor([0, 9, 4096, 7, 2**31 + 3])
for count in (1, 10, 4097):
    for key in ([0xFFFFFFFF, 123456], [5, 0xF0000001]):
        words = philox_kernel.words(numbers.to(device), streams.to(device), key, count).cpu()
        assert torch.equal(words, philox._words(numbers, streams, key, count)), (count, key)
generator = torch.Generator().manual_seed(3)
unit = torch.nn.functional.normalize(torch.randn(4, 13, generator=generator, dtype=torch.float64), dim=1)
places = torch.randint(orbit.CODEBOOK_SIZE, (4, 2), generator=generator)
starts = orbit._codebook(unit.device)[0][places]
ends = orbit._climb_on_gpu(starts.to(device), unit.to(device)).cpu()
assert float((ends - orbit._climb(starts, unit)).abs().max()) < 1e-9
"""


def test_kernels_for_a_gpu_agree_with_the_functions_on_tensors():
    """On a GPU, else in Triton's interpreter, which has to be chosen before Triton is imported."""
    pytest.importorskip("triton", reason="Triton is not installed")
    environment = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    done = subprocess.run(
        [sys.executable, "-c", KERNELS], capture_output=True, text=True, env=environment,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
