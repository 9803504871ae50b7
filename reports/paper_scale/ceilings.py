"""How fast a device could be: measured ceilings, and the least work that an image asks for (a roofline).

S. Williams, A. Waterman and D. Patterson, Commun. ACM 52(4), 65 (2009).
"""

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from icobench.geometry.rotations import quaternion_to_matrix
from icobench.simulator.exact import ExactField
from icobench.simulator.overlay import plan
from icobench.simulator.propagated import PropagatedField
from icobench.simulator.simulator import Simulator
from icobench.simulator.skeleton import BUCKET_BAND, Skeleton
from icobench.simulator.voxels import SLICES

__all__ = ["Ceilings", "Work", "least_work", "measured_ceilings"]

EDGE_OPERATIONS = 140
"""Of one segment at one node in :func:`~icobench.simulator.edge_sum.edge_sum`, counted in its compiled form:
24 for the linear forms, 46 for two sines and cosines, 70 for the rest; float64 counts as float32 does."""

SIZES = {"cuda": (1 << 28, 8192), "cpu": (1 << 25, 1536)}
"""Numbers copied, far more than a cache holds, and rows of the matrices."""


@dataclass(frozen=True)
class Ceilings:
    """What a device reaches on the friendliest work, float32.

    Attributes:
        bytes_per_second: read and written by a large copy.
        operations_per_second: additions and multiplications of a large matrix product, TF32 off.
    """

    bytes_per_second: float
    operations_per_second: float

    def fraction(self, work: "Work", seconds: float) -> float:
        """Least possible time over the time taken."""
        least = max(work.bytes / self.bytes_per_second, work.operations / self.operations_per_second)
        return least / seconds


@dataclass(frozen=True)
class Work:
    """What an algorithm cannot do without, for one image.

    Attributes:
        operations: floating point additions, multiplications and divisions.
        bytes: to and from memory.
    """

    operations: float
    bytes: float


def _best(function: Any, device: torch.device, seconds: float) -> float:
    times: list[float] = []
    while sum(times) < seconds or len(times) < 4:  # the first one warms up
        begin = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return min(times)


def measured_ceilings(device: torch.device | str, seconds: float = 1.0) -> Ceilings:
    """Copy a large array, multiply large matrices; the best of several.

    Args:
        device: where.
        seconds: to spend on either.
    """
    device = torch.device(device)
    numbers, rows = SIZES.get(device.type, SIZES["cpu"])
    source = torch.ones(numbers, device=device)
    target = torch.empty_like(source)
    copy = _best(partial(target.copy_, source), device, seconds)
    del source, target  # the matrices may need the room
    left = torch.rand(rows, rows, device=device)
    out = torch.empty_like(left)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        product = _best(lambda: torch.matmul(left, left, out=out), device, seconds)
    finally:
        torch.set_float32_matmul_precision(before)
    return Ceilings(8 * numbers / copy, 2 * rows**3 / product)


def _to_pixels_operations(skeleton: Skeleton) -> int:
    """Of the matrix products from an image's nodes to its pixels, real and imaginary part."""
    rows, nodes, columns = skeleton.level.shape
    pixels = skeleton.columns.shape[0]
    onto_rows = pixels * rows * columns if len(skeleton.rows) else 0
    return 4 * (rows * columns * nodes + onto_rows + skeleton.columns.numel())


def _exact_work(field: ExactField, radius: Tensor, quaternion: Tensor) -> Work:
    live = plan(field._body, quaternion_to_matrix(quaternion.double())).live.tolist()
    operations = 0.0
    for size, segments in zip(radius.tolist(), live, strict=True):
        skeleton = field._skeleton(
            max(1, math.ceil(size * field.experiment.wave_number / BUCKET_BAND)), radius.device
        )
        operations += EDGE_OPERATIONS * segments * skeleton.waves.shape[1] + _to_pixels_operations(skeleton)
    # Everything may stay on the chip but the image: the complex field, written.
    return Work(operations / len(radius), 8.0 * field.experiment.pixels**2)


def least_work(simulator: Simulator, radius_nm: Tensor, quaternion: Tensor) -> Work:
    """Work per image, mean over the given bodies.

    ``exact``: its sums and matrix products, and the image written. The others: their Fourier transforms (5 N
    log2 N operations, each read and written twice, once along either axis), one for each of the slices of
    ``sliced`` and two for ``propagated``, whose window and slices follow the body.

    Args:
        simulator: whose method.
        radius_nm: (B,).
        quaternion: (B, 4).
    """
    field = simulator._field
    if isinstance(field, ExactField):
        device = simulator.device
        return _exact_work(field, radius_nm.to(device), quaternion.to(device))
    if isinstance(field, PropagatedField):
        sizes = []
        for bucket, items in field._buckets(radius_nm):
            window = field._window(bucket, field._skeleton(bucket, simulator.device))
            sizes += len(items) * [(len(window.step) ** 2, 2 * (len(window.heights) - 1))]
    else:
        sizes = [(int(field.padded) ** 2, SLICES)]  # type: ignore[arg-type]
    operations = [5.0 * points * math.log2(points) * transforms for points, transforms in sizes]
    moved = [4.0 * 8 * points * transforms for points, transforms in sizes]
    return Work(sum(operations) / len(sizes), sum(moved) / len(sizes))
