"""Figures of an evaluation against their definitions."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from icobench.errors import InputError
from icobench.geometry.orientation import appendix_c_errors, disorientation
from icobench.network.selection import load_network, predict
from icobench.reporting.evaluation import Evaluated, evaluation_table, summarise, write_evaluation
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
    assert counting.networks == networks.choose(EXPERIMENT, "counts")[0].digest
    # The bound of a fit to 1e5 photons: tenths of a degree, hundredths of a nanometre.
    assert (counting.table["bound_orientation_deg"].between(0.01, 2)).all()
    assert (counting.table["bound_radius_nm"].between(0.001, 0.2)).all()


def known_errors(count, rng):
    """Normal errors of standard deviation 2 nm and, about each axis, 3 degrees."""
    angle = np.linalg.norm(3 * rng.normal(size=(count, 3)), axis=1)
    return pd.DataFrame(
        {
            "disorientation_deg": angle, "second_disorientation_deg": angle + 10,
            "radius_error_nm": np.abs(2 * rng.normal(size=count)),
            "appendix_c_mean": 0.01, "appendix_c_max": 0.03,
            "radius_std_nm": 2.0, "orientation_std_deg": 3 * math.sqrt(3), "bound_radius_nm": 1.0,
            "bound_orientation_deg": 3 * math.sqrt(3),
        }
    )  # fmt: skip


def test_summary_of_known_errors(rng):
    summary = summarise(Evaluated("counting", known_errors(40_000, rng), 20.0, "x"))
    assert summary["coverage_radius"] == pytest.approx(0.6827, abs=0.01)
    assert summary["coverage_orientation"] == pytest.approx(
        0.6084, abs=0.01
    )  # chi-square, 3 degrees, below 3
    assert summary["radius_error_nm_over_bound_rms"] == pytest.approx(2, rel=0.02)
    assert summary["disorientation_deg_over_bound_rms"] == pytest.approx(1, rel=0.02)
    assert summary["radius_error_nm"]["median"] == pytest.approx(2 * 0.6745, rel=0.02)
    assert summary["second_hypothesis_nearer"] == 0
    assert summary["seconds_per_image"] == pytest.approx(5e-4)


def test_table_and_files(counting, networks, tmp_path):
    pace = {"one_image_ms": 4.2, "images_per_second": 1234.0}
    text = evaluation_table([counting], pace)
    assert text.count("| counting |") == 4
    assert "One image of counts takes 4.2 ms; batches run at 1234 images/s." in text
    write_evaluation(tmp_path / "e", [counting], pace, networks.cards, EXPERIMENT, 7, torch.device("cpu"))
    stored = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert stored["sets"]["counting"]["images"] == 12
    assert stored["seed"] == 7
    assert stored["networks"][0]["recipe"]["steps"] > 0
    table = pd.read_parquet(tmp_path / "e" / "evaluation.parquet")
    assert len(table) == 12
    assert set(table["test_set"]) == {"counting"}
    assert text in (tmp_path / "e" / "evaluation.md").read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        write_evaluation(tmp_path / "file" / "e", [counting], pace, [], EXPERIMENT, 7, torch.device("cpu"))


def test_speed_is_positive(networks):
    assert all(value > 0 for value in speed(networks, EXPERIMENT, repeats=1).values())
