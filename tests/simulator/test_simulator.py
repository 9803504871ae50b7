"""The common interface: shapes, masks, factors, errors."""

import pytest
import torch

from icobench.geometry.orientation import random_orientations
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import SIMULATORS, Simulator

UPRIGHT = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
SMALL = Experiment(pixels=48)  # the smallest grid of the methods on voxels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", SIMULATORS)
def test_every_method_obeys_the_interface(method, dtype, generator):
    simulator = Simulator(SMALL, method=method, dtype=dtype)
    radius, quaternion = torch.tensor([30.0]), random_orientations(1, generator)
    field = simulator.field(radius, quaternion)
    assert field.shape == (1, 48, 48)
    assert field.dtype == (torch.complex64 if dtype == torch.float32 else torch.complex128)
    assert torch.isfinite(torch.view_as_real(field)).all()
    assert (field[:, ~SMALL.valid()] == 0).all()
    intensity = simulator.intensity(radius, quaternion)
    assert intensity.dtype == dtype
    torch.testing.assert_close(intensity, field.abs().square())
    torch.testing.assert_close(simulator(radius, quaternion), intensity)


@pytest.mark.parametrize("method", SIMULATORS)
def test_empty_batch(method):
    simulator = Simulator(SMALL, method=method)
    nothing = torch.zeros(0), torch.zeros(0, 4)
    assert simulator.field(*nothing).shape == (0, 48, 48)
    assert simulator.intensity(*nothing).shape == (0, 48, 48)
    if method == "exact":
        intensity, slopes = simulator.intensity_jacobian(*nothing)
        assert intensity.shape == (0, 48, 48)
        assert slopes.shape == (0, 4, 48, 48)


@pytest.mark.parametrize(
    ("radius", "quaternion", "message"),
    [
        (torch.tensor(50.0), UPRIGHT, "shape"),
        (torch.tensor([50.0]), UPRIGHT[0], "shape"),
        (torch.tensor([50.0, 60.0]), UPRIGHT, "shape"),
        (torch.tensor([50.0]), torch.ones(1, 3), "shape"),
        (torch.tensor([0.0]), UPRIGHT, "radius_nm"),
        (torch.tensor([-5.0]), UPRIGHT, "radius_nm"),
        (torch.tensor([torch.nan]), UPRIGHT, "radius_nm"),
        (torch.tensor([torch.inf]), UPRIGHT, "radius_nm"),
        (torch.tensor([50.0]), 0 * UPRIGHT, "quaternion"),
        (torch.tensor([50.0]), torch.nan * UPRIGHT, "quaternion"),
    ],
)
def test_bad_input_is_refused(simulator, radius, quaternion, message):
    for function in (simulator.field, simulator.intensity, simulator.intensity_jacobian):
        with pytest.raises(ValueError, match=message):
            function(radius, quaternion)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"unknown method 'exakt', choose from exact"):
        Simulator(method="exakt")
    with pytest.raises(ValueError, match="dtype"):
        Simulator(dtype=torch.float16)


def test_solid_angle_factor(simulator, generator):
    """k / k_z on the intensity, nothing on the field."""
    experiment = Experiment(pixels=64, solid_angle_factor=True)
    radius, quaternion = torch.tensor([40.0]), random_orientations(1, generator)
    plain = simulator.intensity(radius, quaternion)[0]
    weighted = Simulator(experiment).intensity(radius, quaternion)[0]
    valid = experiment.valid()
    torch.testing.assert_close(weighted[valid], (plain / experiment.cos_theta(torch.float32))[valid])
    assert (weighted[~valid] == 0).all()


@pytest.mark.parametrize("method", ["exact", "sliced"])
def test_another_refractive_index(method, generator):
    """The shortcut gives what a new simulator gives, and leaves the old one alone."""
    radius, quaternion = torch.tensor([40.0]), random_orientations(1, generator)
    simulator = Simulator(SMALL, method=method)
    before = simulator.field(radius, quaternion)
    silver = simulator.with_refractive_index(0.89 + 0.0859j)
    assert silver.experiment.refractive_index == 0.89 + 0.0859j
    fresh = Simulator(Experiment(pixels=48, refractive_index=0.89 + 0.0859j), method=method)
    torch.testing.assert_close(silver.field(radius, quaternion), fresh.field(radius, quaternion))
    torch.testing.assert_close(simulator.field(radius, quaternion), before)
    assert not torch.allclose(silver.field(radius, quaternion), before, rtol=1e-2)


def test_numbers_of_any_kind_are_taken(simulator):
    """Lists, whole numbers and single precision."""
    expected = simulator.intensity(torch.tensor([40.0]).double(), UPRIGHT.double())
    for radius, quaternion in (([40], [[1, 0, 0, 0]]), (torch.tensor([40]), UPRIGHT), ([40.0], UPRIGHT)):
        assert torch.equal(simulator.intensity(radius, quaternion), expected)


def test_constants_are_buffers_that_move_and_are_not_saved(generator):
    simulator = Simulator(SMALL)
    simulator.field(torch.tensor([40.0]), random_orientations(1, generator))
    assert dict(simulator.named_buffers())
    assert not dict(simulator.named_parameters())
    assert not simulator.state_dict()


@pytest.mark.parametrize("radius", [60.0, 155.0])
def test_average_over_pixels(radius, generator):
    """Against 8 x 8 points within the pixels, by moving the grid; the rim keeps its values."""
    body = torch.tensor([radius]), random_orientations(1, generator)
    steps = [(i + 0.5) / 8 - 0.5 for i in range(8)]
    fine = sum(
        Simulator(Experiment(centre_offset=(x, y), solid_angle_factor=True)).intensity(*body)
        for x in steps
        for y in steps
    )
    plain, averaged = (
        Simulator(Experiment(pixel_average=on, solid_angle_factor=True)).intensity(*body)
        for on in (False, True)
    )
    inner = Experiment().sin_theta() < 0.9

    def miss(found):
        return float(((found - fine / 64) * inner).norm() / (fine / 64 * inner).norm())

    # The 8 points' own error is 1/64 of the difference from the plain values.
    assert miss(averaged) < 2e-3 + miss(plain) / 30
    assert miss(averaged) < miss(plain) / 5
    assert torch.equal(averaged[:, :3], plain[:, :3])
    edge = (Experiment().sin_theta() > 0.99) & Experiment().valid()
    assert torch.equal(averaged[:, edge], plain[:, edge])


def test_derivatives_of_averages_are_averages_of_derivatives(generator):
    simulator = Simulator(Experiment(pixels=64, pixel_average=True), dtype=torch.float64)
    radius, quaternion = torch.tensor([60.0], dtype=torch.float64), random_orientations(1, generator)
    _, slopes = simulator.intensity_jacobian(radius, quaternion)
    difference = simulator.intensity(radius + 1e-4, quaternion) - simulator.intensity(
        radius - 1e-4, quaternion
    )
    torch.testing.assert_close(
        slopes[:, 3], difference / 2e-4, rtol=1e-5, atol=1e-6 * float(slopes.abs().max())
    )
