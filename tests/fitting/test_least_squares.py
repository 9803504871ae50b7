"""Levenberg-Marquardt and the Cramer-Rao bound."""

import math

import numpy as np
import pytest
import torch
from problems import EXPERIMENT, displaced, problem

from icobench.fitting.counter import CountingSimulator
from icobench.fitting.least_squares import (
    LevenbergMarquardtOptions,
    cramer_rao,
    levenberg_marquardt,
    maximum_likelihood,
    normal_equations,
)
from icobench.fitting.objectives import LogImageError, PoissonDeviance, SquareRootError
from icobench.geometry.orientation import boundary_distance, disorientation, to_fundamental_domain
from icobench.geometry.rotations import quaternion_multiply, rotation_vector_to_quaternion
from icobench.images.pixels import log_image
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


def test_a_start_without_a_finite_value_is_left_where_it_is(generator):
    """An image without photons beside a good one: a value in the result, not an exception."""
    objective, radius, truth = problem(2, generator, radius=(40.0, 50.0))
    objective.images[1] = torch.nan
    result = levenberg_marquardt(objective, radius + 0.5, displaced(truth, 1.0, generator))
    assert result.converged.tolist() == [True, False]
    assert float(disorientation(result.quaternion[:1], truth[:1])) < 2
    assert float(result.radius_nm[1]) == float(radius[1] + 0.5)


def test_square_roots_converge_to_the_truth(generator):
    """Noise-free intensities in any unit."""
    objective, radius, truth = problem(3, generator, radius=(35.0, 60.0))
    clean = 1e-3 * Simulator(EXPERIMENT).intensity(radius, truth)
    roots = SquareRootError(clean, objective.mask, CountingSimulator(Simulator(EXPERIMENT), 3))
    result = levenberg_marquardt(roots, radius + 1, displaced(truth, 3.0, generator))
    assert result.converged.all()
    assert float(disorientation(result.quaternion, truth).max()) < 1e-2
    assert float((result.radius_nm - radius).abs().max()) < 1e-3


def test_maximum_likelihood_starts_from_farther_away(generator):
    """Its end is the deviance's minimum."""
    objective, radius, truth = problem(6, generator, radius=(40.0, 60.0))
    start = displaced(truth, 5.0, generator)
    result = maximum_likelihood(objective, radius + 1.5, start)
    at_truth = levenberg_marquardt(objective, radius, truth)
    assert (result.objective <= at_truth.objective + 1e-4).all()
    assert float(disorientation(result.quaternion, at_truth.quaternion).max()) < 0.05
    spent = torch.stack(result.trace.evaluations)
    assert (spent[1:] >= spent[:-1]).all()


def test_starts_on_the_domains_boundary_are_like_any_other(generator):
    """36 degrees about a five-fold axis: two equivalents tie, and steps lead out of the domain."""
    axis = torch.tensor([0.0, 1.0, (1 + math.sqrt(5)) / 2], dtype=torch.float64)
    border = rotation_vector_to_quaternion(axis / axis.norm() * math.radians(36))[None]
    assert float(boundary_distance(border)) < 1e-4
    simulator = Simulator(EXPERIMENT)
    radius = torch.tensor([45.0], dtype=torch.float64)
    for truth in (displaced(border, 1.0, generator), displaced(border, 2.0, generator)):
        clean = simulator.intensity(radius, truth)
        objective = SquareRootError(
            clean, torch.ones_like(clean, dtype=torch.bool), CountingSimulator(simulator, 1)
        )
        result = levenberg_marquardt(objective, radius, border)
        assert float(disorientation(result.quaternion, truth)) < 0.01
        torch.testing.assert_close(to_fundamental_domain(result.quaternion), result.quaternion)
