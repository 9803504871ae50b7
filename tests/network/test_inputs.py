"""Any detector on one canonical grid, counts conserved."""

import numpy as np
import pytest
import torch

from icobench.geometry.orientation import random_orientations
from icobench.images.pixels import log_image
from icobench.network.inputs import (
    MOST_PHOTONS,
    QUASI_PHOTONS,
    brightness,
    canonical_counts,
    count_brightness,
    network_input,
)
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from tests.network.tiny import image_set

HALF = Experiment(sin_theta_max=0.5)


def test_the_canonical_grid_is_left_alone(generator):
    experiment = Experiment()
    counts = torch.poisson(torch.full((2, 128, 128), 4.0), generator=generator)
    mask = torch.rand(2, 128, 128, generator=generator) > 0.1
    result, usable = canonical_counts(image_set(counts, "counts", mask, experiment))
    assert torch.equal(usable, mask & experiment.valid())
    torch.testing.assert_close(result, counts * usable)


def test_masked_pixels_may_hold_nan(generator):
    counts = torch.poisson(torch.full((1, 128, 128), 4.0), generator=generator)
    mask = torch.ones(1, 128, 128, dtype=torch.bool)
    mask[0, 60:70, 60:70] = False
    expected, _ = canonical_counts(image_set(counts, "counts", mask, Experiment()))
    result, _ = canonical_counts(image_set(counts.where(mask, torch.nan), "counts", mask, Experiment()))
    assert torch.equal(result, expected)


@pytest.mark.parametrize("sine", [0.5, 0.7, 0.93])
def test_rebinning_conserves_counts(sine, generator):
    """A flat signal keeps its density, a single bright pixel its sum."""
    experiment = Experiment(sin_theta_max=sine)
    everything = torch.ones(1, 128, 128, dtype=torch.bool)
    flat, usable = canonical_counts(image_set(torch.ones(1, 128, 128), "counts", everything, experiment))
    seen = usable[0] & Experiment().valid()
    # One canonical pixel covers (1 / sine)^2 detector pixels.
    inner = seen[16:112, 16:112] & (Experiment().sines().abs()[16:112] < sine - 0.03)
    inner &= (Experiment().sines().abs()[16:112] < sine - 0.03)[:, None]
    np.testing.assert_allclose(flat[0, 16:112, 16:112][inner], sine**-2, rtol=1e-4)
    for row, column in ((64, 64), (50, 83), (41, 70)):
        single = torch.zeros(1, 128, 128)
        single[0, row, column] = 1000.0
        result, _ = canonical_counts(image_set(single, "counts", everything, experiment))
        assert float(result.sum()) == pytest.approx(1000, rel=1e-4)
        step = torch.arange(-64.0, 64)
        centre = torch.stack((result.sum(2) @ step, result.sum(1) @ step))[:, 0] / 1000
        expected = torch.tensor([row - 64.0, column - 64.0]) * sine
        np.testing.assert_allclose(centre, expected, atol=0.51 * (1 - sine) + 1e-3)


def test_the_beam_s_offset_is_taken_out():
    """Whole pixels exactly; a single bright pixel half a pixel off goes to its two neighbours."""
    everything = torch.ones(1, 128, 128, dtype=torch.bool)
    single = torch.zeros(1, 128, 128)
    single[0, 70, 80] = 8.0
    result, usable = canonical_counts(
        image_set(single, "counts", everything, Experiment(centre_offset=(3, -5)))
    )
    assert float(result[0, 75, 77]) == 8
    assert not usable[0, :5].any()
    assert not usable[0, :, 125:].any()
    result, _ = canonical_counts(image_set(single, "counts", everything, Experiment(centre_offset=(0.5, 0))))
    np.testing.assert_allclose(result[0, 70, 79:81], [4, 4], rtol=1e-5)


def test_half_range_detector_matches_the_whole(generator):
    """Rebinned 2 x 2 and more, the fine pattern is the coarse one up to its curvature within a pixel."""
    radius, quaternion = torch.tensor([40.0]), random_orientations(1, generator)
    fine = Simulator(HALF).intensity(radius, quaternion)
    coarse = Simulator(Experiment()).intensity(radius, quaternion)[0]
    result, usable = canonical_counts(
        image_set(fine, "intensity", torch.ones(1, 128, 128, dtype=torch.bool), HALF)
    )
    seen = usable[0]
    assert 60**2 < int(seen.sum()) <= 65**2  # half of the range on each axis
    assert seen[34:94, 34:94].all()
    away = seen.clone()
    away[60:69, 60:69] = False  # not the steep forward peak
    first, second = (image[away] / image[away].sum() for image in (result[0], coarse))
    assert float((first - second).norm() / second.norm()) < 0.1
    assert float(np.corrcoef(torch.log(first), torch.log(second))[0, 1]) > 0.99


def test_partly_covered_pixels_read_full_counts():
    """A bad detector pixel takes its share out of the mask, not out of the counts beside it."""
    mask = torch.ones(1, 128, 128, dtype=torch.bool)
    mask[0, 80, 80] = False
    result, usable = canonical_counts(image_set(torch.ones(1, 128, 128), "counts", mask, HALF))
    np.testing.assert_allclose(result[0, 40:88, 40:88][usable[0, 40:88, 40:88]], 4, rtol=1e-4)
    mask[0, 78:83, 78:83] = False
    _, usable = canonical_counts(image_set(torch.ones(1, 128, 128), "counts", mask, HALF))
    assert not usable[0, 72, 72]
    assert usable[0, 68, 68]


def test_solid_angle_factor_is_divided_out(generator):
    radius, quaternion = torch.tensor([40.0]), random_orientations(1, generator)
    mask = torch.ones(1, 128, 128, dtype=torch.bool)
    images = []
    for factor in (False, True):
        experiment = Experiment(solid_angle_factor=factor)
        intensity = Simulator(experiment).intensity(radius, quaternion)
        images.append(canonical_counts(image_set(intensity, "intensity", mask, experiment))[0])
    torch.testing.assert_close(images[0], images[1], rtol=1e-3, atol=1e-3)


def test_polarisation_is_divided_out_and_its_dark_pixels_are_masked(generator):
    radius, quaternion = torch.tensor([40.0]), random_orientations(1, generator)
    mask = torch.ones(1, 128, 128, dtype=torch.bool)
    seen = []
    for polarization in (None, 90.0):
        experiment = Experiment(polarization=polarization)
        intensity = Simulator(experiment).intensity(radius, quaternion)
        seen.append(canonical_counts(image_set(1e3 * intensity, "counts", mask, experiment)))
    (scalar, everywhere), (polarised, usable) = seen
    # cos^2 of the angle along y is below a quarter beyond 60 degrees.
    _, y = Experiment().transverse()
    assert torch.equal(usable[0], everywhere[0] & (y.abs() <= 0.75**0.5))
    ratio = (polarised / scalar)[usable]
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=0)
    assert (polarised[~usable] == 0).all()


def test_brightness():
    mask = torch.ones(2, 128, 128, dtype=torch.bool)
    images = torch.ones(2, 128, 128) * torch.tensor([1.0, 1e6])[:, None, None]
    valid = int(Experiment().valid().sum())
    counts, _ = canonical_counts(image_set(images, "counts", mask, Experiment()))
    np.testing.assert_allclose(counts.sum((1, 2)), [valid, MOST_PHOTONS], rtol=1e-4)
    quasi, _ = canonical_counts(image_set(images * 1e-12, "intensity", mask, Experiment()))
    torch.testing.assert_close(quasi[0], quasi[1])


def test_network_input_channels(generator):
    counts = torch.poisson(torch.full((2, 128, 128), 4.0), generator=generator)
    mask = torch.rand(2, 128, 128, generator=generator) > 0.3
    channels = network_input(count_brightness(counts), mask, 0.05)
    assert channels.shape == (2, 3, 128, 128)
    torch.testing.assert_close(channels[:, 0], torch.log1p(counts * mask) / 4)
    assert torch.equal(channels[:, 1].bool(), mask)
    torch.testing.assert_close(channels[:, 2], torch.full((2, 128, 128), 0.5))


@pytest.mark.parametrize("kind", ["intensity", "log", "counts"])
def test_log_networks_see_log_images_of_any_kind(kind, generator):
    experiment = Experiment()
    intensity = Simulator(experiment).intensity(torch.tensor([40.0]), random_orientations(1, generator))
    mask = torch.ones(1, 128, 128, dtype=torch.bool)
    expected = log_image(intensity)
    images = expected if kind == "log" else intensity
    result, usable = brightness(image_set(images, kind, mask, experiment), log_images=True)
    assert torch.equal(usable[0], experiment.valid())
    np.testing.assert_allclose(result, expected, atol=1e-5)
    # And those for counts see log images as bright counts.
    result, _ = brightness(image_set(images, kind, mask, experiment), log_images=False)
    total = MOST_PHOTONS if kind == "counts" else QUASI_PHOTONS
    expected = torch.log1p(intensity / intensity.sum() * total) / 4
    np.testing.assert_allclose(result, expected, atol=0.02 if kind == "log" else 1e-4)


def test_log_images_of_other_detectors_are_rebinned(generator):
    radius, quaternion = torch.tensor([40.0]), random_orientations(1, generator)
    mask = torch.ones(1, 128, 128, dtype=torch.bool)
    fine = log_image(Simulator(HALF).intensity(radius, quaternion))
    result, usable = brightness(image_set(fine, "log", mask, HALF), log_images=True)
    expected = log_image(Simulator(Experiment()).intensity(radius, quaternion))
    seen = usable[0].clone()
    seen[60:69, 60:69] = False
    assert float(np.corrcoef(result[0][seen], expected[0][seen])[0, 1]) > 0.99
