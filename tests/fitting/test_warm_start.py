"""Verdicts: which hypothesis, what status."""

import math

import pytest
import torch
from problems import displaced, problem

from icobench.fitting.counter import CountingSimulator
from icobench.fitting.levenberg_marquardt import LevenbergMarquardtOptions, levenberg_marquardt
from icobench.fitting.maximum_likelihood import maximum_likelihood
from icobench.fitting.objectives import PoissonDeviance
from icobench.fitting.warm_start import (
    AMBIGUOUS,
    NOT_CONVERGED,
    OK,
    POOR,
    RESCUED,
    judge,
    refine_warm_simplex,
)
from icobench.geometry.orientation import disorientation
from icobench.geometry.rotations import rotate_about_beam
from icobench.images.counts import photon_counts
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

HALF_TURN = torch.tensor([math.pi], dtype=torch.float64)


def both(radius):
    return radius[:, None].expand(-1, 2)


@pytest.mark.parametrize("refine", [levenberg_marquardt, maximum_likelihood, refine_warm_simplex])
def test_the_better_hypothesis_is_taken(refine, generator):
    objective, radius, truth = problem(2, generator, radius=(45.0, 55.0))
    near, far = displaced(truth, 2.0, generator), displaced(truth, 22.0, generator)
    hypotheses = torch.stack((torch.stack((far[0], near[0])), torch.stack((near[1], far[1]))))
    verdict = judge(objective, both(radius + 0.5), hypotheses, refine)
    assert verdict.status == [OK, OK]
    assert float(disorientation(verdict.fit.quaternion, truth).max()) < 2
    assert torch.equal(verdict.fit.evaluations, objective.simulator.evaluations)


def test_the_next_hypothesis_is_tried_where_the_first_fails(generator):
    """Its radius is so wrong that it looks worse than the wrong orientation at the start."""
    objective, radius, truth = problem(1, generator, radius=(50.0, 51.0))
    far = displaced(truth, 20.0, generator)
    near = displaced(truth, 1.0, generator)
    turns = torch.stack((far, near), 1)
    verdict = judge(objective, torch.stack((radius, radius + 2.0), 1), turns, levenberg_marquardt)
    assert verdict.status == [OK]
    assert float(disorientation(verdict.fit.quaternion, truth)) < 2


def test_the_rescue_is_called_for_the_lost_and_said_so(generator):
    objective, radius, truth = problem(3, generator, radius=(45.0, 55.0))
    start = truth.clone()
    start[1] = displaced(truth[1:2], 23.0, generator)[0]
    asked = []

    def rescue(image):
        asked.append(image.tolist())
        return radius[image], truth[image]

    def short(objective, radius, turn, _, image, progress, nuisance):
        options = LevenbergMarquardtOptions(iterations=8)
        return levenberg_marquardt(objective, radius, turn, options, image, progress, nuisance)

    lost = torch.tensor([[0.1], [45.0], [0.1]], dtype=torch.float64)
    verdict = judge(objective, radius[:, None] + lost, start[:, None], short, rescue)
    assert asked == [[1]]
    assert verdict.status == [OK, RESCUED, OK]
    assert float(disorientation(verdict.fit.quaternion, truth).max()) < 2
    verdict = judge(objective, radius[:, None] + lost, start[:, None], short)
    assert verdict.status[1] == POOR


def test_no_image_stops_the_others(generator):
    """Nothing counted, and values that are not numbers."""
    objective, radius, truth = problem(3, generator, radius=(45.0, 55.0))
    objective.images[0] = 0.0
    objective.images[2] = torch.nan
    verdict = judge(objective, both(radius), torch.stack((truth, truth), 1), maximum_likelihood)
    assert verdict.status[1] == OK
    assert verdict.status[2] == POOR
    assert verdict.fit.radius_nm.isfinite().all()


def test_unfinished_fits_say_so(generator):
    objective, radius, truth = problem(1, generator, radius=(45.0, 46.0))

    def short(objective, radius, turn, _, image, progress, nuisance):
        options = LevenbergMarquardtOptions(iterations=1)
        return levenberg_marquardt(objective, radius, turn, options, image, progress, nuisance)

    verdict = judge(objective, radius[:, None] + 0.05, truth[:, None], short)
    assert verdict.status == [NOT_CONVERGED]


def test_the_near_twin_wins_where_it_is_right(generator):
    """The start is half a turn about the beam off; nobody offered the other one."""
    objective, radius, truth = problem(2, generator, photons=1e4, radius=(30.0, 34.0))
    twin = rotate_about_beam(truth, HALF_TURN.expand(2))
    at_twin = objective.value(torch.arange(2), radius, twin)
    at_truth = objective.value(torch.arange(2), radius, truth)
    assert (at_truth < at_twin).all()
    verdict = judge(objective, radius[:, None], twin[:, None], levenberg_marquardt)
    found = disorientation(verdict.fit.quaternion, truth)
    for turn, status in zip(found.tolist(), verdict.status, strict=True):
        assert turn < 10 or status in (POOR, AMBIGUOUS)


def test_twins_that_nothing_tells_apart_are_ambiguous(generator):
    """Small angles: the pattern is symmetric about the beam."""
    experiment = Experiment(pixels=32, sin_theta_max=0.12)
    simulator = Simulator(experiment)
    _, radius, truth = problem(2, generator, radius=(80.0, 90.0))
    mask = experiment.valid().expand(2, -1, -1)
    counts = photon_counts(simulator.intensity(radius, truth), mask, 3e3, generator)
    objective = PoissonDeviance(counts, mask, CountingSimulator(simulator, 2))
    verdict = judge(objective, radius[:, None], truth[:, None], levenberg_marquardt)
    assert AMBIGUOUS in verdict.status
