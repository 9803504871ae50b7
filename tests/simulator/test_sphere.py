"""Spheres against closed forms and adaptive quadrature."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import j0

from icobench.geometry.orientation import disorientation
from icobench.geometry.shapes import shape
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.simulator import Simulator

UPRIGHT = torch.eye(4, dtype=torch.float64)[:1]
SILVER = Experiment(refractive_index=0.89 + 0.086j, pixels=64)


@pytest.mark.parametrize("radius", [20.0, 165.0])
@pytest.mark.parametrize("detector", [None, FlatDetector(50.0, 1.0, (30.2, 33.1))])
def test_form_factor_of_a_sphere(radius, detector):
    """Without contrast 4 pi R^3 (sin x - x cos x) / x^3, x = q R."""
    experiment = Experiment(refractive_index=1.0, pixels=64, detector=detector)
    field = Simulator(experiment, dtype=torch.float64, body=shape("sphere")).field(
        torch.tensor([radius]), UPRIGHT
    )[0]
    x, y = experiment.transverse()
    size = (
        experiment.wave_number * radius * (x**2 + y**2 + (1 - experiment.cos_theta()) ** 2).sqrt()
    ).clamp_min(1e-2)
    expected = 4 * math.pi * radius**3 * (size.sin() - size * size.cos()) / size**3
    valid = experiment.valid()
    assert float((field - expected)[valid].abs().norm() / expected[valid].norm()) < 2e-5


def test_absorbing_sphere_by_quadrature():
    field = Simulator(SILVER, dtype=torch.float64, body=shape("sphere")).field(torch.tensor([70.0]), UPRIGHT)[
        0
    ]
    (x, y), k = SILVER.transverse(), SILVER.wave_number
    for row, column in ((32, 32), (35, 40), (15, 50)):
        across = k * math.hypot(x[row, column], y[row, column])
        depth = k * (float(SILVER.cos_theta()[row, column]) - 1)
        width = depth - SILVER.kappa

        def ray(distance, part, across=across, depth=depth, width=width):
            half = math.sqrt(70.0**2 - distance**2)
            along = np.exp(1j * depth * half) * (1 - np.exp(-2j * width * half)) / (1j * width)
            return getattr(2 * math.pi * distance * j0(across * distance) * along, part)

        parts = [quad(ray, 0, 70.0, (part,), limit=500)[0] for part in ("real", "imag")]
        assert complex(field[row, column]) == pytest.approx(complex(*parts), rel=1e-5)


def test_derivatives_and_relatives_of_a_sphere():
    simulator = Simulator(SILVER, dtype=torch.float64, body=shape("sphere"))
    radius = torch.tensor([50.0], dtype=torch.float64)
    intensity, slopes = simulator.intensity_jacobian(radius, UPRIGHT, also=("refractive_index",))
    assert not slopes[:, :3].any()
    torch.testing.assert_close(intensity, simulator.intensity(radius, UPRIGHT))

    def moved(by_radius, by_index):
        other = simulator.with_refractive_index(SILVER.refractive_index + by_index)
        return other.intensity(radius + by_radius, UPRIGHT)[0]

    for slope, step in zip(slopes[0, 3:], ((0.01, 0), (0, 0.01), (0, 0.01j)), strict=True):
        expected = (moved(*step) - moved(*(-part for part in step))) / 0.02
        assert float((slope - expected).norm() / expected.norm()) < 1e-2
    with pytest.raises(ValueError, match="no derivative by the centre"):
        simulator.intensity_jacobian(radius, UPRIGHT, also=("centre",))
    weak = Simulator(replace(SILVER, refractive_index=1 + 1e-5j), body=shape("sphere"))
    waves = weak.with_physics("propagated").field(radius, UPRIGHT)
    assert float((waves - weak.field(radius, UPRIGHT)).norm() / waves.norm()) < 5e-3
    assert weak.with_body(shape("cube")).field(radius, UPRIGHT).shape == waves.shape
    turned = torch.tensor([0.5, 0.5, 0.5, 0.5])
    assert float(disorientation(turned, UPRIGHT[0].float(), shape("sphere"))) == 0
