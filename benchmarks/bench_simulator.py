"""Speed and memory of the simulators."""

import ctypes
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.common import (
    DEVICES,
    KERNELS,
    REPEAT,
    REPEAT_SLOW,
    as_on_gpu,
    bodies,
    clock,
    count,
    grid,
    launches,
    simulator,
    use_kernel,
    wait,
)
from icobench.geometry.convex import icosahedron
from icobench.simulator import closed_form, exact
from icobench.simulator.cuda import CudaKernel

BATCHES = grid(1, 64)
RADII = grid(40.0, 150.0)


class Exact:
    """Field, and intensity with its four derivatives, by the exact method."""

    params = (DEVICES, KERNELS, BATCHES, RADII)
    param_names = ("device", "kernel", "batch", "radius_nm")
    repeat = REPEAT

    def setup(self, device: str, kernel: str, batch: int, radius: float) -> None:
        self.timer = clock(device)
        use_kernel(kernel, device)
        self.simulator = simulator(device=device)
        self.bodies = bodies(batch, radius, device)

    def time_field(self, device: str, kernel: str, batch: int, radius: float) -> None:
        self.simulator.field(*self.bodies)
        wait(device)

    def time_jacobian(self, device: str, kernel: str, batch: int, radius: float) -> None:
        self.simulator.intensity_jacobian(*self.bodies)
        wait(device)


class Voxels:
    """One image by the slower methods: the paper's on voxels, and split-step propagation."""

    params = (grid("sliced", "propagated"), DEVICES, RADII)
    param_names = ("method", "device", "radius_nm")
    repeat = REPEAT_SLOW
    warmup_time = 0

    def setup(self, method: str, device: str, radius: float) -> None:
        self.timer = clock(device)
        self.simulator = simulator(method, device)
        self.bodies = bodies(1, radius, device)

    def time_field(self, method: str, device: str, radius: float) -> None:
        self.simulator.field(*self.bodies)
        wait(device)


class Oracle:
    """The closed form on every eighth pixel of one image, float64."""

    params = RADII
    param_names = ("radius_nm",)
    repeat = REPEAT

    def setup(self, radius: float) -> None:
        self.timer = clock()
        experiment = simulator().experiment
        chosen = torch.zeros_like(simulator().valid)
        chosen[::8, ::8] = simulator().valid[::8, ::8]
        self.waves = [side[chosen].numpy() * experiment.wave_number for side in experiment.transverse()]
        self.index = experiment.refractive_index
        self.body, self.turn = icosahedron(), bodies(1, radius)[1][0].numpy()

    def time_field(self, radius: float) -> None:
        normals, offsets = np.asarray(self.body.normals), np.asarray(self.body.offsets)
        closed_form.field(normals, offsets, radius, self.turn, self.index, *self.waves)


class Memory:
    """Peak memory of the process, torch included, for large batches and for voxels."""

    def peakmem_field(self) -> None:
        use_kernel("compiled")
        simulator().field(*bodies(count(512, 8), 150.0))

    def peakmem_field_eager(self) -> None:
        use_kernel("eager")
        simulator().field(*bodies(count(64, 8), 150.0))

    def peakmem_jacobian(self) -> None:
        use_kernel("compiled")
        simulator().intensity_jacobian(*bodies(count(128, 8), 150.0))

    def peakmem_sliced(self) -> None:
        simulator("sliced").field(*bodies(1, 150.0))

    def peakmem_propagated(self) -> None:
        simulator("propagated").field(*bodies(1, 150.0))


class CountedKernels(CudaKernel):
    """A GPU's kernels, which are counted instead of launched: plans are empty, other tables hold anything."""

    def __init__(self) -> None:
        self.launched = 0

    def _launch(self, name: str, blocks: tuple[int, int, int], threads: int, *values: float) -> None:
        self.launched += 1
        if name == "plan_kernel":
            ctypes.memset(int(values[-1]), 0, 8 * blocks[0])  # the numbers of segments


class Launches:
    """Operators and kernels, about one launch each, of one body or 64 of 30 to 160 nm as a GPU gets them.

    More bodies need no more.
    """

    def setup(self) -> None:
        self.simulator = simulator()
        self.bodies = torch.linspace(30, 160, 64).double(), bodies(64, 60.0)[1]

    def _count(self, call: Callable[..., Any], count: int = 64) -> int:
        from icobench.simulator.compiled import kernels_of  # which older commits lack

        kernel, some = CountedKernels(), [values[:count] for values in self.bodies]
        program = kernels_of(kernel)
        with mock.patch.object(exact, "kernels", lambda *_: program), as_on_gpu():
            operators = launches(lambda: call(*some))
        return operators + kernel.launched // 2  # which calls it twice

    def track_launches_field(self) -> int:
        return self._count(self.simulator.field)

    def track_launches_field_of_one(self) -> int:
        return self._count(self.simulator.field, 1)

    def track_launches_jacobian(self) -> int:
        return self._count(self.simulator.intensity_jacobian)

    track_launches_field.unit = track_launches_field_of_one.unit = track_launches_jacobian.unit = "launches"
