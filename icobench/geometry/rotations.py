"""Unit quaternions and rotation vectors, in the conventions of icobench.

Every quaternion here is scalar first, ``(w, x, y, z)``, and active:
``r_lab = M(q) r_body``. Everything is differentiable, forwards and backwards, and needs torch alone.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = [
    "matrix_to_quaternion", "quaternion_angle", "quaternion_conjugate", "quaternion_multiply",
    "quaternion_normalize", "quaternion_to_matrix", "quaternion_to_rotation_vector", "random_quaternions",
    "rotate_about_beam", "rotation_vector_to_quaternion", "turned", "uniform_quaternions",
]  # fmt: skip


def quaternion_normalize(quaternion: Tensor) -> Tensor:
    """Scale non-zero (..., 4) to unit length, with the sign ``w >= 0``; where ``w`` is 0 the sign stays."""
    unit = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(unit[..., :1] < 0, -unit, unit)


def quaternion_multiply(left: Tensor, right: Tensor) -> Tensor:
    """Hamilton product: the rotation ``right`` followed by ``left``; their shapes (..., 4) broadcast."""
    left, right = torch.broadcast_tensors(left, right)
    w1, x1, y1, z1 = left.unbind(-1)
    w2, x2, y2, z2 = right.unbind(-1)
    return torch.stack(
        (
            w1 * w2 - x1 * x2 - y1 * y2 - z1 * z2,
            w1 * x2 + x1 * w2 + y1 * z2 - z1 * y2,
            w1 * y2 - x1 * z2 + y1 * w2 + z1 * x2,
            w1 * z2 + x1 * y2 - y1 * x2 + z1 * w2,
        ),
        dim=-1,
    )


@lru_cache(maxsize=8)
def _left_products(dtype: torch.dtype, device: torch.device) -> Tensor:
    """(4, 16) from a quaternion to the matrix (4, 4) that multiplies others by it from the left."""
    one = torch.eye(4, dtype=torch.float64)
    products = quaternion_multiply(one.unsqueeze(1), one)  # of i and j
    return products.mT.flatten(1).to(device, dtype)


def quaternion_conjugate(quaternion: Tensor) -> Tensor:
    """(..., 4) -> (..., 4); the inverse rotation of a unit quaternion."""
    return torch.cat((quaternion[..., :1], -quaternion[..., 1:]), -1)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Rotation matrices M(q), (..., 4) -> (..., 3, 3), with ``r_lab = M r_body``."""
    products = (quaternion.unsqueeze(-1) * quaternion.unsqueeze(-2)).flatten(-2)
    entries = products.unsqueeze(-1) * _products_to_matrix(quaternion.dtype, quaternion.device)
    return entries.sum(-2).unflatten(-1, (3, 3))


@lru_cache
@torch.inference_mode(False)
def _products_to_matrix(dtype: torch.dtype, device: torch.device) -> Tensor:
    """From products q_i q_j (16) to the entries of M(q) (9): three operations instead of forty."""
    entries = (
        "ww+xx-yy-zz", "xy+xy-wz-wz", "xz+xz+wy+wy",
        "xy+xy+wz+wz", "ww-xx+yy-zz", "yz+yz-wx-wx",
        "xz+xz-wy-wy", "yz+yz+wx+wx", "ww-xx-yy+zz",
    )  # fmt: skip
    table = torch.zeros(16, 9, dtype=dtype)
    for column, entry in enumerate(entries):
        for sign, first, second in ((entry[i - 1 : i], *entry[i : i + 2]) for i in (0, 3, 6, 9)):
            table["wxyz".index(first) * 4 + "wxyz".index(second), column] += -1 if sign == "-" else 1
    return table.to(device)


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) to unit quaternions (..., 4), ``w >= 0``.

    The matrix gives all products 4 q_i q_j; their row with the largest square is 4 q_i q, well
    conditioned for every rotation (Shepperd, J. Guid. Control 1, 223, 1978).
    """
    a, b, c, d, e, f, g, h, i = matrix.flatten(-2).unbind(-1)
    products = (
        1 + a + e + i, h - f, c - g, d - b,
        h - f, 1 + a - e - i, b + d, c + g,
        c - g, b + d, 1 - a + e - i, f + h,
        d - b, c + g, f + h, 1 - a - e + i,
    )  # fmt: skip
    rows = torch.stack(products, -1).unflatten(-1, (4, 4))
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    return quaternion_normalize(torch.take_along_dim(rows, best, -2).squeeze(-2))


def rotation_vector_to_quaternion(vector: Tensor) -> Tensor:
    """Exponential map: (..., 3) in radians -> (..., 4), scalar first.

    Smooth at zero, so that it can be differentiated at the identity.
    """
    half = vector / 2
    angle = half.norm(dim=-1, keepdim=True)
    return torch.cat((torch.cos(angle), torch.sinc(angle / math.pi) * half), dim=-1)


def quaternion_to_rotation_vector(quaternion: Tensor) -> Tensor:
    """Logarithm, the inverse of :func:`rotation_vector_to_quaternion`: (..., 4) of any sign -> (..., 3) in
    radians, at most pi long."""
    vector = torch.where(quaternion[..., :1] < 0, -quaternion[..., 1:], quaternion[..., 1:])
    sine = vector.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[..., :1].abs())
    return vector * torch.where(sine > 1e-12, angle / sine.clamp_min(1e-12), 2.0)


def turned(quaternion: Tensor, rotation: Tensor) -> Tensor:
    """Orientations (..., 4) after a further rotation about lab axes, (..., 3) rotation vectors in radians."""
    matrix = rotation_vector_to_quaternion(rotation) @ _left_products(rotation.dtype, rotation.device)
    # As quaternion_multiply, in two operators instead of thirty: fits turn few bodies at a time.
    product = matrix.unflatten(-1, (4, 4)) @ quaternion.unsqueeze(-1)
    return quaternion_normalize(product.squeeze(-1))


def quaternion_angle(quaternion: Tensor) -> Tensor:
    """Rotation angle in radians, (..., 4) -> (...), in [0, pi].

    Uses atan2 of the vector and scalar parts: acos loses all small angles.
    """
    return 2 * torch.atan2(quaternion[..., 1:].norm(dim=-1), quaternion[..., 0].abs())


def rotate_about_beam(quaternion: Tensor, angle: Tensor) -> Tensor:
    """Rotate bodies by ``angle`` (radians, counter-clockwise from x to y) about +z.

    The diffraction image turns about its centre by the same angle. The shapes (..., 4) of ``quaternion`` and
    (...) of ``angle`` broadcast.
    """
    half = angle / 2
    zero = torch.zeros_like(half)
    turn = torch.stack((torch.cos(half), zero, zero, torch.sin(half)), dim=-1)
    return quaternion_normalize(quaternion_multiply(turn, quaternion))


def random_quaternions(count: int, generator: torch.Generator | None = None) -> Tensor:
    """Rotations uniform in the Haar measure: (count, 4) float64, ``w >= 0``."""
    return uniform_quaternions(torch.rand(count, 3, generator=generator, dtype=torch.float64))


def uniform_quaternions(u: Tensor) -> Tensor:
    """Rotations uniform in the Haar measure, (..., 4), ``w >= 0``, from uniform numbers (..., 3) in [0, 1).

    Shoemake's subgroup algorithm ("Uniform random rotations", Graphics Gems III, 1992).
    """
    inner, outer = (1 - u[..., 0]).sqrt(), u[..., 0].sqrt()
    first, second = 2 * math.pi * u[..., 1], 2 * math.pi * u[..., 2]
    w, z = outer * torch.cos(second), outer * torch.sin(second)
    x, y = inner * torch.sin(first), inner * torch.cos(first)
    return quaternion_normalize(torch.stack((w, x, y, z), dim=-1))
