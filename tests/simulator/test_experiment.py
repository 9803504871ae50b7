"""The detector grid and the optical constants."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from icobench.simulator.experiment import Experiment, FlatDetector

CLOSED_FORM = Path(__file__).parents[1] / "data" / "closed_form.npz"


def test_default_grid_is_the_forward_half_space():
    experiment = Experiment()
    k = 2 * math.pi / 13.5
    np.testing.assert_allclose(experiment.sines() * k, np.load(CLOSED_FORM)["k_perp"], rtol=1e-12, atol=1e-15)
    # Lattice points strictly inside a circle of 64 steps, counted by hand.
    inside = sum(x * x + y * y < 64**2 for x in range(-64, 64) for y in range(-64, 64))
    assert int(experiment.valid().sum()) == inside
    assert not experiment.valid()[0].any()
    assert not experiment.valid()[:, 0].any()


def test_scattering_angles():
    experiment = Experiment(sin_theta_max=0.5, pixels=64)
    cosine = experiment.cos_theta()
    assert float(cosine[32, 32]) == 1
    assert float(cosine[32, 0]) == pytest.approx(math.cos(math.radians(30)), abs=1e-15)
    assert float(cosine[0, 0]) == pytest.approx(math.sqrt(0.5), abs=1e-15)
    assert experiment.valid().all()
    assert (Experiment().cos_theta()[~Experiment().valid()] == 0).all()


def test_default_index_absorbs_by_1_over_e_in_12_5_nm():
    experiment = Experiment()
    # Intensity |exp(i kappa l)|^2 over l = 12.5 nm.
    assert abs(np.exp(1j * experiment.kappa * 12.5)) ** 2 == pytest.approx(math.exp(-1), rel=1e-12)
    assert experiment.refractive_index == pytest.approx(1 + 0.08594j, abs=5e-6)


@pytest.mark.parametrize(
    "experiment",
    [Experiment(), Experiment(10.0, 0.89 + 0.0859j, 0.7, 64, True), Experiment(centre_offset=(0.5, -1))],
)
def test_json_round_trip(experiment):
    assert Experiment.from_dict(json.loads(json.dumps(experiment.to_dict()))) == experiment


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"wavelength_nm": 0.0}, "wavelength_nm"),
        ({"wavelength_nm": math.nan}, "wavelength_nm"),
        ({"sin_theta_max": 0.0}, "sin_theta_max"),
        ({"sin_theta_max": 1.01}, "sin_theta_max"),
        ({"sin_theta_max": math.nan}, "sin_theta_max"),
        ({"pixels": 127}, "pixels"),
        ({"pixels": 0}, "pixels"),
        ({"refractive_index": 1 - 0.1j}, "refractive_index"),
        ({"refractive_index": complex(math.nan, 0)}, "refractive_index"),
        ({"refractive_index": -1.0}, "refractive_index"),
        ({"pixel_average": True, "detector": FlatDetector(50, 1)}, "pixel_average"),
        ({"centre_offset": (33.0, 0.0)}, "centre_offset"),
        ({"centre_offset": (0.0, math.nan)}, "centre_offset"),
        ({"centre_offset": (1.0, 0.0), "detector": FlatDetector(50, 1)}, "centre_offset"),
    ],
)
def test_impossible_experiments_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Experiment(**wrong)


def test_grids_are_in_the_asked_precision():
    assert Experiment().sines(dtype=torch.float32).dtype == torch.float32
    assert Experiment().cos_theta(torch.float32).dtype == torch.float32
