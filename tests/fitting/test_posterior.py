"""Samples of the posterior against a grid, a chain and the sampler's own calibration."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from icobench.answer import Answer, Hypotheses
from icobench.errors import InputError
from icobench.fitting.least_squares import cramer_rao
from icobench.fitting.objectives import objective_for
from icobench.fitting.posterior import log_likelihood, sample_posterior, starts_of
from icobench.geometry.orientation import disorientation, nearest_equivalent, random_orientations
from icobench.geometry.rotations import rotate_about_beam, turned
from icobench.images.image_set import ImageSet
from icobench.sets.simulate import simulate
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    """Thousands of images: with the compiled kernel where there is a compiler."""
    monkeypatch.setenv("ICOBENCH_COMPILE", "1")


def images(radii, photons, seed=1):
    generator = torch.Generator().manual_seed(seed)
    radii = torch.tensor(radii, dtype=torch.float64)
    return simulate(radii, random_orientations(len(radii), generator), photons, 3.0, seed=seed)


def starts(tests: ImageSet, away: float = 0.02) -> Hypotheses:
    """Near the truth, and at its near twin."""
    near = turned(tests.quaternion, torch.full((len(tests), 3), away, dtype=torch.float64))
    twin = rotate_about_beam(near, torch.full((len(tests),), math.pi, dtype=torch.float64))
    turns = torch.stack((near, twin), 1)
    radii = tests.radius_nm[:, None].repeat(1, 2)
    return Hypotheses(radii, turns, torch.zeros_like(radii))


def sampled(tests: ImageSet, samples: int, seed: int = 0):
    return sample_posterior(
        objective_for(tests, Simulator(Experiment())), starts(tests), samples, seed, tests.numbers
    )


def test_bright_images_have_the_gaussian_of_the_fisher_information():
    tests = images([60.0, 110.0], 1e6)
    samples = sampled(tests, 800)
    bounds = cramer_rao(objective_for(tests, Simulator(Experiment())), tests.radius_nm, tests.quaternion)
    mean = (samples.weight * samples.radius_nm).sum(1)
    spread = (samples.weight * (samples.radius_nm - mean[:, None]).square()).sum(1).sqrt()
    torch.testing.assert_close(spread, bounds[0], rtol=0.12, atol=0)
    assert ((mean - tests.radius_nm).abs() < 4 * spread).all()
    centre = samples.quaternion[torch.arange(2), samples.weight.argmax(1)]
    turns = nearest_equivalent(samples.quaternion, centre[:, None].expand_as(samples.quaternion))
    vectors = 2 * turns - 2 * (samples.weight[..., None] * turns).sum(1, keepdim=True)
    rms = torch.rad2deg((samples.weight * vectors.square().sum(-1)).sum(1).sqrt())
    torch.testing.assert_close(rms, bounds[1], rtol=0.12, atol=0)
    assert (samples.effective > 400).all()
    assert (samples.pareto_k < 0.5).all()


@pytest.mark.slow
def test_a_chain_agrees(rng):
    """Metropolis steps with the same likelihood, but nothing else in common."""
    tests = images([45.0], 2e3, seed=4)
    samples = sampled(tests, 1500)
    objective = objective_for(tests, Simulator(Experiment()))
    walkers, steps = 48, 120
    at = torch.zeros(walkers, dtype=torch.long)
    radius = tests.radius_nm.repeat(walkers) + 0.2 * torch.as_tensor(rng.standard_normal(walkers))
    turn = turned(
        tests.quaternion.repeat(walkers, 1), torch.as_tensor(0.03 * rng.standard_normal((walkers, 3)))
    )
    value, kept = log_likelihood(objective, at, radius, turn), []
    for step in range(steps):
        size = torch.as_tensor(rng.standard_normal((walkers, 4))) * torch.tensor([0.04, 0.04, 0.04, 0.2])
        trial_radius, trial_turn = radius + size[:, 3], turned(turn, size[:, :3])
        trial = log_likelihood(objective, at, trial_radius, trial_turn)
        moved = torch.as_tensor(np.log(rng.uniform(size=walkers))) < trial - value
        radius = torch.where(moved, trial_radius, radius)
        turn = torch.where(moved[:, None], trial_turn, turn)
        value = torch.where(moved, trial, value)
        if step >= 40:
            kept.append(radius)
    chain = torch.cat(kept)
    mean = float((samples.weight * samples.radius_nm).sum())
    spread = float((samples.weight * (samples.radius_nm - mean) ** 2).sum().sqrt())
    assert mean == pytest.approx(float(chain.mean()), abs=0.25 * spread)
    assert spread == pytest.approx(float(chain.std()), rel=0.2)


def test_both_modes_are_kept_with_their_odds():
    """At few photons half a turn about the beam is hardly visible; other draws give the same odds."""
    tests = images([36.0, 33.0], 400.0, seed=8)
    samples = sampled(tests, 1000)
    twin = rotate_about_beam(tests.quaternion, torch.full((2,), math.pi, dtype=torch.float64))
    near = disorientation(samples.quaternion, tests.quaternion[:, None])
    other = disorientation(samples.quaternion, twin[:, None])
    share = (samples.weight * (other < near)).sum(1)
    assert ((share > 0.02) & (share < 0.98)).any()
    assert (samples.columns["posterior_modes"] > 1).any()
    again = sampled(tests, 1000, seed=1)
    other = disorientation(again.quaternion, twin[:, None])
    near = disorientation(again.quaternion, tests.quaternion[:, None])
    torch.testing.assert_close((again.weight * (other < near)).sum(1), share, rtol=0, atol=0.12)


@pytest.mark.slow
def test_ranks_of_the_truth_are_uniform():
    """Simulation-based calibration on a small scale; reports/posterior.py has 300 images."""
    generator = torch.Generator().manual_seed(6)
    radii = 40 + 40 * torch.rand(24, generator=generator, dtype=torch.float64)
    tests = simulate(radii, random_orientations(24, generator), 1e4, 3.0, seed=9)
    samples = sampled(tests, 150)
    ranks = (samples.weight * (samples.radius_nm < tests.radius_nm[:, None])).sum(1)
    assert kstest(ranks.numpy(), "uniform").pvalue > 0.01


def test_samples_do_not_depend_on_the_batch_and_repeat_with_the_seed():
    tests = images([50.0, 90.0, 120.0], 1e5)
    together, alone = sampled(tests, 100, seed=5), sampled(tests.subset(torch.tensor([1])), 100, seed=5)
    torch.testing.assert_close(alone.radius_nm[0], together.radius_nm[1], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(alone.weight[0], together.weight[1], rtol=0.02, atol=1e-4)
    other = sampled(tests, 100, seed=6)
    assert not torch.allclose(other.radius_nm, together.radius_nm)


def test_a_missed_mode_raises_the_alarm():
    """Where the start is far from what explains the image, uniform draws and weights say so."""
    tests = images([80.0], 1e4)
    far = Hypotheses(
        torch.tensor([[140.0]], dtype=torch.float64), random_orientations(1)[None], torch.zeros(1, 1)
    )
    samples = sample_posterior(objective_for(tests, Simulator(Experiment())), far, 200)
    assert float(samples.effective) < 20 or float(samples.pareto_k) > 0.7


def test_starts_are_fit_twin_hypotheses_and_patterns():
    turns = random_orientations(2, torch.Generator().manual_seed(1))
    radii = torch.tensor([50.0, 70.0], dtype=torch.float64)
    guesses = Hypotheses(radii[:, None], turns[:, None], torch.zeros(2, 1))
    found = starts_of(Answer(radii, turns, hypotheses=guesses), guesses)
    assert found.radius_nm.shape == (2, 4)
    half_turn = rotate_about_beam(turns, torch.full((2,), math.pi, dtype=torch.float64))
    torch.testing.assert_close(found.quaternion[:, 1], half_turn)


def test_other_images_and_numbers_are_refused():
    tests = images([60.0], 1e5)
    clean = simulate(torch.tensor([60.0]), tests.quaternion)
    with pytest.raises(InputError, match="photon counts"):
        sample_posterior(objective_for(clean, Simulator(Experiment())), starts(tests), 200)
    with pytest.raises(InputError, match="100 to 100000"):
        sampled(tests, 5)
