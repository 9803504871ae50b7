"""Goodness of fit against the Poisson distribution and against other bodies."""

import math

import numpy as np
import pytest
import torch
from problems import EXPERIMENT, displaced, problem
from scipy.stats import poisson

from icobench.fitting.counter import CountingSimulator
from icobench.fitting.objectives import LogImageError, SquareRootError, deviance_moments
from icobench.images.pixels import log_image
from icobench.simulator.simulator import Simulator


@pytest.mark.parametrize("mean", [1e-4, 0.01, 0.3, 1.0, 2.7, 30.0, 500.0])
def test_expected_deviance_against_monte_carlo(mean, rng):
    """Sampled, and as an explicit sum over the distribution."""
    expected, variance = (float(moment) for moment in deviance_moments(torch.tensor(mean)))
    n = np.arange(int(mean + 20 * math.sqrt(mean) + 30))
    logs = np.log(np.maximum(n, 1) / mean)
    unit = 2 * (n * logs - n + mean)
    # Interpolated in a table of 20 steps a decade.
    assert expected == pytest.approx((poisson.pmf(n, mean) * unit).sum(), rel=5e-3)
    draws = rng.poisson(mean, 100_000)
    error = unit[draws].std() / math.sqrt(len(draws)) + 1e-9
    assert abs(unit[draws].mean() - expected) < 4 * error + 5e-3 * expected
    assert variance == pytest.approx(
        (poisson.pmf(n, mean) * unit**2).sum() - (poisson.pmf(n, mean) * unit).sum() ** 2, rel=1e-2
    )


def test_expected_deviance_at_the_ends():
    faint = deviance_moments(torch.tensor([0.0, 1e-9, 1e-6, 1e-4]))[0]
    assert (faint >= 0).all()
    assert (faint[1:] > faint[:-1]).all()
    assert float(deviance_moments(torch.tensor(1e6))[0]) == pytest.approx(1, abs=1e-3)


def test_poor_fits_are_told_from_good_ones(generator):
    """The truth explains its image, an orientation 20 degrees off does not, also for log images."""
    objective, radius, truth = problem(2, generator, radius=(45.0, 60.0))
    wrong = displaced(truth, 20.0, generator)
    assert not objective.misfit(radius, truth).poor.any()
    assert objective.misfit(radius, wrong).poor.all()
    assert objective.misfit(radius[1:], wrong[1:], torch.tensor([1])).poor.tolist() == [True]
    assert objective.misfit(radius[:0], truth[:0], torch.zeros(0, dtype=torch.long)).poor.shape == (0,)
    clean = log_image(Simulator(EXPERIMENT).intensity(radius, truth))
    logs = LogImageError(clean, objective.mask, CountingSimulator(Simulator(EXPERIMENT), 2))
    assert not logs.misfit(radius, truth).poor.any()
    assert logs.misfit(radius, wrong).poor.all()
    roots = SquareRootError(
        Simulator(EXPERIMENT).intensity(radius, truth), objective.mask,
        CountingSimulator(Simulator(EXPERIMENT), 2),
    )  # fmt: skip
    assert not roots.misfit(radius, truth).poor.any()
    assert roots.misfit(radius, wrong).poor.all()


def test_the_ratio_is_one_at_the_truth_whatever_the_photons(generator):
    for photons in (2e3, 1e5, 1e7):
        objective, radius, truth = problem(8, generator, photons=photons, radius=(30.0, 60.0))
        misfit = objective.misfit(radius, truth)
        assert not misfit.poor.any()
        assert float(misfit.ratio.mean()) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("photons", [2e4, 1e7])
def test_a_small_change_is_alike_and_may_be_a_poor_fit(photons, generator):
    """A radius 0.3 nm off shows at many photons, and is alike at any; images moved by four pixels are not."""
    objective, radius, truth = problem(4, generator, photons=photons, radius=(45.0, 60.0))
    assert not objective.misfit(radius, truth).unlike.any()
    changed = objective.misfit(radius + 0.3, truth)
    assert not changed.unlike.any()
    assert changed.poor.all() == (photons > 1e6)
    moved = type(objective)(objective.images.roll((4, 4), (1, 2)), objective.mask, objective.simulator)
    assert moved.misfit(radius, truth).unlike.all()


@pytest.mark.parametrize("kind", [LogImageError, SquareRootError])
def test_log_images_and_intensities_are_alike_or_not(kind, generator):
    """Log images of photon counts differ from clean ones everywhere; moved by ten pixels they differ more."""
    objective, radius, truth = problem(4, generator, photons=1e6, radius=(45.0, 60.0))
    images = log_image(objective.images) if kind is LogImageError else objective.images
    counting = CountingSimulator(Simulator(EXPERIMENT), 4)
    seen = kind(images, objective.mask, counting)
    assert not seen.misfit(radius, truth).unlike.any()
    moved = kind(images.roll((10, 10), (1, 2)), objective.mask, counting)
    assert moved.misfit(radius, truth).unlike.all()


def test_values_that_are_not_finite_are_poor(generator):
    objective, radius, truth = problem(1, generator)
    objective.images[0] = torch.nan
    misfit = objective.misfit(radius, truth)
    assert misfit.poor.all()
    assert misfit.unlike.all()
