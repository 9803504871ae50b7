"""Mixtures of orientation and radius: integrals by uniform draws, symmetry, and their own draws."""

import math

import pytest
import torch

from icobench.geometry.convex import icosahedron
from icobench.geometry.mixture import PoseMixture
from icobench.geometry.orientation import disorientation, equivalents, random_orientations
from icobench.geometry.rotations import random_quaternions, turned

FREEDOMS = (5.0, math.inf)


def mixture(spreads, generator, freedom, uniform=0.02):
    """Components of these standard deviations (3 in rad, nm), correlated, with equal shares."""
    count = len(spreads)
    mixing = torch.eye(4, dtype=torch.float64) + 0.3 * torch.ones(4, 4, dtype=torch.float64).tril(-1)
    factor = torch.tensor(spreads, dtype=torch.float64).unsqueeze(-1) * mixing
    radii, turns = torch.linspace(80, 100, count, dtype=torch.float64), random_orientations(count, generator)
    return PoseMixture(
        radii[None], turns[None], factor[None], torch.full((1, count), (1 - uniform) / count).double(),
        torch.tensor([uniform]).double(), icosahedron(), (20.0, 170.0), freedom,
    )  # fmt: skip


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_densities_integrate_to_one(freedom):
    """Over SO(3) and radii; a wide component reaches into the equivalents' cells."""
    generator = torch.Generator().manual_seed(3)
    count = 120_000
    turns = random_quaternions(count, generator)[None]
    radii = 20 + 150 * torch.rand(1, count, generator=generator, dtype=torch.float64)
    wide = mixture([(0.25, 0.15, 0.3, 6.0)], generator, freedom)
    density = wide.log_density(radii, turns).exp()
    volume = 8 * math.pi**2 / 60 * 150
    assert float(density.mean()) * volume == pytest.approx(1, abs=0.03)


def test_equivalent_orientations_have_the_same_density():
    generator = torch.Generator().manual_seed(5)
    wide = mixture([(0.2, 0.1, 0.3, 6.0), (0.05, 0.08, 0.1, 2.0)], generator, math.inf)
    alike = equivalents(random_quaternions(50, generator)).flatten(0, 1)[None]
    radii = torch.full(alike.shape[:2], 90.0, dtype=torch.float64)
    logs = wide.log_density(radii, alike).view(50, 60)
    torch.testing.assert_close(logs, logs[:, :1].expand_as(logs))


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_draws_have_the_density(freedom):
    """The share of draws near the centre is the integral of the density there."""
    generator = torch.Generator().manual_seed(4)
    narrow = mixture([(0.1, 0.05, 0.08, 2.0)], generator, freedom)
    radius, turns = narrow.draw(40_000, [generator])
    near = (disorientation(turns, narrow.quaternion) < 6) & ((radius - 80).abs() < 3)
    ball = torch.randn(40_000, 3, generator=generator, dtype=torch.float64)
    length = torch.rand(40_000, 1, generator=generator, dtype=torch.float64) ** (1 / 3)
    around = turned(narrow.quaternion[:, 0], math.radians(6) * length * ball / ball.norm(dim=1, keepdim=True))
    radii = 77 + 6 * torch.rand(1, 40_000, generator=generator, dtype=torch.float64)
    volume = 4 / 3 * math.pi * math.radians(6) ** 3 * 6
    expected = float(narrow.log_density(radii, around[None]).exp().mean()) * volume
    assert float(near.double().mean()) == pytest.approx(expected, rel=0.03)
