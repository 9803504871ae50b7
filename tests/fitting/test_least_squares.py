"""Levenberg-Marquardt, the Cramer-Rao bound and goodness of fit."""

import math

import numpy as np
import pytest
import torch
from problems import EXPERIMENT, displaced, problem
from scipy.stats import poisson

from icobench.fitting.counter import CountingSimulator
from icobench.fitting.levenberg_marquardt import (
    LevenbergMarquardtOptions,
    levenberg_marquardt,
    normal_equations,
)
from icobench.fitting.objectives import LogImageError, PoissonDeviance
from icobench.fitting.uncertainty import cramer_rao, expected_deviance, poor_fit
from icobench.fitting.warm_start import best_hypothesis, warm_lm
from icobench.geometry.orientation import disorientation
from icobench.geometry.rotations import quaternion_multiply, rotation_vector_to_quaternion
from icobench.images.log_image import log_image
from icobench.simulator.simulator import Simulator


def mean_and_jacobian(objective, radius, quaternion):
    """Expected counts (P,) of image 0 and d mean / d (turn, radius, log scale) (P, 5) by differences."""
    simulator = Simulator(EXPERIMENT, dtype=torch.float64)
    mask = objective.mask[0]

    def shape(change):
        turned = quaternion_multiply(rotation_vector_to_quaternion(change[:3]), quaternion[0])
        return simulator.intensity(radius + change[3], turned[None])[0][mask]

    zero = torch.zeros(4, dtype=torch.float64)
    scale = objective.images[0].double().sum() / shape(zero).sum()
    columns = []
    for axis, step in enumerate((1e-5, 1e-5, 1e-5, 1e-4)):
        change = zero.clone()
        change[axis] = step
        columns.append(scale * (shape(change) - shape(-change)) / (2 * step))
    mean = scale * shape(zero)
    return mean.numpy(), torch.stack((*columns, mean), 1).numpy()


def test_normal_equations_by_differences(generator):
    """J^T diag(1 / mean) J and J^T (mean - n) / mean; bright enough for no pixel to be "faint"."""
    objective, radius, truth = problem(1, generator, photons=1e7, radius=(40.0, 45.0))
    start = displaced(truth, 1.0, generator)
    matrix, gradient, squares = normal_equations(objective, torch.tensor([0]), radius, start)
    mean, jacobian = mean_and_jacobian(objective, radius, start)
    counts = objective.images[0][objective.mask[0]].double().numpy()
    assert mean.min() > 1e-3
    expected = jacobian.T @ (jacobian / mean[:, None])
    size = np.sqrt(np.diag(expected))
    np.testing.assert_allclose(matrix[0] / np.outer(size, size), expected / np.outer(size, size), atol=1e-3)
    expected = jacobian.T @ ((mean - counts) / mean)
    np.testing.assert_allclose(gradient[0] / size, expected / size, atol=1e-3 * np.abs(expected / size).max())
    assert float(squares[0]) == pytest.approx(((mean - counts) ** 2 / mean).sum(), rel=1e-3)


def test_cramer_rao_by_an_explicit_fisher_matrix(generator):
    objective, radius, truth = problem(1, generator, radius=(40.0, 45.0))
    _, jacobian = mean_and_jacobian(objective, radius, truth)
    mean = jacobian[:, 4]
    covariance = np.linalg.inv(jacobian.T @ (jacobian / mean[:, None]))
    radius_std, turn_std = cramer_rao(objective, radius, truth)
    assert float(radius_std[0]) == pytest.approx(math.sqrt(covariance[3, 3]), rel=2e-3)
    expected = math.degrees(math.sqrt(np.trace(covariance[:3, :3])))
    assert float(turn_std[0]) == pytest.approx(expected, rel=2e-3)


def test_cramer_rao_falls_with_the_root_of_the_photons(generator):
    objective, radius, truth = problem(1, generator, radius=(40.0, 45.0))
    brighter = PoissonDeviance(100 * objective.images, objective.mask, objective.simulator)
    for few, many in zip(
        cramer_rao(objective, radius, truth), cramer_rao(brighter, radius, truth), strict=True
    ):
        assert float(few / many) == pytest.approx(10, rel=1e-2)


def test_the_briefs_bounds():
    """1e5 photons, 30 degree detector: 1.05 degrees at R = 30 nm, 0.43 at 60; 0.02 to 0.04 nm."""
    generator = torch.Generator().manual_seed(3)
    simulator = Simulator(type(EXPERIMENT)(sin_theta_max=0.5))
    for radius, degrees in ((30.0, 1.05), (60.0, 0.43)):
        objective, true_radius, truth = problem(
            6, generator, radius=(radius, radius + 1e-3), simulator=simulator
        )
        radius_std, turn_std = cramer_rao(objective, true_radius, truth)
        # The brief's are averages over many orientations; six scatter by some 20 %.
        assert float(turn_std.median()) == pytest.approx(degrees, rel=0.35)
        assert 0.01 < float(radius_std.median()) < 0.05


def test_fit_reaches_the_bound(generator):
    """From 3 degrees and 1 nm away: chi squares of the errors in units of the bound."""
    objective, radius, truth = problem(4, generator, radius=(30.0, 60.0))
    result = levenberg_marquardt(objective, radius + 1, displaced(truth, 3.0, generator))
    radius_std, turn_std = cramer_rao(objective, radius, truth)
    pulls = (result.radius_nm - radius) / radius_std
    turns = disorientation(result.quaternion, truth) / turn_std
    assert float(pulls.abs().max()) < 4
    assert float(turns.max()) < 3  # the bound is already the root of a sum over three axes
    assert result.converged.all()
    best = objective.value(torch.arange(4), radius, truth).double()
    assert (result.objective <= best + 1e-4).all()
    trace = torch.stack(result.trace.objective)
    assert (trace[1:] <= trace[:-1]).all()


def test_fit_of_log_images(generator):
    """Noise-free 8-bit images: the truth is found to a fraction of their rounding."""
    counts, radius, truth = problem(2, generator, radius=(35.0, 50.0))
    clean = Simulator(EXPERIMENT).intensity(radius, truth)
    levels = (log_image(clean) * 255).round() / 255
    objective = LogImageError(levels, counts.mask, CountingSimulator(Simulator(EXPERIMENT), 2))
    result = levenberg_marquardt(objective, radius - 1, displaced(truth, 3.0, generator))
    assert float(disorientation(result.quaternion, truth).max()) < 0.1
    assert float((result.radius_nm - radius).abs().max()) < 0.02


def test_radius_bounds_and_step_limits(generator):
    objective, _, truth = problem(1, generator, radius=(55.0, 56.0))
    options = LevenbergMarquardtOptions(
        iterations=4, radius_range_nm=(30.0, 45.0), largest_turn_deg=0.5, largest_radius_nm=3.0
    )
    result = levenberg_marquardt(objective, torch.tensor([38.0]), truth, options)
    steps = torch.stack(result.trace.radius_nm)[:, 0]
    assert float((steps[1:] - steps[:-1]).abs().max()) <= 3 + 1e-9
    assert float(result.radius_nm) <= 45
    path = torch.stack(result.trace.quaternion)[:, 0]
    assert float(disorientation(path[1:], path[:-1]).max()) <= 0.5 + 1e-6


def test_images_in_one_batch_do_not_influence_each_other(generator):
    objective, radius, truth = problem(2, generator, radius=(30.0, 45.0))
    start = displaced(truth, 2.0, generator)
    options = LevenbergMarquardtOptions(iterations=4)
    together = levenberg_marquardt(objective, radius + 0.5, start, options)
    alone = levenberg_marquardt(objective, radius[1:] + 0.5, start[1:], options, torch.tensor([1]))
    assert float(disorientation(together.quaternion[1:], alone.quaternion)) < 0.01
    torch.testing.assert_close(together.radius_nm[1:], alone.radius_nm, rtol=1e-5, atol=0)


@pytest.mark.parametrize("mean", [1e-4, 0.01, 0.3, 1.0, 2.7, 30.0, 500.0])
def test_expected_deviance_against_monte_carlo(mean, rng):
    """Sampled, and as an explicit sum over the distribution."""
    found = float(expected_deviance(torch.tensor(mean)))
    n = np.arange(int(mean + 20 * math.sqrt(mean) + 30))
    logs = np.log(np.maximum(n, 1) / mean)
    unit = 2 * (n * logs - n + mean)
    # Interpolated in a table of 20 steps a decade.
    assert found == pytest.approx((poisson.pmf(n, mean) * unit).sum(), rel=5e-3)
    draws = rng.poisson(mean, 100_000)
    error = unit[draws].std() / math.sqrt(len(draws)) + 1e-9
    assert abs(unit[draws].mean() - found) < 4 * error + 5e-3 * found


def test_expected_deviance_at_the_ends():
    faint = expected_deviance(torch.tensor([0.0, 1e-9, 1e-6, 1e-4]))
    assert (faint >= 0).all()
    assert (faint[1:] > faint[:-1]).all()
    assert float(expected_deviance(torch.tensor(1e6))) == pytest.approx(1, abs=1e-3)


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


def test_warm_start_tries_the_other_hypothesis(generator):
    """The better one is taken first; a poor end sends the fit to the next."""
    objective, radius, truth = problem(2, generator, radius=(45.0, 55.0))
    near, far = displaced(truth, 2.0, generator), displaced(truth, 22.0, generator)
    hypotheses = torch.stack((torch.stack((far[0], near[0])), torch.stack((near[1], far[1]))))
    assert best_hypothesis(objective, radius, hypotheses).tolist() == [1, 0]
    result, poor = warm_lm(objective, radius + 0.5, hypotheses)
    assert not poor.any()
    assert float(disorientation(result.quaternion, truth).max()) < 2
    hopeless = torch.stack((far, displaced(truth, 25.0, generator)), 1)
    _, poor = warm_lm(objective, radius, hopeless, LevenbergMarquardtOptions(iterations=1))
    assert poor.all()
