"""The tests' own reference against the published fields and against formulas for the cube."""

import math
from pathlib import Path

import numpy as np
import pytest

from icobench.geometry.convex import icosahedron
from icobench.simulator import closed_form as oracle

CLOSED_FORM = Path(__file__).parents[1] / "data" / "closed_form.npz"


def test_oracle_on_the_closed_form_fields():
    data = np.load(CLOSED_FORM)
    body = icosahedron()
    ky, kx = np.meshgrid(data["k_perp"], data["k_perp"], indexing="ij")
    chosen = np.zeros(kx.shape, dtype=bool)
    chosen[4::12, 4::12] = True  # the beam and 75 others
    chosen &= np.hypot(kx, ky) < 0.999 * 2 * math.pi / 13.5
    for i in range(6):
        field = oracle.field(
            body.normals,
            body.offsets,
            data["radius_nm"][i],
            data["quaternion"][i],
            data["refractive_index"][i],
            kx[chosen],
            ky[chosen],
        )
        expected = data["field"][i][chosen]
        # Both are sums of some hundred terms in double precision; measured 7e-11.
        assert np.linalg.norm(field - expected) < 1e-9 * np.linalg.norm(expected)


@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-3, 0.3, 3.0, 30.0])
def test_divided_differences(rng, spread):
    """Against the Hermite-Genocchi integral by Gauss quadrature over the simplex."""
    x = (rng.normal(size=(4, 6)) + 1j * rng.normal(size=(4, 6))) * spread
    node, weight = np.polynomial.legendre.leggauss(60)
    node, weight = (node + 1) / 2, weight / 2
    a, b, c = np.meshgrid(node, node, node, indexing="ij")
    weights = weight[:, None, None] * weight[:, None] * weight * (1 - a) ** 2 * (1 - b)
    shares = (a, (1 - a) * b, (1 - a) * (1 - b) * c, (1 - a) * (1 - b) * (1 - c))
    for column in range(6):
        exponent = sum(s * v for s, v in zip(shares, x[:, column], strict=True))
        expected = (weights * np.exp(exponent)).sum()
        bound = np.exp(x[:, column].real.max()) * 1e-13  # the integrand's size times round-off
        assert abs(oracle.divided_difference(x[:, column : column + 1])[0] - expected) < bound


def test_oracle_on_a_cube_with_a_face_to_the_beam():
    axes = np.vstack((np.eye(3), -np.eye(3)))
    kx, ky = np.array([0.0, 0.1, -0.2, 0.05]), np.array([0.0, 0.03, 0.25, -0.3])
    for index in (1.0, 0.89 + 0.0859j):
        field = oracle.field(axes, np.full(6, 3**-0.5), 60.0, (1, 0, 0, 0), index, kx, ky, wavelength_nm=13.5)
        np.testing.assert_allclose(field, cube_face_on(60.0, index, kx, ky), rtol=1e-10)


def cube_face_on(radius_nm, index, kx, ky, wavelength_nm=13.5):
    """Field of a cube whose edges lie along x, y and z: two sinc functions and one integral over z."""
    k = 2 * math.pi / wavelength_nm
    edge = 2 * radius_nm / math.sqrt(3)
    qz = np.sqrt(k**2 - kx**2 - ky**2) - k
    rate = 1j * (k * (index - 1) - qz)
    # integral over 0..edge of exp(rate s), s the depth below the front face at z = -edge / 2
    depth = np.array([np.expm1(r * edge) / r if r != 0 else edge for r in rate])
    across = edge**2 * np.sinc(kx * edge / 2 / np.pi) * np.sinc(ky * edge / 2 / np.pi)
    return across * np.exp(1j * qz * edge / 2) * depth
