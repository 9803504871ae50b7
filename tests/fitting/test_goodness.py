"""Goodness of fit against the Poisson distribution and against other bodies."""

import math

import numpy as np
import pytest
import torch
from problems import EXPERIMENT, displaced, problem
from scipy.stats import poisson

from icobench.fitting.counter import CountingSimulator
from icobench.fitting.goodness import deviance_moments, misfit, poor_fit, unlike
from icobench.fitting.objectives import LogImageError, SquareRootError
from icobench.images.log_image import log_image
from icobench.simulator.simulator import Simulator


@pytest.mark.parametrize("mean", [1e-4, 0.01, 0.3, 1.0, 2.7, 30.0, 500.0])
def test_expected_deviance_against_monte_carlo(mean, rng):
    """Sampled, and as an explicit sum over the distribution."""
    found = float(deviance_moments(torch.tensor(mean))[0])
    n = np.arange(int(mean + 20 * math.sqrt(mean) + 30))
    logs = np.log(np.maximum(n, 1) / mean)
    unit = 2 * (n * logs - n + mean)
    # Interpolated in a table of 20 steps a decade.
    assert found == pytest.approx((poisson.pmf(n, mean) * unit).sum(), rel=5e-3)
    draws = rng.poisson(mean, 100_000)
    error = unit[draws].std() / math.sqrt(len(draws)) + 1e-9
    assert abs(unit[draws].mean() - found) < 4 * error + 5e-3 * found
    spread = float(deviance_moments(torch.tensor(mean))[1])
    assert spread == pytest.approx(
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
    assert not poor_fit(objective, radius, truth).any()
    assert poor_fit(objective, radius, wrong).all()
    assert poor_fit(objective, radius[1:], wrong[1:], torch.tensor([1])).tolist() == [True]
    nothing = torch.zeros(0, dtype=torch.long)
    assert poor_fit(objective, radius[:0], truth[:0], nothing).shape == (0,)
    clean = log_image(Simulator(EXPERIMENT).intensity(radius, truth))
    logs = LogImageError(clean, objective.mask, CountingSimulator(Simulator(EXPERIMENT), 2))
    assert not poor_fit(logs, radius, truth).any()
    assert poor_fit(logs, radius, wrong).all()
    roots = SquareRootError(
        Simulator(EXPERIMENT).intensity(radius, truth), objective.mask,
        CountingSimulator(Simulator(EXPERIMENT), 2),
    )  # fmt: skip
    assert not poor_fit(roots, radius, truth).any()
    assert poor_fit(roots, radius, wrong).all()


def test_the_ratio_is_one_at_the_truth_whatever_the_photons(generator):
    for photons in (2e3, 1e5, 1e7):
        objective, radius, truth = problem(8, generator, photons=photons, radius=(30.0, 60.0))
        ratio, poor = misfit(objective, radius, truth)
        assert not poor.any()
        assert float(ratio.mean()) == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize("photons", [2e4, 1e7])
def test_a_small_change_is_alike_and_may_be_a_poor_fit(photons, generator):
    """A radius 0.3 nm off shows at many photons, and is alike at any; images moved by four pixels are not."""
    objective, radius, truth = problem(4, generator, photons=photons, radius=(45.0, 60.0))
    assert not unlike(objective, radius, truth).any()
    assert not unlike(objective, radius + 0.3, truth).any()
    assert poor_fit(objective, radius + 0.3, truth).all() == (photons > 1e6)
    moved = type(objective)(objective.images.roll((4, 4), (1, 2)), objective.mask, objective.simulator)
    assert unlike(moved, radius, truth).all()


@pytest.mark.parametrize("kind", [LogImageError, SquareRootError])
def test_log_images_and_intensities_are_alike_or_not(kind, generator):
    """Log images of photon counts differ from clean ones everywhere; moved by ten pixels they differ more."""
    objective, radius, truth = problem(4, generator, photons=1e6, radius=(45.0, 60.0))
    images = log_image(objective.images) if kind is LogImageError else objective.images
    counting = CountingSimulator(Simulator(EXPERIMENT), 4)
    seen = kind(images, objective.mask, counting)
    assert not unlike(seen, radius, truth).any()
    assert unlike(kind(images.roll((10, 10), (1, 2)), objective.mask, counting), radius, truth).all()


def test_values_that_are_not_finite_are_poor(generator):
    objective, radius, truth = problem(1, generator)
    objective.images[0] = torch.nan
    assert poor_fit(objective, radius, truth).all()
    assert unlike(objective, radius, truth).all()
