"""Deviance and log-image error against explicit formulas."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import kl_div
from scipy.stats import poisson

from icobench.fitting.counter import CountingSimulator, inner_pixels
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import (
    LogImageError,
    NoisyDeviance,
    PoissonDeviance,
    SquareRootError,
    objective_for,
)
from icobench.geometry.rotations import turned
from icobench.images.image_set import ImageSet
from icobench.images.pixels import log_image
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

EXPERIMENT = Experiment(pixels=16, sin_theta_max=0.5)  # every pixel is valid
BOTH = torch.tensor([0, 1])


@pytest.fixture
def scene(generator):
    """Intensities (2, 16, 16) over three decades and a mask (2, 16, 16)."""
    intensity = 10 ** (3 * torch.rand(2, 16, 16, generator=generator, dtype=torch.float64) - 1)
    mask = torch.rand(2, 16, 16, generator=generator) > 0.2
    return intensity, mask


def make(kind, images, mask):
    return kind(images, mask, CountingSimulator(Simulator(EXPERIMENT), len(images)))


def poisson_problem(scene, generator):
    intensity, mask = scene
    counts = torch.poisson(intensity, generator=generator)
    return make(PoissonDeviance, counts, mask), counts, intensity, mask


def test_deviance_by_its_formula(scene, generator):
    """SciPy's kl_div(n, m) is n log(n / m) - n + m."""
    objective, counts, intensity, mask = poisson_problem(scene, generator)
    model = intensity.flip(0)  # anything else than the truth
    for i in range(2):
        n, m = counts[i][mask[i]].numpy(), model[i][mask[i]].numpy()
        m = m * n.sum() / m.sum()
        expected = 2 * kl_div(n, m).sum() / mask[i].sum()
        assert float(objective.compare(BOTH, model)[i]) == pytest.approx(float(expected), rel=1e-6)


def test_deviance_is_the_log_likelihood_ratio_at_the_best_scale(scene, generator):
    """SciPy's Poisson distribution, the scale found by a search."""
    objective, counts, intensity, mask = poisson_problem(scene, generator)
    n, m = counts[0][mask[0]].numpy(), intensity[0][mask[0]].numpy()
    saturated = poisson.logpmf(n, np.maximum(n, 1e-300)).sum()
    best = minimize_scalar(lambda s: -poisson.logpmf(n, m * math.exp(s)).sum(), bracket=(-0.5, 0.5))
    expected = 2 * (saturated + best.fun) / len(n)
    assert float(objective.compare(BOTH, intensity)[0]) == pytest.approx(expected, rel=1e-5)


def test_deviance_of_a_perfect_model_vanishes(scene):
    intensity, mask = scene
    perfect = make(PoissonDeviance, intensity, mask)
    # Float32 images: the scale and the logarithms are good to 1e-7.
    assert float(perfect.compare(BOTH, 1e5 * intensity).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", [PoissonDeviance, LogImageError])
@pytest.mark.parametrize("factor", [1e-8, 3.7, 1e12])
def test_the_scale_of_the_intensity_does_not_matter(scene, generator, kind, factor):
    intensity, mask = scene
    images = torch.poisson(intensity, generator=generator)
    if kind is LogImageError:
        images = log_image(images, 6.0)
    objective = make(kind, images, mask)
    model = intensity.flip(0)
    torch.testing.assert_close(
        objective.compare(BOTH, factor * model), objective.compare(BOTH, model), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("kind", [PoissonDeviance, LogImageError])
def test_masked_pixels_are_ignored(scene, kind):
    intensity, mask = scene
    images = intensity.round() if kind is PoissonDeviance else log_image(intensity)
    clean = make(kind, images, mask)
    spoilt = make(kind, images.where(mask, torch.nan), mask)
    model = intensity.flip(0)
    assert torch.equal(spoilt.compare(BOTH, model), clean.compare(BOTH, model))
    louder = model.where(mask, 1e6)
    torch.testing.assert_close(clean.compare(BOTH, louder), clean.compare(BOTH, model))
    for first, second in zip(clean.residuals(BOTH, model), spoilt.residuals(BOTH, model), strict=True):
        assert torch.equal(first, second)
        assert (first[~mask] == 0).all()


def test_pixels_outside_the_half_space_are_masked():
    experiment = Experiment(pixels=16)
    counter = CountingSimulator(Simulator(experiment), 1)
    objective = PoissonDeviance(torch.ones(1, 16, 16), torch.ones(1, 16, 16, dtype=torch.bool), counter)
    assert int(objective.usable[0]) == int(experiment.valid().sum()) < 256


def test_log_error_of_the_same_image_vanishes(scene):
    """Also when measured with 8 bits: a step of 1/255 has variance 1/12 of a step squared."""
    intensity, mask = scene
    exact = make(LogImageError, log_image(intensity), mask)
    assert float(exact.compare(BOTH, 1e7 * intensity).max()) < 1e-11
    levels = (log_image(intensity) * 255).round() / 255
    rounded = make(LogImageError, levels, mask).compare(BOTH, intensity)
    np.testing.assert_allclose(rounded, 1 / 255**2 / 12, rtol=0.3)


def test_log_error_by_its_formula(scene):
    """Without clipping the best scale is the mean difference of the logarithms."""
    intensity, mask = scene
    image = 0.2 + 0.6 * log_image(intensity)
    model = intensity.flip(0)
    values = make(LogImageError, image, mask).compare(BOTH, model)
    for i in range(2):
        gap = (image[i] - torch.log10(model[i]) / 6)[mask[i]]
        assert float(values[i]) == pytest.approx(float(gap.var(correction=0)), rel=1e-5)


def test_log_error_clips_like_the_image():
    """Pixels below the image's range cost nothing once both are dark."""
    intensity = torch.logspace(0, -9, 256, dtype=torch.float64).reshape(1, 16, 16)
    everything = torch.ones(1, 16, 16, dtype=torch.bool)
    objective = make(LogImageError, log_image(intensity), everything)
    dimmer = intensity.where(intensity > 1e-6, 1e-3 * intensity)
    assert float(objective.compare(torch.tensor([0]), 42 * dimmer)[0]) < 1e-9


@pytest.mark.parametrize("kind", [PoissonDeviance, LogImageError])
def test_residuals_give_the_gradient(scene, generator, kind):
    """sum r dr/dI = half the gradient of pixels times the objective, by central differences.

    For counts the residuals are Pearson's, whose own derivative is not used;
    the gradient of the likelihood is.
    """
    intensity, mask = scene
    model = intensity * (1 + 0.3 * torch.rand(2, 16, 16, generator=generator, dtype=torch.float64))
    image = torch.poisson(intensity, generator=generator)
    image = image if kind is PoissonDeviance else 0.2 + 0.6 * log_image(intensity)
    objective = make(kind, image, mask)
    residual, slope = objective.residuals(BOTH, model)
    direction = model * torch.randn(2, 16, 16, generator=generator, dtype=torch.float64)
    step = 1e-5
    up, down = (objective.compare(BOTH, model + sign * step * direction) for sign in (1, -1))
    expected = (up - down) / (2 * step) * objective.usable / 2
    torch.testing.assert_close((residual * slope * direction).sum((1, 2)), expected, rtol=1e-4, atol=1e-6)


def test_log_residuals_by_differences(scene):
    """The scale is held: shift every pixel on its own and take out the mean shift."""
    intensity, mask = scene
    objective = make(LogImageError, 0.2 + 0.6 * log_image(intensity), mask)
    model = intensity.flip(0)
    residual, slope = objective.residuals(BOTH, model)
    step = 1e-6
    bumped = model.clone()
    bumped[0, 3, 4] *= 1 + step
    change = (objective.residuals(BOTH, bumped)[0] - residual)[0, 3, 4] / (step * model[0, 3, 4])
    held = slope[0, 3, 4] * (1 - 1 / objective.usable[0])  # the profiled scale follows by its share
    assert bool(mask[0, 3, 4])
    torch.testing.assert_close(change, held, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("counts", PoissonDeviance), ("log", LogImageError), ("intensity", SquareRootError)],
)
def test_objective_for_a_kind_of_images(scene, kind, expected):
    intensity, mask = scene
    images = ImageSet(log_image(intensity) if kind == "log" else intensity, mask, kind, EXPERIMENT)
    simulator = Simulator(EXPERIMENT)
    objective = objective_for(images, simulator)
    assert type(objective) is expected
    assert torch.equal(objective.mask, mask)
    assert objective.simulator.evaluations.tolist() == [0, 0]
    assert objective.simulator.simulator is simulator


def test_pixels_near_the_edge_are_left_out_where_the_centre_is_fitted():
    experiment = Experiment(pixels=32)
    images = ImageSet(torch.ones(2, 32, 32), torch.ones(2, 32, 32, dtype=torch.bool), "counts", experiment)
    objective = objective_for(images, Simulator(experiment), ("background", "centre"))
    assert torch.equal(objective.mask[1], inner_pixels(experiment))


def test_square_roots_of_models_that_dip_below_zero(scene):
    """As interpolated ones may: such a pixel counts as dark."""
    intensity, mask = scene
    mask[:, 3, 4] = True
    model = intensity.clone()
    model[:, 3, 4] = -0.1
    dark = model.clamp_min(0)
    roots = make(SquareRootError, intensity, mask)
    assert torch.equal(roots.compare(BOTH, model), roots.compare(BOTH, dark))
    assert all(part.isfinite().all() for part in roots.residuals(BOTH, model))


def noisy(generator, readout, images=200):
    """Images of 64 pixels a side with a flat mean each, photon and read-out noise: means (N,), objective."""
    simulator = Simulator(Experiment(pixels=64))
    means = torch.linspace(0.05, 20, images)
    counts = torch.poisson(means[:, None, None].expand(-1, 64, 64).clone(), generator=generator)
    counts = counts + readout * torch.randn(counts.shape, generator=generator)
    variance = torch.full_like(counts, readout**2)
    mask = simulator.valid.expand(counts.shape)
    return means, NoisyDeviance(counts, mask, CountingSimulator(simulator, images), variance)


@pytest.mark.parametrize("readout", [0.2, 0.7, 3.0])
def test_noise_of_a_camera_is_neither_a_misfit_nor_a_bias(generator, readout):
    """At the right body the ratio is 1 within its scatter, and the profiled scale is the mean's, below 0 or
    not."""
    means, objective = noisy(generator, readout)
    every, flat = torch.arange(len(means)), torch.ones(len(means), 64, 64)
    expected, _ = objective._expected(every, flat)
    pixels = objective.usable[0]
    level = expected.sum((1, 2)) / pixels
    spread = ((means + readout**2) / pixels).sqrt()
    assert float(((level - means) / spread).abs().mean()) < 1.0  # 0.80 for a normal variable
    value = objective.compare(every, flat)
    misfit = objective.misfit_of(every, flat, value.double(), 1)
    assert float((misfit.ratio - 1).abs().max()) < 0.3
    assert not misfit.poor.any()
    wrong = flat.clone()
    wrong[:, :, :32] = 3.0
    value = objective.compare(every, wrong)
    assert objective.misfit_of(every, wrong, value.double(), 1).poor[means > 5].all()


def test_the_noisy_deviance_has_the_score_of_its_residuals(generator):
    """By finite differences; without noise it is the Poisson deviance."""
    _, objective = noisy(generator, 0.7, 3)
    every = torch.arange(3)
    shape = 1 + 0.3 * torch.rand(3, 64, 64, generator=generator, dtype=torch.float64)
    step = 1e-4 * torch.randn(3, 64, 64, generator=generator, dtype=torch.float64)
    objective.images, objective.readout = objective.images.double(), objective.readout.double()
    high, low = (objective.compare(every, shape + sign * step) for sign in (1, -1))
    residuals, weight = objective.residuals(every, shape)
    slope = 2 * (residuals * weight * step).sum((1, 2)) / objective.usable
    # The scale is profiled, so its change does not count at the minimum.
    torch.testing.assert_close((high - low) / 2, slope, rtol=2e-2, atol=1e-8)
    quiet = replace(
        objective, images=torch.poisson(shape * 4, generator=generator), readout=0 * objective.readout
    )
    poisson = PoissonDeviance(quiet.images, quiet.mask, quiet.simulator)
    torch.testing.assert_close(
        quiet.compare(every, shape), poisson.compare(every, shape), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("kind", "name", "value"), [("counts", "gamma", 0.8), ("log", "decades", 4.5)])
def test_derivatives_by_the_exponent(kind, name, value):
    """Of all parameters, with a background beside it, by finite differences."""
    experiment = Experiment(pixels=64)
    simulator = Simulator(experiment, dtype=torch.float64)
    turn = torch.nn.functional.normalize(torch.tensor([[0.9, 0.1, 0.3, 0.2]], dtype=torch.float64), dim=1)
    radius, image = torch.tensor([50.0], dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    pixels = simulator.intensity(radius, turn)
    tests = ImageSet(pixels, simulator.valid[None], kind, experiment)
    names = ("background", name)
    objective = objective_for(tests, simulator, names)
    nuisance = Nuisance(names, torch.tensor([[0.2, value]], dtype=torch.float64))
    _, slopes = objective.model_jacobian(image, radius, turn, nuisance)

    def model(step):
        moved = turned(turn, step[None, :3])
        other = Nuisance(names, nuisance.values + step[4:])
        return objective.model(image, radius + step[3], moved, other)

    for parameter in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[parameter] = 1e-5
        expected = (model(step) - model(-step)) / 2e-5
        error = (slopes[:, parameter] - expected).norm() / expected.norm()
        assert float(error) < 2e-4, parameter
