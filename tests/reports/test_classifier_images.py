"""Images that the classifier learns from, and how it is judged."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from icobench.geometry.convex import ConvexBody
from icobench.geometry.rotations import random_quaternions
from icobench.geometry.shapes import sphere
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

REPORTS = str(Path(__file__).parents[2] / "reports")
BALL = 4 / 3 * math.pi


@pytest.fixture(scope="module")
def reports():
    sys.path.insert(0, REPORTS)
    try:
        import classifier
        import classifier_images

        yield classifier, classifier_images
    finally:
        sys.path.remove(REPORTS)


@pytest.fixture(scope="module")
def images(reports):
    return reports[1].Images(5, 9)


def test_ellipsoids_scatter_as_polyhedra_of_many_facets_do(reports):
    axes = torch.tensor([[50.0, 60.0, 55.0]], dtype=torch.float64)
    turn = random_quaternions(1, torch.Generator().manual_seed(3))
    experiment = Experiment(refractive_index=0.89 + 0.0859j)
    field = reports[1].spheroid_field(axes, turn, experiment)
    ball = sphere(300)
    body = ConvexBody.from_halfspaces("e", ball.normals / axes[0].numpy(), ball.offsets, ball.group)
    radius = float((BALL * axes.prod() / body.volume) ** (1 / 3))  # of the same volume
    other = Simulator(experiment, body=body).field(torch.tensor([radius]), turn)
    assert (field - other).norm() < 0.005 * other.norm()


def test_weak_spheres_scatter_as_rayleigh_and_gans_say(reports):
    experiment = Experiment(refractive_index=1 + 1e-7j)
    axes = torch.full((1, 3), 60.0, dtype=torch.float64)
    field = reports[1].spheroid_field(axes, random_quaternions(1), experiment)[0]
    phase = 60 * 2 * experiment.wave_number * ((1 - experiment.cos_theta()) / 2).clamp_min(0).sqrt()
    expected = 4 * math.pi * 60**3 * (phase.sin() - phase * phase.cos()) / phase**3
    seen = experiment.valid() & (phase > 1e-3)
    torch.testing.assert_close(
        field[seen].real.double(), expected[seen], atol=1e-5 * float(expected[seen].max()), rtol=0
    )


def test_batches_have_all_labels_and_the_photons_they_say(images):
    batch, again = images.batch(0, 4), images.batch(0, 4)
    assert torch.equal(batch.inputs, again.inputs)
    assert torch.isfinite(batch.inputs).all()
    assert not batch.inputs[:, 0][batch.inputs[:, 1] == 0].any()
    hit = batch.photons >= 200
    wanted = torch.arange(5).repeat_interleave(4).repeat(2)
    assert torch.equal(batch.label[hit], wanted[hit])
    assert (batch.label[(batch.photons < 200)] == 0).all()


def test_several_bodies_scatter_the_sum_of_what_they_scatter(images):
    """Fringes move light about, and hardly change how much there is."""
    power = images.fields.abs().square().sum((-2, -1))
    found = images._several(64, torch.Generator().manual_seed(1)).sum((-2, -1))
    assert found.min() > 0.9 * power.min()
    assert found.max() < 3.5 * power.max()


def test_calibration_error_and_average_precision(reports):
    sure = np.full(100, 0.805)
    probability = np.stack((sure, 1 - sure), 1)
    label = (np.arange(100) >= 90).astype(int)  # 90 % are right
    error, rows = reports[0].expected_calibration_error(probability, label)
    assert error == pytest.approx(0.095)
    assert rows == [[pytest.approx(0.805), 0.9, 100]]
    average, curve = reports[0].precision_recall(
        np.array([4.0, 3, 2, 1]), np.array([True, False, True, False])
    )
    assert average == pytest.approx((1 + 2 / 3) / 2)
    assert curve[0] == [0.5, 1.0]
    assert [1.0, 0.6667] in curve
