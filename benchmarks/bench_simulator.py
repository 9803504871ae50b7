"""Speed and memory of the simulators."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

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
from icobench.simulator.compiled import EAGER
from icobench.simulator.skeleton import Skeleton

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


class Launches:
    """Operators and kernels, about one launch each, of 64 bodies of 30 to 160 nm as a GPU gets them.

    More bodies need no more. The kernels' results are those of plain torch, remembered; a sum is an empty
    table.
    """

    def setup(self) -> None:
        def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
            results: list[Any] = []

            def call(*arguments: Any) -> Any:
                results.extend([] if results else [function(*arguments)])
                return results[0]

            return call

        def sums(forms: Tensor, numbers: Tensor, live: Tensor, nodes: Skeleton, *rest: Tensor) -> Tensor:
            parameters = rest[1].shape[1] if len(rest) > 1 else 0
            return numbers.new_zeros(2 * (1 + parameters), len(live), nodes.ragged.numel())

        self.kernels = EAGER._replace(
            plan=remembered(EAGER.plan), terms=remembered(EAGER.terms),
            term_slopes=remembered(EAGER.term_slopes), edge_sum=sums, edge_sum_jacobian=sums,
            fused=True, padded=True,
        )  # fmt: skip
        self.simulator = simulator()
        self.bodies = torch.linspace(30, 160, 64).double(), bodies(64, 60.0)[1]

    def _count(self, call: Callable[..., Any]) -> int:
        with mock.patch.object(exact, "kernels", lambda *_: self.kernels), as_on_gpu():
            return launches(lambda: call(*self.bodies)) + 2  # the kernels of plan and terms

    def track_launches_field(self) -> int:
        return self._count(self.simulator.field)

    def track_launches_jacobian(self) -> int:
        return self._count(self.simulator.intensity_jacobian)

    track_launches_field.unit = track_launches_jacobian.unit = "launches"
