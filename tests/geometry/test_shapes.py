"""Bodies by name: counts of facets, volumes, symmetry."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from icobench.geometry.orientation import disorientation, equivalents, to_fundamental_domain
from icobench.geometry.rotations import quaternion_multiply, random_quaternions
from icobench.geometry.shapes import SHAPES, shape, sphere
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

# Facets, vertices, edges, order of the rotation group; volume for circumradius 1 from the solids' formulas.
PHI = (1 + 5**0.5) / 2
TIP = (1 - 1 / (2 * math.sin(math.pi / 5)) ** 2) ** 0.5  # height of a pyramid of equilateral triangles
JOHNSON_16 = (5 + 5**0.5) / 12 + 5 / (4 * math.tan(math.pi / 5))
SOLIDS = {
    "icosahedron": (20, 12, 30, 60, 2.5361507),
    "cube": (6, 8, 12, 24, (2 / 3**0.5) ** 3),
    "octahedron": (8, 6, 12, 24, 4 / 3),
    "truncated-octahedron": (14, 24, 36, 24, 8 * 2**0.5 * (0.4**0.5) ** 3),
    "cuboctahedron": (14, 12, 24, 24, 5 / 3 * 2**0.5),
    "dodecahedron": (12, 20, 30, 60, (15 + 7 * 5**0.5) / 4 * (2 / (3**0.5 * PHI)) ** 3),
    "tetrahedron": (4, 4, 6, 12, (8 / 3) ** 1.5 / (6 * 2**0.5)),
    "truncated-tetrahedron": (8, 12, 18, 12, 23 / 12 * 2**0.5 / (22**0.5 / 4) ** 3),
    "rhombic-dodecahedron": (12, 14, 24, 24, 2.0),
    # Johnson's solids 13 and 16; the Marks decahedron is less than the latter by ten wedges.
    "decahedron": (10, 7, 15, 10, (5 + 5**0.5) / 12 * (2 * math.sin(math.pi / 5)) ** 3),
    "truncated-decahedron": (15, 12, 25, 10, JOHNSON_16 / (0.5 + TIP) ** 3),
    "marks-decahedron": (20, 32, 50, 10, None),
    "hexagonal-prism": (8, 12, 18, 12, 1.5 * 3**0.5 * 2 / 2**1.5),
    "hexagonal-plate": (8, 12, 18, 12, 1.5 * 3**0.5 * 0.6 / 1.09**1.5),
    "truncated-icosahedron": (32, 60, 90, 60, (125 + 43 * 5**0.5) / 4 / ((58 + 18 * 5**0.5) ** 0.5 / 4) ** 3),
    "truncated-cube": (14, 24, 36, 24, (21 + 14 * 2**0.5) / 3 / ((7 + 4 * 2**0.5) ** 0.5 / 2) ** 3),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_solids(name):
    body = shape(name)
    facets, vertices, edges, order, volume = SOLIDS[name]
    assert (len(body.normals), len(body.vertices), len(body.edges), len(body.group)) == (
        facets, vertices, edges, order,
    )  # fmt: skip
    assert volume is None or body.volume == pytest.approx(volume, rel=1e-7)
    assert np.linalg.norm(body.vertices, axis=1).max() == pytest.approx(1)
    np.testing.assert_allclose(np.abs(body.group[0]), (1, 0, 0, 0), atol=1e-12)
    for rotation in Rotation.from_quat(body.group, scalar_first=True):
        turned = rotation.apply(body.vertices)
        nearest = np.linalg.norm(turned[:, None] - body.vertices, axis=-1).min(1)
        np.testing.assert_allclose(nearest, 0, atol=1e-9)


def test_parameters_of_families():
    """Limits and textbook members of the families, and refusals."""
    prism = shape("hexagonal-prism=2")
    x, y, z = prism.vertices.T
    assert np.ptp(z) / (2 * np.hypot(x, y).max()) == pytest.approx(2)
    for name, whole, most in (
        ("truncated-cube", shape("cube"), shape("cuboctahedron")),
        ("truncated-icosahedron", shape("icosahedron"), None),
    ):
        small, large = SHAPES[name].at(0).volume, SHAPES[name].at(1).volume
        # Less is cut off than the removed corners' share of the circumsphere would say.
        assert abs(SHAPES[name].make("", 1e-4).volume / whole.volume - 1) < 1e-3
        assert small < large
        assert most is None or SHAPES[name].make("", 1 - 1e-6).volume == pytest.approx(most.volume, rel=1e-5)
    for text, message in (
        ("hexagonal-prism=9", "aspect ratio of a hexagonal-prism must lie in 0.5 to 3, got 9"),
        ("truncated-cube=0", "truncation of a truncated-cube must lie in 0.3 to 0.95"),
        ("cube=2", "the cube has no parameter"),
        ("truncated-cube=much", "expected a number after truncated-cube=, got 'much'"),
    ):
        with pytest.raises(ValueError, match=message):
            shape(text)


def form_factor(body, wave):
    """Integral of exp(-i q r) over the body at q (P, 3): Gauss-Legendre on tetrahedra from the origin."""
    nodes, weights = np.polynomial.legendre.leggauss(9)
    u, v, w = (axis.ravel() for axis in np.meshgrid(*[(nodes + 1) / 2] * 3, indexing="ij"))
    weight = np.prod(np.meshgrid(*[weights / 2] * 3, indexing="ij"), axis=0).ravel() * u**2 * v
    # Duffy's map from the cube: the corners' weights along u, v, w.
    corners = np.stack((u * (1 - v), u * v * (1 - w), u * v * w), 1)
    total = 0
    for triangle in ConvexHull(body.vertices).simplices:
        edges = body.vertices[triangle]
        total += abs(np.linalg.det(edges)) * weight @ np.exp(-1j * (corners @ edges) @ wave.T)
    return total


@pytest.mark.parametrize("name", SOLIDS)
def test_form_factor(name):
    """The exact simulator without contrast against numerical quadrature; at q = 0 it is the volume."""
    body, radius = shape(name), 15.0
    experiment = Experiment(refractive_index=1.0, pixels=8)
    turn = np.array([0.8, 0.3, -0.4, 0.33])
    field = Simulator(experiment, dtype=torch.float64, body=body).field(
        torch.tensor([radius]), torch.tensor(turn)[None]
    )[0]
    x, y = (part.numpy() for part in experiment.transverse())
    depth = experiment.cos_theta().numpy() - 1
    wave = np.stack((x, y, depth), -1)[experiment.valid().numpy()] * experiment.wave_number * radius
    turned = Rotation.from_quat(turn, scalar_first=True).inv().apply(wave)
    expected = form_factor(body, turned) * radius**3
    np.testing.assert_allclose(field[experiment.valid()].numpy(), expected, atol=2e-5 * abs(expected).max())
    assert field[4, 4].real == pytest.approx(body.volume * radius**3, rel=1e-5)


def test_orientations_of_all_bodies(generator):
    """A body's own rotations leave an orientation in the domain as it is, and no others do."""
    quaternion = random_quaternions(40, generator)
    for name in SOLIDS:
        body = shape(name)
        inside = to_fundamental_domain(quaternion, body)
        assert (inside[:, :1] >= equivalents(quaternion, body)[..., 0] - 1e-12).all()
        element = torch.as_tensor(body.group[len(body.group) // 2])
        assert disorientation(quaternion_multiply(quaternion, element), quaternion, body).max() < 1e-5
        assert disorientation(quaternion_multiply(element, quaternion), quaternion, body).median() > 5


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
