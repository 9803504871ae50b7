"""From hypotheses to an answer: which hypothesis, what status."""

import math
from functools import partial

import pytest
import torch
from problems import displaced, problem

from icobench.answer import AMBIGUOUS, NOT_CONVERGED, OK, POOR, RESCUED, UNTRAINED, Answer, Hypotheses
from icobench.fitting.counter import CountingSimulator
from icobench.fitting.least_squares import (
    LevenbergMarquardtOptions,
    levenberg_marquardt,
    maximum_likelihood,
)
from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import PoissonDeviance
from icobench.fitting.simplex import predicted_edges, refine_simplex
from icobench.fitting.warm_start import WARM_SIMPLEX, checked, judge, judged
from icobench.geometry.orientation import disorientation
from icobench.geometry.rotations import rotate_about_beam
from icobench.images.pixels import photon_counts
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

warm_simplex = partial(refine_simplex, options=WARM_SIMPLEX)
HALF_TURN = torch.tensor([math.pi], dtype=torch.float64)


def starts(radius, quaternion):
    """Hypotheses (N, K) from orientations (N, K, 4) and radii (N, K) or (N,)."""
    radius = radius.reshape(len(radius), -1).expand(quaternion.shape[:2])
    return Hypotheses(radius, quaternion, torch.zeros(radius.shape))


@pytest.mark.parametrize("refine", [levenberg_marquardt, maximum_likelihood, warm_simplex])
def test_the_better_hypothesis_is_taken(refine, generator):
    objective, radius, truth = problem(2, generator, radius=(45.0, 55.0))
    near, far = displaced(truth, 2.0, generator), displaced(truth, 22.0, generator)
    hypotheses = torch.stack((torch.stack((far[0], near[0])), torch.stack((near[1], far[1]))))
    answer = judge(objective, starts(radius + 0.5, hypotheses), refine)
    assert answer.status == [OK, OK]
    assert float(disorientation(answer.quaternion, truth).max()) < 2
    assert torch.equal(answer.evaluations, objective.simulator.evaluations)


def test_edges_follow_the_predicted_spread():
    """Two standard deviations of a component, within bounds; the fixed size where nothing is predicted."""
    deg = torch.tensor([0.3, 1e-4, 50.0, 0.3, math.nan, 0.3], dtype=torch.float64)
    nm = torch.tensor([0.1, 1e-4, 50.0, 0.1, 0.1, math.inf], dtype=torch.float64)
    guess = Answer(
        torch.full((6,), 60.0), torch.zeros(6, 4), radius_std_nm=nm, orientation_std_deg=deg,
        status=[OK, OK, AMBIGUOUS, UNTRAINED, OK, OK],
    )  # fmt: skip
    fixed = [WARM_SIMPLEX.rotation_deg, WARM_SIMPLEX.radius_nm]
    expected = [[2 * 0.3 / math.sqrt(3), 0.2], [0.05, 0.01], fixed, fixed, fixed, fixed]
    edges = predicted_edges(guess, WARM_SIMPLEX)
    torch.testing.assert_close(edges, torch.tensor(expected, dtype=torch.float64))


def test_the_next_hypothesis_is_tried_where_the_first_fails(generator):
    """Its radius is so wrong that it looks worse than the wrong orientation at the start."""
    objective, radius, truth = problem(1, generator, radius=(50.0, 51.0))
    far = displaced(truth, 20.0, generator)
    near = displaced(truth, 1.0, generator)
    turns = torch.stack((far, near), 1)
    answer = judge(objective, starts(torch.stack((radius, radius + 2.0), 1), turns), levenberg_marquardt)
    assert answer.status == [OK]
    assert float(disorientation(answer.quaternion, truth)) < 2


def test_the_rescue_is_called_for_unexplained_images_and_named(generator):
    objective, radius, truth = problem(3, generator, radius=(45.0, 55.0))
    start = truth.clone()
    start[1] = displaced(truth[1:2], 23.0, generator)[0]
    rescues = []

    def rescue(image):
        rescues.append(image.tolist())
        return radius[image], truth[image]

    def short(objective, radius, turn, image, progress, nuisance):
        options = LevenbergMarquardtOptions(iterations=8)
        return levenberg_marquardt(objective, radius, turn, options, image, progress, nuisance)

    lost = torch.tensor([[0.1], [45.0], [0.1]], dtype=torch.float64)
    answer = judge(objective, starts(radius[:, None] + lost, start[:, None]), short, rescue)
    assert rescues == [[1]]
    assert answer.status == [OK, RESCUED, OK]
    assert float(disorientation(answer.quaternion, truth).max()) < 2
    answer = judge(objective, starts(radius[:, None] + lost, start[:, None]), short)
    assert answer.status[1] == POOR


def test_no_image_stops_the_others(generator):
    """Nothing counted, and values that are not numbers."""
    objective, radius, truth = problem(3, generator, radius=(45.0, 55.0))
    objective.images[0] = 0.0
    objective.images[2] = torch.nan
    answer = judge(objective, starts(radius, torch.stack((truth, truth), 1)), maximum_likelihood)
    assert answer.status[1] == OK
    assert answer.status[2] == POOR
    assert answer.radius_nm.isfinite().all()


def test_unfinished_fits_say_so(generator):
    objective, radius, truth = problem(1, generator, radius=(45.0, 46.0))

    def short(objective, radius, turn, image, progress, nuisance):
        options = LevenbergMarquardtOptions(iterations=1)
        return levenberg_marquardt(objective, radius, turn, options, image, progress, nuisance)

    answer = judge(objective, starts(radius + 0.05, truth[:, None]), short)
    assert answer.status == [NOT_CONVERGED]


def test_the_near_twin_wins_where_it_is_right(generator):
    """The start is half a turn about the beam off, and no hypothesis is right."""
    objective, radius, truth = problem(2, generator, photons=1e4, radius=(30.0, 34.0))
    twin = rotate_about_beam(truth, HALF_TURN.expand(2))
    at_twin = objective.value(torch.arange(2), radius, twin)
    at_truth = objective.value(torch.arange(2), radius, truth)
    assert (at_truth < at_twin).all()
    answer = judge(objective, starts(radius, twin[:, None]), levenberg_marquardt)
    errors = disorientation(answer.quaternion, truth)
    for turn, status in zip(errors.tolist(), answer.status, strict=True):
        assert turn < 10 or status in (POOR, AMBIGUOUS)


def test_twins_that_nothing_tells_apart_are_ambiguous(generator):
    """Small angles: the pattern is symmetric about the beam."""
    experiment = Experiment(pixels=32, sin_theta_max=0.12)
    simulator = Simulator(experiment)
    _, radius, truth = problem(2, generator, radius=(80.0, 90.0))
    mask = experiment.valid().expand(2, -1, -1)
    counts = photon_counts(simulator.intensity(radius, truth), mask, 3e3, generator)
    objective = PoissonDeviance(counts, mask, CountingSimulator(simulator, 2))
    answer = judge(objective, starts(radius, truth[:, None]), levenberg_marquardt)
    assert AMBIGUOUS in answer.status


def test_fits_from_elsewhere_get_a_status(generator):
    objective, radius, truth = problem(3, generator, radius=(45.0, 55.0))
    answer = Answer(radius.clone(), truth, converged=torch.tensor([True, True, False]))
    answer.radius_nm[1] += 5
    result = judged(objective, answer)
    assert result.status == [OK, POOR, NOT_CONVERGED]
    assert result.evaluations.tolist() == [1, 1, 1]
    assert answer.status == [OK] * 3  # the given answer stays as it is


@pytest.mark.parametrize("names", [(), ("background", "refractive_index", "centre")])
def test_no_image_may_be_explained(names, generator):
    """Then there is no twin to look at, with or without nuisance parameters."""
    objective, radius, truth = problem(1, generator, radius=(45.0, 55.0))
    nuisance = Nuisance.start(names, 1, objective.simulator.experiment)

    def short(objective, radius, turn, image, progress, nuisance):
        options = LevenbergMarquardtOptions(iterations=1)
        return levenberg_marquardt(objective, radius, turn, options, image, progress, nuisance)

    answer = judge(objective, starts(radius + 30, truth[:, None]), short, nuisance=nuisance)
    assert answer.status == [POOR]
    assert list(answer.nuisance) == list(nuisance.columns)


def test_what_noise_does_not_explain_widens_a_network_s_bars(generator):
    """The truth keeps its bars; an answer 1 nm and 1 degree off, ten bars, gets wider ones that hold."""
    objective, radius, truth = problem(4, generator, radius=(50.0, 100.0))
    bars = torch.full((4,), 0.1, dtype=torch.float64)
    right = Answer(radius.clone(), truth.clone(), radius_std_nm=bars, orientation_std_deg=2 * bars)
    kept = checked(objective, right)
    torch.testing.assert_close(kept.radius_std_nm, bars, rtol=0.3, atol=0)
    wrong = Answer(
        radius + 1, displaced(truth, 1.0, generator), radius_std_nm=bars, orientation_std_deg=2 * bars
    )
    wider = checked(objective, wrong)
    assert (wider.radius_std_nm > 1 / 3).all()
    torch.testing.assert_close(wider.orientation_std_deg, 2 * wider.radius_std_nm)
    assert (bars == 0.1).all()
