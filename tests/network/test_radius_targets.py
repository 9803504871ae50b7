"""Radii come back from the numbers that a network is asked for."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from icobench.network.targets import LENGTH, Circles, Line

CIRCLES = Circles((256, 64, 16))


@pytest.mark.parametrize("size", [Line(), CIRCLES, Circles((200,)), Circles((256, 48, 8))])
def test_decoding_undoes_encoding(size):
    radius = torch.linspace(20, 175, 311)
    encoded = size.encode(radius)
    assert encoded.shape == (311, size.dimension)
    torch.testing.assert_close(size.decode(encoded), radius, rtol=0, atol=1e-3)
    np.testing.assert_allclose(size.squared_error(encoded, radius), 0, atol=1e-10)
    assert (size.squared_error(encoded, radius + 1) > 1e-6).all()


def test_the_line_is_the_published_scaling():
    torch.testing.assert_close(Line().encode(torch.tensor([30.0, 160.0])), torch.tensor([[0.0], [1.0]]))


def test_circles_are_circles():
    """Cosine and sine of 2 pi R / period, whatever the order."""
    radius, third = torch.tensor([52.0, 131.0]), 3
    encoded = CIRCLES.encode(radius) / LENGTH
    for number, period in enumerate((256, 64, 16)):
        phase = 2 * math.pi * radius / period
        torch.testing.assert_close(encoded[:, number], phase.cos(), atol=1e-5, rtol=0)
        torch.testing.assert_close(encoded[:, number + third], phase.sin(), atol=1e-5, rtol=0)


def test_the_nearest_point_of_the_curve(generator):
    """Against SciPy's minimum of the distance, for vectors far from the curve."""
    radius = 40 + 110 * torch.rand(30, generator=generator)
    vectors = CIRCLES.encode(radius) + 0.4 * LENGTH * torch.randn(30, 6, generator=generator)
    starts = torch.arange(16, 181, 0.5)
    for vector, radius_nm in zip(vectors, CIRCLES.decode(vectors).tolist(), strict=True):

        def distance(nm, vector=vector):
            return float(CIRCLES.squared_error(vector, torch.tensor([nm], dtype=torch.float64))[0])

        best = float(starts[CIRCLES.squared_error(vector, starts).argmin()])
        least = minimize_scalar(distance, bounds=(best - 1, best + 1), method="bounded")
        # Of two turns that are as near, either may be found.
        assert distance(radius_nm) == pytest.approx(least.fun, abs=0.02 * LENGTH**2)
        if abs(radius_nm - least.x) < 4:
            assert radius_nm == pytest.approx(least.x, abs=0.02)


def test_a_circle_that_says_nothing_has_no_say():
    """Zero in a pair: the others decide, and only as well as they can."""
    radius = torch.tensor([47.3, 120.9])
    vectors = CIRCLES.encode(radius)
    vectors[:, [2, 5]] = 0
    torch.testing.assert_close(CIRCLES.decode(vectors), radius, rtol=0, atol=1e-3)


def test_what_is_not_finite_is_no_radius():
    vectors = CIRCLES.encode(torch.tensor([50.0, 60.0, 70.0]))
    vectors[0, 1], vectors[2, 4] = torch.nan, torch.inf
    decoded = CIRCLES.decode(vectors)
    assert torch.isnan(decoded).tolist() == [True, False, True]
    assert float(decoded[1]) == pytest.approx(60, abs=1e-3)


def test_decoding_is_by_image(generator):
    vectors = torch.randn(9, 6, generator=generator)
    torch.testing.assert_close(CIRCLES.decode(vectors)[4:5], CIRCLES.decode(vectors[4:5]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "periods", [(), (100, 20), (256, 256), (256, -3), (16, 256), (math.inf, 16), (math.nan,)]
)
def test_bad_circles(periods):
    with pytest.raises(ValueError, match="circles for radii must fall"):
        Circles(periods)
