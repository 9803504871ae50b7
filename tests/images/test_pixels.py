"""Photon statistics, log images and masks."""

import math

import numpy as np
import pytest
import torch

from icobench.images.pixels import (
    expected_counts,
    intensity_from_log,
    log_image,
    photon_counts,
    usable_pixels,
)
from icobench.simulator.experiment import Experiment


@pytest.fixture
def scene(generator):
    """Two images over four decades and a mask, as (2, 32, 32) and (32, 32)."""
    intensity = 10 ** (4 * torch.rand(2, 32, 32, generator=generator, dtype=torch.float64))
    mask = torch.rand(32, 32, generator=generator) > 0.2
    return intensity, mask


def test_expected_counts(scene):
    intensity, mask = scene
    photons = torch.tensor([1e3, 5e4])
    mean = expected_counts(intensity, mask, photons)
    np.testing.assert_allclose(mean.sum((1, 2)), photons, rtol=1e-12)
    assert (mean[:, ~mask] == 0).all()
    ratio = (mean / intensity)[:, mask]
    np.testing.assert_allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-12)
    # The unit of the intensity does not matter; each image may have its own mask.
    torch.testing.assert_close(expected_counts(1e-9 * intensity, mask.expand(2, -1, -1), photons), mean)


def test_photon_counts_are_poisson(scene, generator):
    intensity, mask = scene
    draws = torch.stack([photon_counts(intensity, mask, 2e4, generator) for _ in range(400)])
    mean = expected_counts(intensity, mask, 2e4)
    assert (draws == draws.round()).all()
    assert (draws[:, :, ~mask] == 0).all()
    bright = mean > 1
    # Standardised mean of 400 draws: standard normal for each of some 1,600 pixels.
    score = ((draws.mean(0) - mean) / (mean / 400).sqrt())[bright]
    assert abs(float(score.mean())) < 5 / math.sqrt(len(score))
    assert float(score.abs().max()) < 5
    # Variance over mean is 1 with a scatter of sqrt(2 / 399) a pixel.
    ratio = (draws.var(0) / mean)[bright]
    assert float(ratio.mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / 399 / len(ratio)))
    totals = draws.sum((2, 3))
    assert abs(float(totals.mean()) - 2e4) < 5 * math.sqrt(2e4 / 800)


def test_photon_counts_repeat_with_the_seed(scene):
    intensity, mask = scene
    first, again, other = (
        photon_counts(intensity, mask, 1e4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("decades", [3.0, 6.0])
def test_log_image_round_trip(scene, decades):
    intensity, _ = scene
    image = log_image(intensity, decades)
    assert float(image.min()) >= 0
    np.testing.assert_allclose(image.amax((1, 2)), 1)
    relative = intensity / intensity.amax((1, 2), keepdim=True)
    kept = relative > 10**-decades
    assert (image[~kept] == 0).all()
    back = intensity_from_log(image, decades)
    np.testing.assert_allclose(back[kept], relative[kept], rtol=1e-12)
    assert (back[~kept] == 0).all()


def test_log_image_by_hand():
    intensity = torch.tensor([[[1000.0, 10.0], [0.0, 1e-9]]])
    np.testing.assert_allclose(log_image(intensity, 6.0), [[[1, 2 / 3], [0, 0]]], atol=1e-7)
    scaled = log_image(intensity, 6.0, torch.tensor([1e4]))
    np.testing.assert_allclose(scaled, [[[5 / 6, 0.5], [0, 0]]], atol=1e-7)
    assert float(log_image(intensity, 6.0, torch.tensor([10.0])).max()) == 1  # clipped from above too


def test_log_image_of_nothing_is_dark():
    assert (log_image(torch.zeros(2, 4, 4)) == 0).all()


def test_usable_pixels():
    experiment = Experiment()
    steps = torch.arange(-64, 64)
    square = steps[:, None] ** 2 + steps**2
    valid = experiment.valid()
    outside_hole = square.double().sqrt() >= 64 * math.sin(math.radians(3.0))
    assert not outside_hole[64, 64]
    inside = (steps.abs()[:, None] <= 32) & (steps.abs() <= 32)
    assert torch.equal(usable_pixels(experiment), valid)
    assert torch.equal(usable_pixels(experiment, 3.0), outside_hole & valid)
    assert torch.equal(usable_pixels(experiment, sine=0.5), inside)
    assert torch.equal(usable_pixels(experiment, 3.0, 0.5), outside_hole & inside)


def test_usable_pixels_follow_the_angular_range():
    """The same angle covers twice the pixels on a detector of half the range."""
    full, half = (usable_pixels(Experiment(sin_theta_max=sine), 6.0) for sine in (1.0, 0.5))
    assert torch.equal(half[::2, ::2], full[32:96, 32:96])
