"""Few nodes on the Ewald sphere that carry the whole field.

On the Ewald sphere the field of a body of radius R is band-limited. With
``k_y = k sin(a)``, ``k_x = k cos(a) sin(b)`` the far field of a point at distance r from the origin is
exp(-i k r cos(angle)), along a and b a sum of exp(i n a) with Bessel weights J_n(k r), which
vanish beyond n = k R. The field is evaluated at N_a x N_b mapped Chebyshev nodes (Kosloff and
Tal-Ezer, J. Comput. Phys. 104, 457, 1993) and carried to the pixels by two matrix products.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import jv
from torch import Tensor

from icobench.simulator.experiment import Experiment

__all__ = ["Skeleton", "build_skeleton", "to_pixels"]


class Skeleton(NamedTuple):
    """Nodes and interpolation matrices for bodies up to one radius.

    Attributes:
        waves: (4, N_a N_b) rows k_x, k_y, q_z, 1 in 1/nm; node index a major.
        rows: (pixels, N_a) interpolates along a onto the detector's rows.
        columns: (pixels, N_b, pixels) interpolates along b onto each row's pixels, [row, node,
            column]; 0 for invalid pixels.
    """

    waves: Tensor
    rows: Tensor
    columns: Tensor


def _nodes(count: int, widest: float) -> np.ndarray:
    # The mapping parameter of Kosloff and Tal-Ezer for a resolution of 3e-3, which keeps the
    # spacing nearly uniform; chosen by a scan of the interpolation error over plane waves.
    bend = 1 / math.cosh(math.log(1 / 3e-3) / count)
    cosines = np.cos((2 * np.arange(count) + 1) * np.pi / (2 * count))
    return widest * np.arcsin(bend * cosines) / math.asin(bend)


def _features(angle: np.ndarray, band: float) -> np.ndarray:
    """exp(i n a) weighted by the largest |J_m(band)|, m >= |n|: (points, 2 M + 1)."""
    order = np.arange(int(band + 12 * (band + 1) ** (1 / 3)) + 12)
    envelope = np.maximum.accumulate(np.abs(jv(order, band))[::-1])[::-1]
    weight = np.maximum(np.concatenate((envelope[:0:-1], envelope)), 1e-18)
    index = np.concatenate((-order[:0:-1], order))
    return np.exp(1j * np.multiply.outer(angle, index)) * weight


def _interpolation(nodes: np.ndarray, band: float) -> np.ndarray:
    """Least-squares map from values at the nodes to coefficients of :func:`_features`."""
    return np.linalg.pinv(_features(nodes, band), rcond=1e-9)


def _even(count: float) -> int:
    # An odd count would put a node on q = 0, where polygons between parallel facets have K = 0.
    return 2 * math.ceil(count / 2)


def build_skeleton(
    experiment: Experiment, radius_nm: float, dtype: torch.dtype, device: torch.device | str
) -> Skeleton:
    """Nodes for bodies of circumradius up to ``radius_nm``.

    The number of nodes grows as k R times the covered angle; the tables are built in float64.
    """
    k = experiment.wave_number
    band = k * radius_nm
    sine = experiment.sin_theta_max
    widest_a = math.asin(sine)
    # The farthest column is met on the row where cos(a) is least while the pixel is still valid.
    widest_b = math.asin(min(1.0, sine / math.sqrt(max(1 - sine**2, 1e-12))))
    growth, extra = (1.12, 12) if dtype == torch.float32 else (1.25, 26)
    count_a = _even(growth * band * widest_a * 2 / math.pi + extra)
    count_b = _even(growth * band * widest_b * 2 / math.pi + extra)
    a, b = _nodes(count_a, widest_a), _nodes(count_b, widest_b)

    sines = experiment.sines().numpy()
    on_sphere = np.abs(sines) < 1
    row_angle = np.arcsin(np.where(on_sphere, sines, 0.0))
    rows = (_features(row_angle, band) @ _interpolation(a, band)).real * on_sphere[:, None]

    valid = experiment.valid().numpy()
    ratio = np.where(valid, sines[None, :] / np.cos(row_angle)[:, None], 0.0)
    features = _features(np.arcsin(np.clip(ratio, -1, 1)), band)
    columns = (features @ _interpolation(b, band)).real * valid[..., None]

    ka, kb = np.meshgrid(a, b, indexing="ij")
    waves = np.stack(
        (
            k * np.cos(ka) * np.sin(kb),
            k * np.sin(ka),
            # cos a cos b - 1 without cancellation near the beam.
            -k * (2 * np.sin(ka / 2) ** 2 + 2 * np.cos(ka) * np.sin(kb / 2) ** 2),
            np.ones_like(ka),
        )
    ).reshape(4, -1)
    return Skeleton(
        *(
            torch.as_tensor(np.ascontiguousarray(table)).to(device, dtype)
            for table in (waves, rows, columns.transpose(0, 2, 1))
        )
    )


def to_pixels(skeleton: Skeleton, real: Tensor, imag: Tensor) -> tuple[Tensor, Tensor]:
    """Carry node values (B, N_a N_b) to the detector: two (B, pixels, pixels) tensors [y, x]."""
    batch, pixels = len(real), len(skeleton.rows)
    parts = torch.cat((real, imag)).unflatten(1, (skeleton.rows.shape[1], -1))
    on_rows = torch.matmul(skeleton.rows, parts)
    image = torch.bmm(on_rows.transpose(0, 1), skeleton.columns).transpose(0, 1)
    image = image.reshape(2, batch, pixels, pixels)
    return image[0], image[1]
