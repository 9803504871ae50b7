"""Half-space bodies and the icosahedron against textbook polyhedra and SciPy."""

import itertools
import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from icobench.geometry.convex import ConvexBody, icosahedron, rotation_group

PHI = (1 + 5**0.5) / 2
AXES = np.vstack((np.eye(3), -np.eye(3)))
DIAGONALS = np.array(list(itertools.product((1.0, -1.0), repeat=3)))
NO_SYMMETRY = np.array([[1.0, 0.0, 0.0, 0.0]])


def cyclic(pattern):
    """All cyclic permutations and sign changes of a pattern with one zero: (12, 3)."""
    rows = {
        tuple(np.roll(np.array(pattern) * np.array(signs), shift) + 0.0)
        for shift in range(3)
        for signs in itertools.product((1, -1), repeat=3)
    }
    return np.array(sorted(rows))


def same_rows(first, second):
    """Whether two (N, 3) sets hold the same points in any order."""
    distance = np.linalg.norm(first[:, None] - second[None], axis=-1)
    return first.shape == second.shape and max(distance.min(0).max(), distance.min(1).max()) < 1e-12


def test_icosahedron_vertices_and_normals():
    body = icosahedron()
    assert same_rows(body.vertices, cyclic((0, 1, PHI)) / math.sqrt(1 + PHI**2))
    # The face normals are the vertices of the dual dodecahedron.
    dual = np.vstack((DIAGONALS, cyclic((1 / PHI, 0, PHI)))) / math.sqrt(3)
    assert same_rows(body.normals, dual)


def test_icosahedron_size():
    body = icosahedron()
    edge = 1 / math.sin(2 * math.pi / 5)  # of circumradius 1
    assert len(body.edges) == 30
    lengths = np.linalg.norm(body.vertices[body.edges[:, 0]] - body.vertices[body.edges[:, 1]], axis=1)
    np.testing.assert_allclose(lengths, edge, rtol=1e-12)
    assert body.volume == pytest.approx(5 * (3 + 5**0.5) / 12 * edge**3, rel=1e-12)
    assert body.volume == pytest.approx(2.5361507, abs=5e-8)
    assert body.inradius == pytest.approx(PHI**2 / (2 * 3**0.5) * edge, rel=1e-12)
    assert body.inradius == pytest.approx(0.7946545, abs=5e-8)


def test_edges_have_their_first_facet_on_the_left():
    body = icosahedron()
    start, stop = body.vertices[body.edges].transpose(1, 0, 2)
    left, right = body.normals[body.edge_facets].transpose(1, 0, 2)
    # Seen from outside, with the mean normal towards the viewer, "left" is outward x along.
    to_left = np.cross(left + right, stop - start)
    assert ((to_left * (left - right)).sum(1) > 0).all()
    for facet in (left, right):
        np.testing.assert_allclose((facet * (stop - start)).sum(1), 0, atol=1e-12)


def test_group_is_scipys_icosahedral_group():
    group = icosahedron().group
    # SciPy's "I" has its two-fold axes on x, y and z as well, so the sets must agree.
    scipy_group = Rotation.create_group("I").as_quat(scalar_first=True)
    overlap = np.abs(group @ scipy_group.T)
    assert group.shape == (60, 4)
    np.testing.assert_allclose(overlap.max(0), 1, atol=1e-12)
    np.testing.assert_allclose(overlap.max(1), 1, atol=1e-12)
    assert (group[:, 0] >= 0).all()


def test_group_is_closed_and_permutes_the_vertices():
    body = icosahedron()
    rotations = Rotation.from_quat(body.group, scalar_first=True)
    for rotation in rotations:
        assert same_rows(rotation.apply(body.vertices), body.vertices)
        assert same_rows(rotation.apply(body.normals), body.normals)
        products = (rotation * rotations).as_quat(scalar_first=True)
        overlap = np.abs(products @ body.group.T)
        assert (np.sort(overlap.argmax(1)) == np.arange(60)).all()
        np.testing.assert_allclose(overlap.max(1), 1, atol=1e-12)


def test_group_has_the_icosahedral_classes():
    angles = np.degrees(Rotation.from_quat(icosahedron().group, scalar_first=True).magnitude()).round(6)
    assert dict(zip(*np.unique(angles, return_counts=True), strict=True)) == {
        0: 1, 72: 12, 120: 20, 144: 12, 180: 15,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("normals", "offsets", "vertices", "edges", "volume"),
    [
        (AXES, np.ones(6), DIAGONALS / 3**0.5, 12, (2 / 3**0.5) ** 3),
        (DIAGONALS, np.ones(8), AXES, 12, 4 / 3),
        # Cuboctahedron: edge 1, volume 5/3 sqrt 2.
        (
            np.vstack((AXES, DIAGONALS)),
            np.r_[np.ones(6), np.full(8, 2.0)],
            np.array([v for v in itertools.product((-1, 0, 1), repeat=3) if np.abs(v).sum() == 2]) / 2**0.5,
            24,
            5 / 3 * 2**0.5,
        ),
    ],
    ids=["cube", "octahedron", "cuboctahedron"],
)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 250.0])
def test_bodies_from_halfspaces(normals, offsets, vertices, edges, volume, scale):
    # Neither the length of the normals nor the unit of the offsets matters.
    stretch = np.linspace(0.5, 2, len(normals))
    body = ConvexBody.from_halfspaces(
        "body", normals * stretch[:, None], offsets * stretch * scale, NO_SYMMETRY
    )
    assert same_rows(body.vertices, np.asarray(vertices, dtype=float))
    assert len(body.edges) == len(body.edge_facets) == edges
    assert body.volume == pytest.approx(volume, rel=1e-12)
    np.testing.assert_allclose(np.linalg.norm(body.normals, axis=1), 1, rtol=1e-12)


def test_random_bodies_obey_euler_and_contain_their_vertices(rng):
    for _ in range(5):
        normals = rng.normal(size=(16, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        body = ConvexBody.from_halfspaces("random", normals, np.ones(16), NO_SYMMETRY)
        assert len(body.vertices) - len(body.edges) + len(body.normals) == 2
        assert (body.normals @ body.vertices.T <= body.offsets[:, None] + 1e-9).all()


@pytest.mark.parametrize(("offsets", "order"), [((1, 1, 1), 24), ((1, 1, 2), 8), ((1, 2, 3), 4)])
def test_rotations_are_found_from_halfspaces(offsets, order):
    """Cube, square prism and box; a group that does not fit is refused."""
    body = ConvexBody.from_halfspaces("body", AXES, np.tile(offsets, 2))
    assert len(body.group) == order
    np.testing.assert_allclose(body.group[0], NO_SYMMETRY[0])
    if order < 24:
        cubic = Rotation.create_group("O").as_quat(scalar_first=True)
        with pytest.raises(ValueError, match="do not map the body onto itself"):
            ConvexBody.from_halfspaces("body", AXES, np.tile(offsets, 2), cubic)


def test_found_rotations_are_scipys(rng):
    """The icosahedron in any frame, and a body without symmetry."""
    frame = Rotation.from_quat(rng.normal(size=4))
    body = icosahedron()
    group = rotation_group(frame.apply(body.normals), body.offsets)
    known = (frame * Rotation.from_quat(body.group, scalar_first=True) * frame.inv()).as_quat(
        scalar_first=True
    )
    np.testing.assert_allclose(np.abs(group @ known.T).max(0), 1, atol=1e-12)
    assert len(group) == 60
    assert len(rotation_group(rng.normal(size=(16, 3)), rng.uniform(1, 2, 16))) == 1


@pytest.mark.parametrize(
    ("normals", "offsets", "message"),
    [
        (np.vstack((AXES, DIAGONALS[:1])), np.r_[np.ones(6), 10.0], "half-space 6 carries no facet"),
        (np.vstack((AXES, DIAGONALS[:1])), np.r_[np.ones(6), 3.0], "half-space 6 carries no facet"),
        (AXES, np.r_[np.ones(5), 0.0], "origin must lie inside"),
        (AXES[:5], np.ones(5), "do not bound a body"),
        (AXES[:2], np.ones(2), "do not bound a body"),
        (np.vstack((AXES, AXES[:1])), np.ones(7), "body"),
    ],
    ids=["outside", "touches a corner", "origin on a facet", "open box", "two planes", "plane given twice"],
)
def test_impossible_halfspaces_are_refused(normals, offsets, message):
    with pytest.raises(ValueError, match=message):
        ConvexBody.from_halfspaces("body", normals, offsets, NO_SYMMETRY)
