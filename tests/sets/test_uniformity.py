"""The truth of sets is drawn from the distributions that are claimed: tests on 12,000 bodies."""

import math

import numpy as np
import pytest
from scipy import stats

from icobench.geometry.convex import icosahedron
from icobench.geometry.rotations import quaternion_angle, quaternion_to_matrix
from icobench.network.orbit import embed
from icobench.sets.patterns import draw_truth

COUNT = 12_000


@pytest.fixture(scope="module")
def truth():
    return draw_truth((30.0, 160.0), 0, range(COUNT))


def inside_share(angle):
    """Share of the directions along which a rotation by ``angle`` lies in the fundamental domain.

    The domain is cut out by twelve planes n.v = tan(pi / 10) of Rodrigues vectors, n along the
    five-fold axes. Directions: a Fibonacci lattice.
    """
    index = np.arange(20_000) + 0.5
    z, turn = 1 - 2 * index / len(index), np.pi * (1 + 5**0.5) * index
    ring = np.sqrt(1 - z**2)
    directions = np.stack((ring * np.cos(turn), ring * np.sin(turn), z), -1)
    farthest = (directions @ icosahedron().vertices.T / np.linalg.norm(icosahedron().vertices[0])).max(1)
    return np.mean(np.tan(angle / 2)[:, None] * farthest <= math.tan(math.pi / 10), axis=1)


def test_angles_of_uniform_disorientations(truth):
    """Density 60 (1 - cos t) / pi times the share of directions inside (Mackenzie's curve for this group)."""
    grid = np.linspace(0, math.radians(44.6), 900)
    density = 60 * (1 - np.cos(grid)) / np.pi * inside_share(grid)
    mass = np.concatenate(([0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(grid))))
    assert mass[-1] == pytest.approx(1, abs=2e-3)
    angles = quaternion_angle(truth[1]).numpy()
    assert math.radians(44.0) < angles.max() < math.radians(44.48)
    test = stats.kstest(angles, lambda at: np.interp(at, grid, mass / mass[-1]))
    assert test.pvalue > 1e-3
    # Below 36 degrees all directions are inside: a closed form.
    edge = math.pi / 5
    expected = 60 / np.pi * (edge - math.sin(edge))
    assert stats.binomtest(int((angles < edge).sum()), COUNT, expected).pvalue > 1e-3


def test_no_direction_is_preferred(truth):
    """The orbit vector averages to zero, 13 components of variance 1/13; the axes in the lab follow suit."""
    mean = embed(truth[1]).double().mean(0)
    assert stats.chi2.sf(float(13 * COUNT * mean.square().sum()), 13) > 1e-3
    # The lowest polynomial of the five-fold axes' z that the body's symmetry does not make constant.
    axes = quaternion_to_matrix(truth[1]) @ np.ascontiguousarray(icosahedron().vertices.T)
    cosine = axes[:, 2].numpy() / np.linalg.norm(icosahedron().vertices[0])
    legendre = np.polynomial.legendre.legval(cosine, [0] * 6 + [1]).mean(1)
    # Under Haar measure: mean 0, variance sum_ij P_6(cos ij) / (13 n^2).
    unit = icosahedron().vertices / np.linalg.norm(icosahedron().vertices[0])
    pairs = np.polynomial.legendre.legval(np.clip(unit @ unit.T, -1, 1), [0] * 6 + [1])
    variance = pairs.mean() / 13
    assert abs(legendre.mean()) < 4 * math.sqrt(variance / COUNT)
    assert legendre.var() == pytest.approx(variance, rel=0.06)


def test_radii_are_uniform(truth):
    assert stats.kstest(truth[0].numpy(), stats.uniform(30, 130).cdf).pvalue > 1e-3
    # And do not know of the orientation.
    assert stats.spearmanr(truth[0].numpy(), quaternion_angle(truth[1]).numpy()).pvalue > 1e-3
