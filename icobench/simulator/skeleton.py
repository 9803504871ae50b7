"""A few nodes on the Ewald sphere from which the field follows everywhere.

On the Ewald sphere the field of a body of radius R is band-limited. With
``k_y = k sin(a)``, ``k_x = k cos(a) sin(b)`` the far field of a point at distance r from the origin is
exp(-i k r cos(angle)), along a and b a sum of exp(i n a) with Bessel weights J_n(k r), which
vanish beyond n = k R. The field is evaluated at rows of mapped Chebyshev nodes (Kosloff and
Tal-Ezer, J. Comput. Phys. 104, 457, 1993) and carried to the pixels by small matrix products.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import jv
from torch import Tensor, nn

from icobench.devices import one_thread, sent
from icobench.simulator.experiment import Experiment

__all__ = [
    "BUCKET_BAND", "BySize", "KnownRadii", "Skeleton", "SkeletonField", "build_skeleton", "fill_pixels",
    "to_pixels",
]  # fmt: skip


class Skeleton(NamedTuple):
    """Nodes and interpolation matrices for bodies up to one radius.

    The rows of nodes at fixed a hold fewer nodes the nearer they are to the poles, where cos(a) and
    with it the band along b is small.

    Attributes:
        waves: (4, P) float64 rows k_x, k_y, q_z, 1 in 1/nm; node index a major.
        ragged: (N_a, N) index of every row's nodes among the P, padded with 0.
        starts: (N_a + 1,) index of every row's first node among the P, and at the end P.
        places: (P + 1,) index of every node in ``ragged``, flat, and at the end the size of that.
        level: (N_a, N, N_b) interpolates along b from each row's nodes onto common ones; 0 for padding.
        rows: (pixels, N_a) interpolates along a onto the detector's rows.
        columns: (pixels, N_b, pixels) interpolates along b onto each row's pixels, [row, node,
            column]; 0 for invalid pixels.

    On a flat detector ``tan(b) = x / distance`` is the same for a whole column, but a is not for a row.
    There ``level`` (N_a, N, pixels) leads straight to the columns, ``columns`` (pixels, N_a, pixels) holds
    the interpolation along a, [column, node, row], and ``rows`` is empty.
    """

    waves: Tensor
    ragged: Tensor
    starts: Tensor
    places: Tensor
    level: Tensor
    rows: Tensor
    columns: Tensor


GROWTH = {torch.float32: (1.12, 12), torch.float64: (1.3, 36)}
"""Nodes per unit of band (for an angle of pi / 2 to either side), and how many more."""

RESOLUTION = {torch.float32: 3e-3, torch.float64: 1e-14}
"""Of the mapping of Kosloff and Tal-Ezer. For float32 it only shapes the spacing of the nodes (chosen by a
scan of the interpolation error over plane waves); for float64 it is the mapping's error."""

ROWS_AT_ONCE = {"cpu": 160, "cuda": 4096}
"""Real node fields that are carried to the pixels at once; on a GPU that is 1 GB for 128 pixels."""

WHOLE_ROWS = 16
"""On a CPU their number is filled up to a multiple of this."""


def _nodes(band: float, widest: float, dtype: torch.dtype) -> np.ndarray:
    """Nodes that hold a band on the angles up to ``widest`` to either side."""
    growth, extra = GROWTH[dtype]
    # An odd count would put a node on q = 0, where polygons between parallel facets have K = 0.
    count = 2 * math.ceil((growth * band * widest * 2 / math.pi + extra) / 2)
    bend = 1 / math.cosh(math.log(1 / RESOLUTION[dtype]) / count)
    cosines = np.cos((2 * np.arange(count) + 1) * np.pi / (2 * count))
    return widest * np.arcsin(bend * cosines) / math.asin(bend)


def _interpolation(
    angles: np.ndarray, nodes: np.ndarray, band: float, widest: float, dtype: torch.dtype
) -> np.ndarray:
    """Matrix from values at the nodes to values at ``angles``: (..., nodes)."""
    if dtype == torch.float32:
        return _least_squares(angles, nodes, band)
    return _barycentric(angles, nodes, widest, dtype)


LEAST_SINGULAR_VALUE = 3e-6
"""Of the largest. Smaller ones, plenty where the nodes cover a part of the half space only, would magnify the
nodes' round-off."""


def _least_squares(angles: np.ndarray, nodes: np.ndarray, band: float) -> np.ndarray:
    """Interpolation with fewest nodes: the least-squares fit of the waves that a band can hold.

    The waves exp(i n a) have the weight of the largest |J_m(band)|, m >= |n|. As the nodes come in pairs
    +-a, cosines and sines are fitted apart, to the pairs' sums and differences.
    """
    order = np.arange(int(band + 12 * (band + 1) ** (1 / 3)) + 12)
    envelope = np.maximum.accumulate(np.abs(jv(order, band))[::-1])[::-1]
    weight = np.maximum(envelope, 1e-18) * np.where(order > 0, math.sqrt(2), 1.0)
    half = len(nodes) // 2
    sizes, place = np.unique(np.abs(angles), return_inverse=True)  # most angles are met several times
    at_nodes, at_sizes = (
        torch.as_tensor(np.multiply.outer(values, order)) for values in (nodes[:half], sizes)
    )
    scale = torch.as_tensor(weight)
    # By torch: NumPy's library divides even these small matrices among threads.
    fits = [
        (wave, *torch.linalg.svd(wave(at_nodes) * scale, full_matrices=False))
        for wave in (torch.cos, torch.sin)
    ]
    smallest = LEAST_SINGULAR_VALUE * max(values[0] for _, _, values, _ in fits)

    def carried(wave: Callable[[Tensor], Tensor], u: Tensor, values: Tensor, v: Tensor) -> np.ndarray:
        kept = values > smallest
        inverse = scale[:, None] * (v[kept].T / (2 * values[kept])) @ u[:, kept].T
        return (wave(at_sizes) @ inverse).numpy()

    even, odd = (carried(*fit) for fit in fits)
    # The second half of the nodes are those of the first, negative, in reverse; so are the two for -angle.
    sides = np.concatenate((even + odd, (even - odd)[:, ::-1]), axis=-1)
    both = np.stack((sides, sides[:, ::-1]))
    return both[(angles < 0).astype(int), place.reshape(angles.shape)]


def _barycentric(angles: np.ndarray, nodes: np.ndarray, widest: float, dtype: torch.dtype) -> np.ndarray:
    """Polynomial interpolation in the mapped coordinate (Berrut and Trefethen, SIAM Rev. 46, 501, 2004)."""
    count = len(nodes)
    bend = 1 / math.cosh(math.log(1 / RESOLUTION[dtype]) / count)
    turn = (2 * np.arange(count) + 1) * np.pi / (2 * count)
    mapped = np.sin(math.asin(bend) / widest * angles) / bend
    distance = mapped[..., None] - np.cos(turn)
    met = distance == 0
    share = (-1.0) ** np.arange(count) * np.sin(turn) / np.where(met, 1.0, distance)
    matrix = share / share.sum(-1, keepdims=True)
    return np.where(met.any(-1, keepdims=True), met, matrix)


@lru_cache(maxsize=24)  # all radii of one experiment, or few of several: at most some hundred MiB
@one_thread()  # the matrices are small: threads would wait for each other, and change the last digits
@torch.inference_mode(False)  # inference tensors could not be used by later callers that differentiate
def build_skeleton(experiment: Experiment, radius_nm: float, dtype: torch.dtype) -> Skeleton:
    """Nodes for bodies of circumradius up to ``radius_nm``, on the CPU.

    The number of nodes grows as k R times the covered angle; the tables are built in float64.
    """
    k = experiment.wave_number
    band = k * radius_nm
    if experiment.orthographic:
        # Farther pixels of a shifted grid are invalid.
        sine = min(1.0, max(float(experiment.sines(axis).abs().max()) for axis in (0, 1)))
        widest_a = math.asin(sine)
        # The farthest column is met on the row where cos(a) is least while the pixel is still valid.
        widest_b = math.asin(min(1.0, sine / math.sqrt(max(1 - sine**2, 1e-12))))
    else:
        column_angle = np.arctan(experiment.slopes()[0].numpy())
        row_angle = np.arcsin(experiment.transverse()[1].numpy())
        widest_a, widest_b = np.abs(row_angle).max(), np.abs(column_angle).max()
    a, b = _nodes(band, widest_a, dtype), _nodes(band, widest_b, dtype)
    rows_b = [_nodes(band * math.cos(x), widest_b, dtype) for x in a]
    lengths = np.array([len(nodes) for nodes in rows_b])
    common = b if experiment.orthographic else column_angle
    ragged = np.zeros((len(a), len(b)), dtype=np.int64)
    level = np.zeros((len(a), len(b), len(common)))
    starts = np.concatenate(([0], np.cumsum(lengths)))
    for i, nodes in enumerate(rows_b[: len(a) // 2]):  # the rows at a and -a share their nodes
        between = _interpolation(common, nodes, band * math.cos(a[i]), widest_b, dtype)
        for j in (i, len(a) - 1 - i):
            ragged[j, : len(nodes)] = starts[j] + np.arange(len(nodes))
            level[j, : len(nodes)] = between.T

    if experiment.orthographic:
        sines, row_sines = experiment.sines(0).numpy(), experiment.sines(1).numpy()
        on_sphere = np.abs(row_sines) < 1
        row_angle = np.arcsin(np.where(on_sphere, row_sines, 0.0))
        rows = _interpolation(row_angle, a, band, widest_a, dtype) * on_sphere[:, None]
        valid = experiment.valid().numpy()
        ratio = np.where(valid, sines[None, :] / np.cos(row_angle)[:, None], 0.0)
        columns = _interpolation(np.arcsin(np.clip(ratio, -1, 1)), b, band, widest_b, dtype)
        columns[~valid] = 0
        columns = columns.transpose(0, 2, 1)
    else:
        rows = np.zeros((0, len(a)))
        columns = _interpolation(row_angle.T, a, band, widest_a, dtype).transpose(0, 2, 1)

    ka, kb = np.repeat(a, lengths), np.concatenate(rows_b)
    # cos a cos b - 1 without cancellation near the beam.
    qz = -k * (2 * np.sin(ka / 2) ** 2 + 2 * np.cos(ka) * np.sin(kb / 2) ** 2)
    waves = np.stack((k * np.cos(ka) * np.sin(kb), k * np.sin(ka), qz, np.ones_like(ka)))
    places = np.concatenate(
        [i * len(b) + np.arange(count) for i, count in enumerate(lengths)] + [[ragged.size]]
    )
    carriers = (torch.as_tensor(np.ascontiguousarray(table)).to(dtype) for table in (level, rows, columns))
    return Skeleton(*map(torch.as_tensor, (waves, ragged, starts, places)), *carriers)


def to_pixels(skeleton: Skeleton, values: Tensor) -> Tensor:
    """Carry real node values (N, P) to the detector: (N, pixels, pixels), [y, x].

    Values at all places of ``ragged`` (N, N_a N) are carried, too. The round-off of one row in the matrix
    products does not depend on the number of rows, unless there are so few that another algorithm is chosen;
    hence the padding on a CPU.
    """
    pieces = []
    for piece in values.split(ROWS_AT_ONCE[values.device.type]):
        missing = -len(piece) % WHOLE_ROWS if values.device.type == "cpu" else 0
        filled = torch.nn.functional.pad(piece, (0, 0, 0, missing)) if missing else piece
        padded = filled.shape[1] != skeleton.waves.shape[1]
        rows = filled.unflatten(1, skeleton.ragged.shape) if padded else filled[:, skeleton.ragged]
        nodes = rows.transpose(0, 1)
        level = torch.bmm(nodes, skeleton.level).transpose(0, 1)
        if len(skeleton.rows):
            on_rows = torch.matmul(skeleton.rows, level)
            image = torch.bmm(on_rows.transpose(0, 1), skeleton.columns).transpose(0, 1)
        else:
            image = torch.bmm(level.permute(2, 0, 1), skeleton.columns).permute(1, 2, 0)
        pieces.append(image[: len(piece)])
    return torch.cat(pieces) if len(pieces) > 1 else pieces[0]


def fill_pixels(skeleton: Skeleton, values: Tensor, fields: Tensor, bodies: Tensor | slice) -> None:
    """Carry node values (N, B, P) of some bodies, real and imaginary part in turn, to the detector.

    Args:
        skeleton: of these bodies.
        values: N is twice the number of fields of a body.
        fields: (2, all bodies, N / 2, pixels, pixels), where they go.
        bodies: (B,) their index among all.
    """
    images = to_pixels(skeleton, values.flatten(0, 1)).unflatten(0, (len(values) // 2, 2, -1))
    fields[:, bodies] = images.permute(1, 2, 0, 3, 4)


KnownRadii = np.ndarray | None
"""Radii (B,) in nm on the host, by which bodies are sorted; without them a GPU is waited for."""

BUCKET_BAND = 5.0
"""Width of a radius bucket in units of k R; bodies of one bucket share a skeleton."""


class BySize(NamedTuple):
    """Bodies in the order of their radius buckets.

    Attributes:
        order: (B,) the caller's index of each; None where there is nothing to sort.
        buckets: bucket, first body and the one after the last, of every bucket that holds any.
    """

    order: Tensor | None
    buckets: list[tuple[int, int, int]]

    def sorted(self, values: Tensor) -> Tensor:
        """The callers' values (B, ...) in this order."""
        return values if self.order is None else values[self.order]

    def rows(self, start: int, stop: int) -> Tensor | slice:
        """The caller's index of some."""
        return slice(start, stop) if self.order is None else self.order[start:stop]


class SkeletonField(nn.Module):
    """A field that is evaluated at the nodes of skeletons, which serve all materials of a grid.

    Skeletons are built when they are first needed and kept as non-persistent buffers.
    """

    def __init__(self, experiment: Experiment, dtype: torch.dtype) -> None:
        super().__init__()
        self.experiment, self.dtype = experiment, dtype

    @property
    def largest_radius_nm(self) -> float:
        """Radius at which fringes become finer than two pixels of the detector, or of one with 128 pixels."""
        experiment = self.experiment
        sine = experiment.sin_theta_max if experiment.orthographic else float(experiment.sin_theta().max())
        return experiment.wavelength_nm * max(experiment.pixels, 128) / (4 * sine)

    def _bucket_radius_nm(self, bucket: int) -> float:
        return bucket * BUCKET_BAND / self.experiment.wave_number

    def _skeleton(self, bucket: int, device: torch.device) -> Skeleton:
        names = [f"skeleton_{bucket}_{name}" for name in Skeleton._fields]
        if names[0] not in self._buffers:
            # Simulators of the same grid share their tables.
            grid = replace(
                self.experiment, refractive_index=1, solid_angle_factor=False, pixel_average=False,
                physics="straight", polarization=None, efficiency=(),
            )  # fmt: skip
            for name, table in (
                build_skeleton(grid, self._bucket_radius_nm(bucket), self.dtype)._asdict().items()
            ):
                self.register_buffer(f"skeleton_{bucket}_{name}", table.to(device), persistent=False)
        return Skeleton(*map(self._table, names))

    def _table(self, name: str) -> Tensor:
        """A buffer, without the search that attributes of modules take."""
        table = self._buffers[name]
        assert table is not None
        return table

    def _by_size(self, radius: Tensor, radii: KnownRadii = None) -> BySize:
        radii = np.array(radius.tolist()) if radii is None else radii
        band = radii * (self.experiment.wave_number / BUCKET_BAND)
        if len(band) == 1:
            return BySize(None, [(max(1, math.ceil(band[0])), 0, 1)])
        buckets, order = np.maximum(np.ceil(band), 1).astype(np.int64), None
        if (buckets[1:] < buckets[:-1]).any():
            places = np.argsort(buckets, kind="stable")
            buckets, order = buckets[places], sent(torch.from_numpy(places), radius.device)
        starts = [0, *(np.flatnonzero(buckets[1:] != buckets[:-1]) + 1).tolist()]
        stops = [*starts[1:], len(buckets)]
        return BySize(order, list(zip(buckets[starts].tolist(), starts, stops, strict=True)))

    def _buckets(self, radius: Tensor, radii: KnownRadii = None) -> Iterator[tuple[int, Tensor]]:
        """Buckets with the indices of the bodies (B,) that belong to them."""
        by_size = self._by_size(radius, radii)
        order = torch.arange(len(radius), device=radius.device) if by_size.order is None else by_size.order
        for bucket, start, stop in by_size.buckets:
            yield bucket, order[start:stop]
