"""Autograd and the forward-mode Jacobian against central differences."""

import pytest
import torch

from icobench.geometry.orientation import random_orientations
from icobench.geometry.rotations import quaternion_multiply, rotation_vector_to_quaternion
from icobench.simulator.experiment import Experiment
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


def test_methods_on_voxels_refuse_derivatives():
    simulator = Simulator(Experiment(pixels=64), method="sliced")
    with pytest.raises(ValueError, match="no derivatives"):
        simulator.intensity_jacobian(torch.tensor([50.0]), torch.tensor([[1.0, 0, 0, 0]]))
