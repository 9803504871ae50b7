"""Free facets: planes that bound a body, the evidence, and a fit that finds what was moved."""

import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.fitting.facets import _chosen, _evidence, fit_facets, free_body
from icobench.fitting.objectives import objective_for
from icobench.geometry.mesh import outlines, write_mesh
from icobench.geometry.shapes import shape, sphere
from icobench.images.image_set import ImageSet
from icobench.images.pixels import photon_counts, usable_pixels
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator


def test_planes_that_carry_no_facet_are_left_out():
    cube = shape("cube")
    normals = np.vstack((cube.normals, np.ones((1, 3)) / np.sqrt(3)))
    body, radius = free_body("cut", normals, np.array([30.0] * 6 + [80.0]))
    assert len(body.normals) == 6
    assert radius == pytest.approx(30 * np.sqrt(3))
    body, _ = free_body("cut", normals, np.array([30.0] * 6 + [45.0]))
    assert len(body.normals) == 7
    with pytest.raises(ValueError, match="origin"):
        free_body("open", cube.normals, np.array([-1.0] + [30.0] * 5))


def test_evidence_is_the_integral_over_the_deviations(rng):
    """Gauss-Hermite quadrature of exp(-H d^2 / 2 + b d) over the prior; two deviations apart."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    hessian, pull, variance = np.diag([3.0, 0.7]), np.array([1.2, -0.4]), np.array([0.5, 2.0])
    expected = 0.0
    for h, b, v in zip(np.diag(hessian), pull, variance, strict=True):
        d = np.sqrt(v) * nodes
        expected += np.log((weights * np.exp(-h * d**2 / 2 + b * d)).sum() / np.sqrt(2 * np.pi))
    rows = [np.array([0]), np.array([1])]
    assert _evidence(hessian, pull, variance, rows) == pytest.approx(expected, rel=1e-9)
    # A deviation that the image says nothing of is not freed, one that it asks for is.
    free, _ = _chosen(np.diag([1e4, 0.0]), np.array([1e3, 0.0]), np.ones(2), rows)
    assert free.tolist() == [True, False]


def test_a_cube_with_one_facet_moved():
    """Counts of a box whose side is 4 nm further out; only that facet is freed, and found."""
    experiment = Experiment(pixels=64, sin_theta_max=0.7)
    generator = torch.Generator().manual_seed(3)
    cube, simulator = shape("cube"), Simulator(experiment)
    distance = np.full(6, 30.0)
    distance[1] += 4.0
    body, radius = free_body("box", cube.normals, distance)
    turn = torch.tensor([[0.9, 0.3, 0.25, 0.2]], dtype=torch.float64)
    turn = turn / turn.norm()
    mask = usable_pixels(experiment, 3.0)
    intensity = simulator.with_body(body).intensity(torch.tensor([radius]), turn)
    counts = photon_counts(intensity, mask, 3e5, generator) * mask
    images = ImageSet(counts, mask[None], "counts", experiment)
    fit = fit_facets(objective_for(images, simulator), 0, cube, 30 * np.sqrt(3) + 1, turn[0])
    # A body may be moved: opposite distances count together.
    assert fit.distance_nm[[0, 2]].sum() + fit.distance_nm[[3, 5]].sum() == pytest.approx(120, abs=0.6)
    assert fit.distance_nm[[1, 4]].sum() == pytest.approx(64, abs=0.3)
    assert not fit.poor
    assert fit.free.sum() <= 2
    # The farthest corner moves with three facets, whose errors are those of the radius.
    bars = fit.distance_std_nm
    assert bars.min() < fit.radius_std_nm < np.sqrt(3) * bars.max()
    assert abs(fit.radius_nm - radius) < 5 * fit.radius_std_nm
    assert fit.evidence > 20


def test_a_sphere_has_no_facets():
    images = ImageSet(torch.ones(1, 16, 16), torch.ones(1, 16, 16).bool(), "counts", Experiment(pixels=16))
    objective = objective_for(images, Simulator(Experiment(pixels=16)))
    with pytest.raises(InputError, match="no facets"):
        fit_facets(objective, 0, sphere(), 50.0, torch.tensor([1.0, 0, 0, 0]))


@pytest.mark.parametrize("name", ["icosahedron", "marks-decahedron", "truncated-cube"])
def test_meshes_are_closed_and_enclose_the_volume(name, tmp_path):
    body = shape(name)
    edges = [
        (int(a), int(b)) for line in outlines(body) for a, b in zip(line, np.roll(line, -1), strict=True)
    ]
    assert len(set(edges)) == len(edges) == 2 * len(body.edges)
    assert {(b, a) for a, b in edges} == set(edges)
    write_mesh(tmp_path / "body.stl", body, 10.0)
    rows = [line.split() for line in (tmp_path / "body.stl").read_text().splitlines()]
    corners = np.array([row[1:] for row in rows if row[0] == "vertex"], dtype=float).reshape(-1, 3, 3)
    assert np.linalg.det(corners).sum() / 6 == pytest.approx(1000 * body.volume, rel=1e-6)
    write_mesh(tmp_path / "body.obj", body, 10.0)
    assert (tmp_path / "body.obj").read_text().count("\nf ") == len(body.normals)
    with pytest.raises(InputError, match="ends in"):
        write_mesh(tmp_path / "body.ply", body)
