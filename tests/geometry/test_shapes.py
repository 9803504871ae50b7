"""Bodies by name: counts of facets, volumes, symmetry."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from icobench.geometry.shapes import SHAPES, shape, sphere

# Facets, vertices, edges, order of the rotation group; volume for circumradius 1 from the solids' formulas.
PHI = (1 + 5**0.5) / 2
SOLIDS = {
    "icosahedron": (20, 12, 30, 60, 2.5361507),
    "cube": (6, 8, 12, 24, (2 / 3**0.5) ** 3),
    "octahedron": (8, 6, 12, 24, 4 / 3),
    "truncated-octahedron": (14, 24, 36, 24, 8 * 2**0.5 * (0.4**0.5) ** 3),
    "cuboctahedron": (14, 12, 24, 24, 5 / 3 * 2**0.5),
    "dodecahedron": (12, 20, 30, 60, (15 + 7 * 5**0.5) / 4 * (2 / (3**0.5 * PHI)) ** 3),
    "tetrahedron": (4, 4, 6, 12, (8 / 3) ** 1.5 / (6 * 2**0.5)),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_solids(name):
    body = shape(name)
    facets, vertices, edges, order, volume = SOLIDS[name]
    assert (len(body.normals), len(body.vertices), len(body.edges), len(body.group)) == (
        facets, vertices, edges, order,
    )  # fmt: skip
    assert body.volume == pytest.approx(volume, rel=1e-7)
    assert np.linalg.norm(body.vertices, axis=1).max() == pytest.approx(1)
    np.testing.assert_allclose(np.abs(body.group[0]), (1, 0, 0, 0), atol=1e-12)
    for rotation in Rotation.from_quat(body.group, scalar_first=True):
        turned = rotation.apply(body.vertices)
        nearest = np.linalg.norm(turned[:, None] - body.vertices, axis=-1).min(1)
        np.testing.assert_allclose(nearest, 0, atol=1e-9)


def test_sphere_of_facets():
    """Euler's formula, and a volume between the inscribed and the circumscribed sphere."""
    for facets in (20, 60, 120):
        body = sphere(facets)
        assert len(body.normals) == facets
        assert len(body.vertices) - len(body.edges) + facets == 2
        ball = 4 / 3 * math.pi
        assert ball * body.inradius**3 < body.volume < ball
    assert sphere(120).inradius > 0.95
    with pytest.raises(ValueError, match="20 facets"):
        sphere(10)


def test_unknown_shape():
    with pytest.raises(ValueError, match="unknown shape 'egg', choose from icosahedron"):
        shape("egg")
    assert set(SOLIDS) | {"sphere"} == set(SHAPES)
