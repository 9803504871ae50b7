"""Autograd and the forward-mode Jacobian against central differences."""

from dataclasses import replace

import pytest
import torch
from scipy.spatial.transform import Rotation

from icobench.geometry.orientation import random_orientations
from icobench.geometry.rotations import quaternion_multiply, rotation_vector_to_quaternion
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.simulator import Simulator

SMALL = Experiment(pixels=32)  # derivatives cost per node and pixel; the physics is the same
SILVER = Experiment(pixels=32, refractive_index=0.89 + 0.0859j, solid_angle_factor=True)


def moved(quaternion, vector):
    return quaternion_multiply(rotation_vector_to_quaternion(vector), quaternion)


def central_differences(simulator, radius, quaternion):
    """d intensity / d (turn about x, y, z in rad, radius in nm): (4, pixels, pixels) for one body."""
    slopes = []
    for axis in range(4):
        # Error of second order, step^2 (k R)^2 / 6, against round-off 1e-15 / step.
        step = 3e-6 if axis < 3 else 1e-4
        vector = torch.zeros(2, 3, dtype=torch.float64)
        radii = radius.repeat(2)
        change = torch.tensor([step, -step], dtype=torch.float64)
        if axis < 3:
            vector[:, axis] = change
        else:
            radii = radii + change
        up, down = simulator.intensity(radii, moved(quaternion, vector))
        slopes.append((up - down) / (2 * step))
    return torch.stack(slopes)


def relative(found, expected):
    """Relative L2 distance of each derivative image."""
    return ((found - expected).flatten(-2).norm(dim=-1) / expected.flatten(-2).norm(dim=-1)).amax()


@pytest.mark.parametrize("experiment", [SMALL, SILVER], ids=["default", "silver"])
def test_jacobian_against_differences(experiment, generator):
    simulator = Simulator(experiment, dtype=torch.float64)
    radius = torch.tensor([35.0, 55.0], dtype=torch.float64)
    quaternion = random_orientations(2, generator)
    intensity, slopes = simulator.intensity_jacobian(radius, quaternion)
    torch.testing.assert_close(intensity, simulator.intensity(radius, quaternion), rtol=1e-9, atol=1e-3)
    for i in range(2):
        expected = central_differences(simulator, radius[i : i + 1], quaternion[i : i + 1])
        assert relative(slopes[i], expected) < 1e-6


def test_jacobian_in_float32(generator):
    """The precision that fits use: 1e-4 typically, more where facets stand steep."""
    radius = torch.tensor([35.0, 60.0, 80.0], dtype=torch.float64)
    quaternion = random_orientations(3, generator)
    _, expected = Simulator(SMALL, dtype=torch.float64).intensity_jacobian(radius, quaternion)
    _, found = Simulator(SMALL).intensity_jacobian(radius, quaternion)
    assert relative(found, expected) < 2e-3


def test_jacobian_with_a_very_short_segment():
    """Projected edges cross within 2e-7 R of a corner: products of squares leave the range of float32."""
    quaternion = torch.tensor(
        [[0.9428979535544172, -0.1273153546485756, 0.2802650240647216, -0.12722329165526425]],
        dtype=torch.float64,
    )
    radius = torch.tensor([95.0], dtype=torch.float64)
    _, expected = Simulator(SMALL, dtype=torch.float64).intensity_jacobian(radius, quaternion)
    _, found = Simulator(SMALL).intensity_jacobian(radius, quaternion)
    assert relative(found, expected) < 1e-2


def test_autograd_of_the_intensity(generator):
    """Gradient of a weighted sum by radius and by a turn, against the Jacobian's differences."""
    simulator = Simulator(SMALL, dtype=torch.float64)
    radius = torch.tensor([45.0], dtype=torch.float64, requires_grad=True)
    quaternion = random_orientations(1, generator)
    vector = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(32, 32, generator=generator, dtype=torch.float64)
    (simulator.intensity(radius, moved(quaternion, vector)) * weight).sum().backward()
    expected = (central_differences(simulator, radius.detach(), quaternion) * weight).sum((-2, -1))
    torch.testing.assert_close(torch.cat((vector.grad[0], radius.grad)), expected, rtol=1e-5, atol=0)


def test_autograd_of_the_complex_field(generator):
    """The phase of one pixel, which the intensity does not see."""
    simulator = Simulator(SMALL, dtype=torch.float64)
    quaternion = random_orientations(1, generator)
    radius = torch.tensor([45.0], dtype=torch.float64, requires_grad=True)
    simulator.field(radius, quaternion)[0, 20, 9].angle().backward()
    step = 1e-4
    near = torch.tensor([45.0 + step, 45.0 - step], dtype=torch.float64)
    up, down = simulator.field(near, quaternion.expand(2, 4))[:, 20, 9].angle()
    torch.testing.assert_close(radius.grad[0], (up - down) / (2 * step), rtol=1e-5, atol=0)


def test_forward_mode_of_the_field(generator):
    """Dual numbers, as torch.func uses them, against the simulator's own Jacobian."""
    simulator = Simulator(SMALL, dtype=torch.float64)
    radius = torch.tensor([45.0], dtype=torch.float64)
    quaternion = random_orientations(1, generator)

    def along(change):
        return simulator.intensity(radius + change[3:], moved(quaternion, change[None, :3]))

    zero = torch.zeros(4, dtype=torch.float64)
    _, expected = simulator.intensity_jacobian(radius, quaternion)
    for axis in (1, 3):
        _, slope = torch.func.jvp(along, (zero,), (torch.eye(4, dtype=torch.float64)[axis],))
        assert relative(slope[0], expected[0, axis]) < 1e-9


def test_jacobian_of_several_buckets_keeps_the_order(generator):
    simulator = Simulator(SMALL, dtype=torch.float64)
    radius = torch.tensor([60.0, 31.0, 45.0], dtype=torch.float64)
    quaternion = random_orientations(3, generator)
    _, together = simulator.intensity_jacobian(radius, quaternion)
    _, alone = simulator.intensity_jacobian(radius[1:2], quaternion[1:2])
    assert relative(together[1:2], alone) < 1e-9


GRIDS = [
    Experiment(pixels=32, solid_angle_factor=True),
    Experiment(pixels=32, refractive_index=0.89 + 0.0859j, sin_theta_max=0.7),
    Experiment(pixels=32, refractive_index=1.0),
    Experiment(pixels=32, detector=FlatDetector(20.0, 1.0, (15.2, 17.1)), solid_angle_factor=True),
]


@pytest.mark.parametrize("experiment", GRIDS, ids=["default", "silver", "vacuum", "flat"])
def test_derivatives_by_index_and_centre(experiment, generator):
    simulator = Simulator(experiment, dtype=torch.float64)
    body = torch.tensor([35.0, 70.0]), random_orientations(2, generator)
    intensity, slopes = simulator.intensity_jacobian(*body, also=("refractive_index", "centre"))
    torch.testing.assert_close(slopes[:, :4], simulator.intensity_jacobian(*body)[1], rtol=1e-9, atol=1e-3)

    n, step = experiment.refractive_index, 1e-6
    images = [simulator.with_refractive_index(n + d).intensity(*body) for d in (step, -step)]
    assert relative(slopes[:, 4], (images[0] - images[1]) / (2 * step)) < 1e-6
    # Absorption cannot be negative: a one-sided difference of second order where there is none.
    shifts = (1j * step, -1j * step) if n.imag else (1j * step, 2j * step)
    images = [simulator.with_refractive_index(n + d).intensity(*body) for d in shifts]
    if n.imag:
        expected = (images[0] - images[1]) / (2 * step)
    else:
        expected = (4 * images[0] - 3 * intensity - images[1]) / (2 * step)
    assert relative(slopes[:, 5], expected) < 1e-6

    for axis in range(2):
        if experiment.detector is not None:
            images = []
            for change in (1e-4, -1e-4):
                centre = list(experiment.detector.centre)
                centre[axis] += change
                detector = replace(experiment.detector, centre=tuple(centre))
                moved = Simulator(replace(experiment, detector=detector), dtype=torch.float64)
                images.append(moved.intensity(*body))
            assert relative(slopes[:, 6 + axis], (images[0] - images[1]) / 2e-4) < 1e-6
        else:
            # Neighbours on a grid 16 times as fine, in a formula of fourth order; the pattern moves with
            # the beam, so a pixel sees what lay before it.
            fine = Simulator(replace(experiment, pixels=512), dtype=torch.float64).intensity(*body)
            steps = torch.arange(1, 32) * 16
            rows = [steps + d if axis == 1 else steps for d in (-2, -1, 1, 2)]
            columns = [steps + d if axis == 0 else steps for d in (-2, -1, 1, 2)]
            near = [fine[:, r][:, :, c] for r, c in zip(rows, columns, strict=True)]
            expected = -(near[0] - 8 * near[1] + 8 * near[2] - near[3]) * 16 / 12
            inside = (experiment.sin_theta() < 0.9)[1:, 1:]
            found = slopes[:, 6 + axis, 1:, 1:]
            assert relative(found * inside, expected * inside) < 2e-5


@pytest.mark.parametrize(("nz", "tolerance"), [(0.0, 2e-3), (1e-9, 1e-4), (1e-6, 1e-4), (1e-3, 1e-5)])
def test_jacobian_where_a_facet_stands_edge_on(nz, tolerance):
    """With absorption the derivative by a turn across edge-on has two sides; it must be that of one."""
    simulator = Simulator(SMALL, dtype=torch.float64)
    align, _ = Rotation.align_vectors([[1.0, 0.0, 0.0]], [simulator.body.normals[3]])
    turn = Rotation.from_rotvec([0, nz, 0]) * Rotation.from_rotvec([0.7, 0, 0]) * align
    quaternion = torch.tensor(turn.as_quat(scalar_first=True))[None]
    radius = torch.tensor([60.0], dtype=torch.float64)
    intensity, slopes = simulator.intensity_jacobian(radius, quaternion)
    step = 1e-7 if nz == 1e-6 else 1e-6  # does not reach across
    for axis in range(3):
        sides = []
        for sign in (1, -1):
            vectors = torch.zeros(2, 3, dtype=torch.float64)
            vectors[:, axis] = torch.tensor([1.0, 2.0]) * sign * step
            first, second = simulator.intensity(radius.expand(2), moved(quaternion, vectors))
            sides.append((-3 * intensity[0] + 4 * first - second) / (2 * sign * step))
        assert min(relative(slopes[0, axis], side) for side in sides) < tolerance
        if axis == 1 and nz < 1e-8:  # the kink is there, and not small
            assert relative(sides[0], sides[1]) > 0.5


def test_unknown_parameters_are_refused(simulator):
    with pytest.raises(ValueError, match="no derivative by 'colour', only by refractive_index, centre"):
        simulator.intensity_jacobian(torch.tensor([50.0]), torch.tensor([[1.0, 0, 0, 0]]), also=("colour",))


def test_methods_on_voxels_refuse_derivatives():
    simulator = Simulator(Experiment(pixels=64), method="sliced")
    with pytest.raises(ValueError, match="no such derivatives"):
        simulator.intensity_jacobian(torch.tensor([50.0]), torch.tensor([[1.0, 0, 0, 0]]))
