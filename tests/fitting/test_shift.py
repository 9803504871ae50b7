"""Shifted images against simulations with the beam elsewhere."""

from dataclasses import replace

import pytest
import torch

from icobench.fitting.counter import inner_pixels, shifted
from icobench.geometry.orientation import random_orientations
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator


def test_whole_pixels_are_moved_exactly(generator):
    values = torch.randn(2, 3, 20, 20, generator=generator)
    moved = shifted(values, torch.tensor([[2.0, -1.0], [0.0, 3.0]]))
    torch.testing.assert_close(moved[0, :, 4:14, 6:16], values[0, :, 5:15, 4:14])
    torch.testing.assert_close(moved[1, :, 6:16, 5:15], values[1, :, 3:13, 5:15])


def test_polynomials_are_moved_exactly():
    x = torch.arange(24, dtype=torch.float64) / 10
    image = (x**3 - 2 * x)[None, :] * (1 + x**2)[:, None]
    moved = shifted(image[None], torch.tensor([[0.37, -0.81]]))[0]
    x, y = x - 0.037, x + 0.081
    expected = (x**3 - 2 * x)[None, :] * (1 + y**2)[:, None]
    torch.testing.assert_close(moved[6:-6, 6:-6], expected[6:-6, 6:-6])


@pytest.mark.parametrize(("radius", "tolerance"), [(40.0, 2e-4), (95.0, 2e-3)])
def test_shifted_fields_are_the_simulators(radius, tolerance, generator):
    """Where the scattering angle is below 53 degrees."""
    experiment = Experiment()
    turn = random_orientations(1, generator)
    size = torch.tensor([radius])
    offset = (0.41, -0.63)
    expected = Simulator(replace(experiment, centre_offset=offset)).field(size, turn)
    result = shifted(Simulator(experiment).field(size, turn), torch.tensor([offset]))
    inside = inner_pixels(experiment) & (experiment.sin_theta() < 0.8)
    error = (result - expected)[:, inside].norm() / expected[:, inside].norm()
    assert float(error) < tolerance


def test_inner_pixels_stay_away_from_the_horizon():
    experiment = Experiment()
    inner = inner_pixels(experiment)
    assert inner[64, 64]
    assert not (inner & (experiment.sin_theta() > 0.93)).any()
    assert (inner | (experiment.sin_theta() > 0.82)).all()
