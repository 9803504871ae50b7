"""Derivatives by the distances of facets, against differences of the slow reference and of simulations."""

import math

import numpy as np
import pytest
import torch

from icobench.fitting.facets import free_body
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.geometry.shapes import shape
from icobench.simulator.closed_form import field
from icobench.simulator.experiment import Experiment
from icobench.simulator.facet_slopes import facet_slopes
from icobench.simulator.overlay import body_tensors
from icobench.simulator.simulator import Simulator

WAVE_NUMBER = 2 * math.pi / 13.5
TURN = torch.nn.functional.normalize(torch.tensor([0.8, 0.3, -0.4, 0.33], dtype=torch.float64), dim=0)


@pytest.mark.parametrize(
    ("name", "index"),
    [("icosahedron", 1 + 0.0859j), ("marks-decahedron", 0.89 + 0.0859j), ("marks-decahedron", 1.0)],
)
def test_slopes_are_those_of_the_reference(name, index, rng):
    body, radius, step = shape(name), 50.0, 2e-5
    angle, around = rng.uniform(0.05, 0.9, 3), rng.uniform(0, 2 * np.pi, 3)
    k_x, k_y = WAVE_NUMBER * np.sin(angle) * np.cos(around), WAVE_NUMBER * np.sin(angle) * np.sin(around)
    q_z = np.sqrt(WAVE_NUMBER**2 - k_x**2 - k_y**2) - WAVE_NUMBER
    waves = torch.tensor(np.stack((k_x, k_y, q_z, np.ones(3))))
    kappa, facets = complex(WAVE_NUMBER * (index - 1)), [0, 3, len(body.offsets) - 1]
    expected = []
    for facet in facets:
        ends = []
        for sign in (1, -1):
            moved = body.offsets + sign * step * (np.arange(len(body.offsets)) == facet)
            ends.append(field(body.normals, moved, radius, TURN.numpy(), index, k_x, k_y))
        expected.append((ends[0] - ends[1]) / (2 * step * radius))
    where = body_tensors(body), quaternion_to_matrix(TURN)[None], torch.tensor([radius])
    for dtype in (torch.float32, torch.float64):
        slopes = facet_slopes(*where, waves, kappa, dtype)
        assert slopes.dtype == dtype.to_complex()
        scale = float(slopes.abs().max())
        np.testing.assert_allclose(slopes[0, facets].numpy(), expected, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("turn", [TURN, torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)])
def test_slopes_of_the_intensity(turn):
    """Also of a cube whose sides are exactly along the beam; rows do not depend on their neighbours."""
    experiment = Experiment(pixels=48, sin_theta_max=0.8)
    simulator, cube = Simulator(experiment, body=shape("cube"), dtype=torch.float64), shape("cube")
    both = torch.tensor([60.0, 31.0]), torch.stack((turn, TURN))
    slopes = simulator.facet_slopes(*both)
    assert slopes.shape == (2, 6, 48, 48)
    alone = simulator.facet_slopes(both[0][:1], both[1][:1])
    torch.testing.assert_close(slopes[:1], alone, rtol=1e-9, atol=1e-9 * float(alone.abs().max()))
    for facet in range(6):
        ends = []
        for sign in (1, -1):
            distance = 60 * cube.offsets + 0.05 * sign * (np.arange(6) == facet)
            body, radius = free_body("moved", cube.normals, distance)
            ends.append(simulator.with_body(body).intensity(torch.tensor([radius]), turn[None])[0])
        expected = (ends[0] - ends[1]) / 0.1
        assert float((slopes[0, facet] - expected).norm() / expected.norm()) < 1e-3


def test_what_has_no_facets():
    at = torch.tensor([60.0]), TURN[None]
    for simulator in (Simulator(method="sliced"), Simulator(body=shape("sphere"))):
        with pytest.raises(ValueError, match="only polyhedra and the exact method"):
            simulator.facet_slopes(*at)
