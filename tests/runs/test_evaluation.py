"""Figures of an evaluation against their definitions."""

import numpy as np
import pytest
import torch

from icobench.geometry.orientation import appendix_c_errors, disorientation
from icobench.network.selection import load_network, predict
from icobench.runs.evaluation import evaluate, speed
from icobench.sets.patterns import generate_patterns
from icobench.sets.test_sets import find_test_set
from icobench.simulator.experiment import Experiment

EXPERIMENT = Experiment()


def evaluation_set(name, images, experiment, seed):
    return generate_patterns(find_test_set(name).options(images), experiment, seed)


@pytest.fixture(scope="module")
def networks():
    return load_network()


@pytest.fixture(scope="module")
def counting(networks):
    return evaluate(networks, evaluation_set("counting", 12, EXPERIMENT, 7), "counting")


def test_sets_are_what_they_say():
    sets = {name: evaluation_set(name, 3, EXPERIMENT, 5) for name in ("clean", "realistic", "counting")}
    assert [images.kind for images in sets.values()] == ["intensity", "log", "counts"]
    for images in sets.values():
        assert torch.equal(images.quaternion, sets["clean"].quaternion)
    # The chain holds a hole and an edge in every image, the clean set none.
    valid = EXPERIMENT.valid()
    assert (sets["clean"].mask == valid).all()
    assert (sets["realistic"].mask.sum((1, 2)) < valid.sum()).all()
    np.testing.assert_allclose(sets["counting"].images.sum((1, 2)), 1e5, rtol=0.02)


def test_errors_are_those_of_the_answer(networks, counting):
    truth = evaluation_set("counting", 12, EXPERIMENT, 7)
    answer = predict(networks, truth)
    angle = disorientation(answer.quaternion, truth.quaternion)
    np.testing.assert_allclose(counting.table["disorientation_deg"], angle, rtol=1e-6)
    mean, largest = appendix_c_errors(answer.radius_nm, answer.quaternion, truth.radius_nm, truth.quaternion)
    np.testing.assert_allclose(counting.table["appendix_c_mean"], mean, rtol=1e-6)
    np.testing.assert_allclose(counting.table["appendix_c_max"], largest, rtol=1e-6)
    assert counting.networks == networks.choose(EXPERIMENT, "counts").digest
    # The bound of a fit to 1e5 photons: tenths of a degree, hundredths of a nanometre.
    assert (counting.table["bound_orientation_deg"].between(0.01, 2)).all()
    assert (counting.table["bound_radius_nm"].between(0.001, 0.2)).all()


def test_speed_is_positive(networks):
    pace = speed(networks, EXPERIMENT, rounds=2)
    assert set(pace) == {"one_image_ms", "images_per_second", "log_one_image_ms", "log_images_per_second"}
    assert all(0 < times["low"] <= times["median"] <= times["high"] for times in pace.values())
