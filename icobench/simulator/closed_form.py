"""A slow, plain, float64 reference for the field of an absorbing convex body: the oracle.

Nothing here is shared with the simulators but the body's half-spaces. Entrance and exit
facets are projected along the beam and clipped against each other; the space between the two facets over each
triangle of the overlap is split into three tetrahedra. There the exponent is linear, and by the
Hermite-Genocchi formula the integral of exp(linear) over a tetrahedron is 6 V times the third
divided difference of exp at the exponents of its corners, which has no special cases.
"""

import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation

__all__ = ["divided_difference", "field"]


def field(normals, offsets, radius_nm, quaternion, refractive_index, kx, ky, wavelength_nm=13.5):
    """Field in nm^3 at the transverse wave numbers kx, ky (P,) in 1/nm.

    The body of circumradius 1 has the half-spaces (F, 3), (F,); the orientation is (w, x, y, z).
    """
    k = 2 * math.pi / wavelength_nm
    kappa = k * (refractive_index - 1)
    qz = np.sqrt(k**2 - kx**2 - ky**2) - k
    corners, thickness = wedges(normals, offsets, radius_nm, quaternion)
    front = -1j * (corners @ np.stack((kx, ky, qz)))  # exponents, (T, 3, P)
    depth = thickness[..., None] * (-1j * qz + 1j * kappa)
    back = front + depth
    edges = corners[:, 1:, :2] - corners[:, :1, :2]
    area = 0.5 * np.abs(np.linalg.det(edges))
    total = np.zeros(len(kx), dtype=complex)
    for first, last, base, lengths in zip(front, back, area, thickness, strict=True):
        # The wedge as three tetrahedra; each has a vertical edge, so its volume is base * length / 3.
        a, b, c = first
        d, e, f = last
        for height, exponents in zip(lengths, ((a, b, c, d), (b, c, d, e), (c, d, e, f)), strict=True):
            total += 2 * base * height * divided_difference(np.stack(exponents))
    return total


def wedges(normals, offsets, radius_nm, quaternion):
    """Entrance points (T, 3, 3) and thicknesses (T, 3) at the corners of the overlay's triangles."""
    normals = Rotation.from_quat(quaternion, scalar_first=True).apply(normals)
    offsets = np.asarray(offsets) * radius_nm
    corners, thickness = [], []
    for i in np.flatnonzero(normals[:, 2] < -1e-12):
        for j in np.flatnonzero(normals[:, 2] > 1e-12):
            entrance, leave = _plane(normals[i], offsets[i]), _plane(normals[j], offsets[j])
            region = _overlap(normals, offsets, i, j, 2 * radius_nm)
            for m in range(1, len(region) - 1):
                triangle = region[[0, m, m + 1]]
                z = entrance(triangle)
                corners.append(np.column_stack((triangle, z)))
                thickness.append(np.maximum(leave(triangle) - z, 0))
    return np.array(corners), np.array(thickness)


def _plane(normal, offset):
    return lambda points: (offset - points @ normal[:2]) / normal[2]


def _overlap(normals, offsets, entrance, leave, extent):
    """Polygon (N, 2) over which rays enter through one given facet and leave through another."""
    polygon = extent * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], dtype=float)
    for other in range(len(normals)):
        for facet in (entrance, leave):
            # Inside of the half-space ``other`` while on the plane ``facet``: one more half-plane.
            ratio = normals[other, 2] / normals[facet, 2]
            across = normals[other, :2] - ratio * normals[facet, :2]
            polygon = _clip(polygon, across, offsets[other] - ratio * offsets[facet])
            if len(polygon) < 3:
                return polygon
    return polygon


def _clip(polygon, normal, offset):
    """Sutherland-Hodgman: the part of a convex polygon with ``normal . r <= offset``."""
    excess = polygon @ normal - offset
    if not (excess > 0).any():
        return polygon
    kept = []
    for here in range(len(polygon)):
        there = (here + 1) % len(polygon)
        if excess[here] <= 0:
            kept.append(polygon[here])
        if (excess[here] > 0) != (excess[there] > 0):
            share = excess[here] / (excess[here] - excess[there])
            kept.append(polygon[here] + share * (polygon[there] - polygon[here]))
    return np.array(kept)


def divided_difference(x):
    """exp[x_0, ..., x_n] for complex x (n + 1, P): (P,), to round-off whatever the spacing.

    It is a corner of the exponential of the bidiagonal matrix of x and ones (Opitz, Z. Angew. Math. Mech. 44,
    T52, 1964).
    """
    matrix = np.zeros((x.shape[1], len(x), len(x)), dtype=complex)
    place = np.arange(len(x))
    matrix[:, place, place] = x.T
    matrix[:, place[:-1], place[1:]] = 1
    return torch.linalg.matrix_exp(torch.from_numpy(matrix))[:, 0, -1].numpy()
