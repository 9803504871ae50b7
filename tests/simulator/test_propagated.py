"""The propagating method: its limits, its convergence, Maxwell's equations, and polarised beams."""

import math
from dataclasses import replace

import miepython
import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from icobench.geometry.convex import icosahedron
from icobench.geometry.orientation import random_orientations
from icobench.geometry.rotations import quaternion_to_matrix, turned
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.propagated import PropagatedField
from icobench.simulator.simulator import Simulator

SILVER = Experiment(pixels=48, refractive_index=0.89 + 0.0859j, physics="propagated")


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.fixture
def body(generator):
    """Of 50 orientations the one whose facets are farthest from edge-on, where the field has kinks."""
    quaternion = random_orientations(50, generator)
    upright = quaternion_to_matrix(quaternion) @ torch.as_tensor(icosahedron().normals).T
    best = upright[:, 2].abs().amin(1).argmax()
    return torch.tensor([60.0], dtype=torch.float64), quaternion[best : best + 1]


class Sphere(PropagatedField):
    def ray_ends(self, radius, rotation, offsets):
        half = (radius[:, None] ** 2 - offsets[0] ** 2 - offsets[1] ** 2).clamp_min(0).sqrt()
        return -half, half


@pytest.mark.parametrize("index", [1 + 0.0859j, 0.89 + 0.0859j], ids=["absorbing", "silver"])
@pytest.mark.parametrize("radius_nm", [30.0, 60.0])
def test_spheres_scatter_as_maxwells_equations_say(index, radius_nm):
    """Mie theory in the plane across the polarisation: straight rays are 4 % of the amplitude off."""
    pixels, angles = 256, np.radians(np.arange(1, 60.01, 0.5))
    experiment = Experiment(refractive_index=index, pixels=pixels)
    sphere = Sphere(experiment, icosahedron(), torch.float64)
    field = sphere(torch.tensor([radius_nm], dtype=torch.float64), torch.tensor([[1.0, 0, 0, 0]]))
    row = field[0, pixels // 2].numpy()
    found = np.abs(CubicSpline(experiment.sines().numpy(), row)(np.sin(angles)))
    size = experiment.wave_number * radius_nm
    amplitude, _ = miepython.S1_S2(index.conjugate(), size, np.cos(angles), norm="wiscombe")
    mie = np.abs(amplitude)
    scale = (found @ mie) / (found @ found)
    assert np.linalg.norm(scale * found - mie) < 0.01 * np.linalg.norm(mie)
    # The scale, too: a weak scatterer's amplitude is k^3 (n^2 - 1) F / (4 pi); n^2 - 1 is about 2 (n - 1).
    absolute = experiment.wave_number**3 * abs(2 * (index - 1)) / (4 * math.pi)
    assert scale == pytest.approx(absolute, rel=0.02)


def test_the_error_falls_with_the_square_of_the_steps(body):
    """From 2 to 4 steps a wavelength by about four, and below half a per cent at 4."""
    inner = SILVER.sin_theta() < 0.8
    fields = {
        steps: PropagatedField(SILVER, icosahedron(), torch.float64, steps)(*body)[:, inner]
        for steps in (2, 4, 8)
    }
    coarse, fine = (relative(fields[steps], fields[8]) for steps in (2, 4))
    assert fine < 5e-3
    assert 3 < coarse / fine < 16


def test_a_wider_window_changes_nothing(body, monkeypatch):
    found = PropagatedField(SILVER, icosahedron(), torch.float64)(*body)
    monkeypatch.setattr("icobench.simulator.propagated.MARGIN_NM", 240.0)
    wide = PropagatedField(SILVER, icosahedron(), torch.float64)(*body)
    inner = SILVER.sin_theta() < 0.8
    assert relative(found[:, inner], wide[:, inner]) < 3e-3


@pytest.mark.parametrize("weakness", [0, 1e-3])
def test_weak_scatterers_have_the_exact_field(weakness, body):
    """Also without any contrast, where the field is the transform of the shape."""
    experiment = replace(SILVER, refractive_index=1 + weakness * (-0.11 + 0.0859j))
    found = Simulator(experiment).field(*body)
    assert relative(found, Simulator(experiment, "exact").field(*body)) < 3e-3


def test_silver_refracts(body):
    """Refraction is what this method is for: tens of per cent at R = 60 nm."""
    found = Simulator(SILVER).field(*body)
    assert 0.1 < relative(found, Simulator(SILVER, "exact").field(*body)) < 0.5


@pytest.mark.parametrize(
    "experiment",
    [
        replace(SILVER, centre_offset=(0.4, -1.3)),
        replace(SILVER, sin_theta_max=0.7),
        replace(SILVER, detector=FlatDetector(50, 1.2)),
    ],
    ids=["offset", "cropped", "flat"],
)
def test_any_detector(experiment, body):
    """The differences from straight rays on other detectors are those on the same directions."""
    fine = replace(SILVER, pixels=128)
    expected = Simulator(fine).field(*body)[0] / Simulator(fine, "exact").field(*body)[0]
    found = Simulator(experiment).field(*body)[0] / Simulator(experiment, "exact").field(*body)[0]
    x, y = experiment.transverse()
    chosen = (experiment.sin_theta() < 0.3) & experiment.valid()
    columns, rows = ((64 + 64 * values[chosen]).round().long() for values in (x, y))
    # The ratio is smooth but near the field's zeros: compare its medians over the middle.
    assert float(found[chosen].abs().median()) == pytest.approx(
        float(expected[rows, columns].abs().median()), rel=0.02
    )


def test_items_do_not_depend_on_the_batch(generator):
    radius, quaternion = torch.tensor([35.0, 60.0, 61.0, 90.0]), random_orientations(4, generator)
    simulator = Simulator(SILVER)
    together = simulator.field(radius, quaternion)
    alone = torch.cat([simulator.field(radius[i : i + 1], quaternion[i : i + 1]) for i in range(4)])
    assert relative(together, alone) < 1e-6


def test_a_half_turn_about_the_beam_turns_the_image(body):
    """Exactly so on a grid whose middle is a pixel: from the second row and column on."""
    radius, quaternion = body
    half_turn = turned(quaternion, torch.tensor([[0.0, 0.0, math.pi]], dtype=torch.float64))
    simulator = Simulator(SILVER, dtype=torch.float64)
    first, second = (simulator.intensity(radius, q)[0, 1:, 1:] for q in (quaternion, half_turn))
    assert relative(second.flip(0, 1), first) < 1e-3


def test_derivatives_by_central_differences(body):
    radius, quaternion = body
    simulator = Simulator(SILVER, dtype=torch.float64)
    intensity, slopes = simulator.intensity_jacobian(radius, quaternion, also=("refractive_index",))
    torch.testing.assert_close(intensity, simulator.intensity(radius, quaternion))
    step = 1e-3
    for axis in range(3):
        turn = torch.zeros(1, 3, dtype=torch.float64)
        turn[0, axis] = step
        ahead, behind = (simulator.intensity(radius, turned(quaternion, sign * turn)) for sign in (1, -1))
        assert relative(slopes[:, axis], (ahead - behind) / (2 * step)) < 0.03
    ahead, behind = (simulator.intensity(radius + sign * 0.05, quaternion) for sign in (1, -1))
    assert relative(slopes[:, 3], (ahead - behind) / 0.1) < 0.05
    for place, direction in ((4, 1e-3), (5, 1e-3j)):
        ahead, behind = (
            simulator.with_refractive_index(0.89 + 0.0859j + sign * direction).intensity(radius, quaternion)
            for sign in (1, -1)
        )
        assert relative(slopes[:, place], (ahead - behind) / 2e-3) < 0.02
    with pytest.raises(ValueError, match="derivatives"):
        simulator.intensity_jacobian(radius, quaternion, also=("centre",))


@pytest.mark.parametrize(
    ("polarization", "expected"),
    [
        (None, (1, 1)), (0.0, (0.75, 1)), (90.0, (1, 0.75)), (45.0, (0.875, 0.875)),
        ("circular", (0.875, 0.875)),
    ],
)  # fmt: skip
def test_polarised_beams_scatter_less_along_the_polarisation(polarization, expected):
    """cos^2 of the angle along it: 3/4 at 30 degrees; the mean of both directions for circular light."""
    experiment = Experiment(polarization=polarization)
    factor = experiment.polarization_factor()
    along_x, along_y = factor[64, 96], factor[96, 64]  # sin(theta) = 1/2
    assert (float(along_x), float(along_y)) == pytest.approx(expected)


@pytest.mark.parametrize("polarization", [20.0, "circular"])
@pytest.mark.parametrize(
    "grid", [Experiment(pixels=48), Experiment(pixels=48, detector=FlatDetector(50, 1.2))]
)
def test_the_gain_moves_with_the_beam(grid, polarization, body):
    """Derivatives by the centre against differences, in which polarisation and solid angle move along."""
    experiment = replace(grid, polarization=polarization, solid_angle_factor=True)
    _, slopes = Simulator(experiment, dtype=torch.float64).intensity_jacobian(*body, also=("centre",))
    step = 1e-4
    for axis in (0, 1):
        moved = []
        for sign in (1, -1):
            if experiment.detector is None:
                offset = [0.0, 0.0]
                offset[axis] = sign * step
                other = replace(experiment, centre_offset=tuple(offset))
            else:
                centre = [24.0, 24.0]
                centre[axis] += sign * step
                other = replace(experiment, detector=replace(experiment.detector, centre=tuple(centre)))
            moved.append(Simulator(other, dtype=torch.float64).intensity(*body))
        expected = (moved[0] - moved[1]) / (2 * step)
        inner = (experiment.sin_theta() < 0.9) & experiment.valid()
        assert relative(slopes[:, 4 + axis][:, inner], expected[:, inner]) < 1e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"physics": "bent"}, "straight, propagated"), ({"polarization": "left"}, "circular"),
     ({"polarization": math.nan}, "circular")],
)  # fmt: skip
def test_unknown_physics_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Experiment(**changes)


def test_experiments_come_back_from_json_with_their_physics():
    experiment = replace(SILVER, polarization="circular")
    assert Experiment.from_dict(experiment.to_dict()) == experiment
    older = {
        name: value for name, value in SILVER.to_dict().items() if name not in ("physics", "polarization")
    }
    assert Experiment.from_dict(older) == replace(SILVER, physics="straight")
