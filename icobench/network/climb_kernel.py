"""The climb to the maxima on the orbit as one kernel for a GPU; only imported there, as it needs Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["climb"]


@triton.jit
def _entry(values, column, number: tl.constexpr):
    """One of a vector's numbers."""
    return tl.sum(tl.where(column == number, values, 0.0), 0)


@triton.jit
def _powers(base, exponent):
    """base ** exponent, exponents 0 to 6."""
    out = tl.full(exponent.shape, 1.0, tl.float64)
    for least in tl.static_range(1, 7):
        out = tl.where(exponent >= least, out * base, out)
    return out


@triton.jit
def _climb(
    start, axes, exponents, polynomials, out, starts, METRIC: tl.constexpr, LONGEST: tl.constexpr,
    LAST: tl.constexpr, ITERATIONS: tl.constexpr,
):  # fmt: skip
    """One start: Newton steps as in :func:`icobench.network.orbit.decode`, until the last is small."""
    place = tl.program_id(0).to(tl.int64)
    w, x = tl.load(start + 4 * place), tl.load(start + 4 * place + 1)
    y, z = tl.load(start + 4 * place + 2), tl.load(start + 4 * place + 3)
    axis = tl.arange(0, 8)
    there = axis < 6
    ax = tl.load(axes + 3 * axis, there, 0.0)
    ay = tl.load(axes + 3 * axis + 1, there, 0.0)
    az = tl.load(axes + 3 * axis + 2, there, 0.0)
    term = tl.arange(0, 32)
    known = term < 28
    first = tl.load(exponents + 3 * term, known, 6)[None, :] + tl.zeros((8, 1), tl.int64)
    second = tl.load(exponents + 3 * term + 1, known, 0)[None, :] + tl.zeros((8, 1), tl.int64)
    third = tl.load(exponents + 3 * term + 2, known, 0)[None, :] + tl.zeros((8, 1), tl.int64)
    column = tl.arange(0, 16)
    table = polynomials + place // starts * (28 * 13) + 13 * term[:, None] + column[None, :]
    polynomial = tl.load(table, known[:, None] & (column < 13)[None, :], 0.0)
    step = 0
    while step < ITERATIONS:
        # The axes, turned: a quadratic form of the quaternion.
        u = (w * w + x * x - y * y - z * z) * ax + 2 * (x * y - w * z) * ay + 2 * (x * z + w * y) * az
        v = 2 * (x * y + w * z) * ax + (w * w - x * x + y * y - z * z) * ay + 2 * (y * z - w * x) * az
        t = 2 * (x * z - w * y) * ax + 2 * (y * z + w * x) * ay + (w * w - x * x - y * y + z * z) * az
        powers = _powers(u[:, None], first) * _powers(v[:, None], second) * _powers(t[:, None], third)
        values = tl.sum(tl.sum(powers, 0)[:, None] * polynomial, 0)
        s1, s2, s3 = _entry(values, column, 0), _entry(values, column, 1), _entry(values, column, 2)
        height = _entry(values, column, 3)
        # The curvature, which is negative at a maximum, as L D L^T.
        a, b, c = -_entry(values, column, 4), -_entry(values, column, 7), -_entry(values, column, 10)
        d, e, f = -_entry(values, column, 8), -_entry(values, column, 11), -_entry(values, column, 12)
        l21, l31 = b / a, c / a
        d = d - b * l21
        l32 = (e - c * l21) / d
        f = f - c * l31 - l32 * l32 * d
        y2 = s2 - l21 * s1
        n3 = (s3 - l31 * s1 - l32 * y2) / f
        n2 = y2 / d - l32 * n3
        n1 = s1 / a - l21 * n2 - l31 * n3
        length = tl.sqrt(n1 * n1 + n2 * n2 + n3 * n3)
        reliable = (a > 0) & (d > 0) & (f > 0) & (length < LONGEST)
        # The metric's share of the curvature falls with the height.
        share = 1.0 / (METRIC * tl.maximum(height, 0.4))
        h1 = tl.where(reliable, n1, s1 * share) / 2
        h2 = tl.where(reliable, n2, s2 * share) / 2
        h3 = tl.where(reliable, n3, s3 * share) / 2
        new_w = w - (h1 * x + h2 * y + h3 * z)
        new_x = x + h1 * w + h2 * z - h3 * y
        new_y = y + h2 * w + h3 * x - h1 * z
        new_z = z + h3 * w + h1 * y - h2 * x
        norm = tl.sqrt(new_w * new_w + new_x * new_x + new_y * new_y + new_z * new_z)
        w, x, y, z = new_w / norm, new_x / norm, new_y / norm, new_z / norm
        step = tl.where(reliable & (length < LAST), ITERATIONS, step + 1)
    tl.store(out + 4 * place, w)
    tl.store(out + 4 * place + 1, x)
    tl.store(out + 4 * place + 2, y)
    tl.store(out + 4 * place + 3, z)


def climb(
    quaternion: Tensor, axes: Tensor, exponents: Tensor, polynomials: Tensor, iterations: int, metric: float,
    longest: float, last: float,
) -> Tensor:  # fmt: skip
    """Maxima near orientations (B, K, 4), float64, of what polynomials (B, 28, 13) give with the powers
    (exponents (28, 3)) of the turned axes (6, 3): three slopes, the height and nine curvatures."""
    quaternion, polynomials = quaternion.contiguous(), polynomials.contiguous()
    out = torch.empty_like(quaternion)
    images, starts = quaternion.shape[:2]
    if images * starts:
        _climb[(images * starts,)](
            quaternion, axes, exponents, polynomials, out, starts, metric, longest, last, iterations,
            num_warps=1,
        )  # fmt: skip
    return out
