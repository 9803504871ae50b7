"""The head for the posterior recovers a known mixture, and changes no answer."""

import dataclasses
import math

import pytest
import torch

from icobench.errors import InputError
from icobench.geometry.orientation import random_orientations
from icobench.geometry.rotations import rotate_about_beam, turned
from icobench.network.amortised import fit_posterior, mixture_of, with_posterior
from icobench.network.architectures import build_network
from icobench.network.checkpoint import load_trained
from icobench.network.heads import PosteriorHead, turned_vectors
from icobench.network.orbit import embed
from icobench.network.outputs import Layout
from icobench.network.recipe import Recipe
from icobench.network.selection import load_network
from icobench.network.stream import TrainingBatch
from icobench.network.targets import TARGETS, Line
from icobench.network.training import train
from icobench.sets.simulate import simulate
from tests.network.tiny import EXPERIMENT, TINY

RANGE_NM = (30.0, 160.0)
ELSEWHERE = 0.03


class Toy(torch.nn.Module):
    """Its input is an orbit vector, a radius and four features."""

    def __init__(self):
        super().__init__()
        self.layout = Layout(TARGETS["orbit"], Line())

    def with_features(self, x):
        first_guess = torch.full((len(x), 2), -4.0)
        return torch.cat((x[:, :14], first_guess), 1), x[:, 14:]

    def add_posterior_head(self, hidden):
        self.posterior_head = PosteriorHead(4, hidden)
        return self.posterior_head


def mixed_images(count, generator):
    """Inputs of :class:`Toy`, with the truth near the answer, near its twin or anywhere.

    The first feature tells the size of the errors, the second the odds of the twin; turns about the beam
    are three times as far as others, and correlated with the radius.

    Returns:
        the batch; the standard deviations (N, 4) in rad and nm, the probability (N,) of the twin.
    """
    features = torch.randn(count, 4, generator=generator)
    size = torch.exp(0.5 * features[:, :1]).double()
    spreads = size * torch.tensor([0.01, 0.01, 0.03, 0.5], dtype=torch.float64)
    normal = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    normal[:, 3] = 0.8 * normal[:, 2] + 0.6 * normal[:, 3]
    step = spreads * normal
    answer = random_orientations(count, generator)
    radius_nm = 40 + 100 * torch.rand(count, generator=generator, dtype=torch.float64)
    twin = 0.4 * torch.sigmoid(2 * features[:, 1]).double()
    place = torch.rand(count, generator=generator, dtype=torch.float64)
    leap = math.pi * (place < twin).double()
    truth, size_nm = rotate_about_beam(turned(answer, step[:, :3]), leap), radius_nm + step[:, 3]
    anywhere = place > 1 - ELSEWHERE
    truth[anywhere] = random_orientations(int(anywhere.sum()), generator)
    size_nm[anywhere] = 30 + 130 * torch.rand(int(anywhere.sum()), generator=generator, dtype=torch.float64)
    inputs = torch.cat((embed(answer).float(), ((radius_nm - 30) / 130).float()[:, None], features), 1)
    return TrainingBatch(inputs, truth, size_nm.float()), spreads, twin


def test_the_head_recovers_a_mixture(generator):
    """Sizes, correlation and odds, from poses alone."""
    toy = Toy()
    fit_posterior(toy, [mixed_images(2048, generator)[0] for _ in range(3)], RANGE_NM, seed=1)
    fresh, spreads, twin = mixed_images(1000, generator)
    found = mixture_of(toy, fresh.inputs, RANGE_NM)
    covariance = found.factor[:, 0] @ found.factor[:, 0].mT
    ratio = covariance.diagonal(dim1=1, dim2=2).sqrt() / spreads
    torch.testing.assert_close(ratio.median(0).values, torch.ones(4).double(), rtol=0, atol=0.1)
    assert ((ratio.quantile(0.05, 0) > 0.7) & (ratio.quantile(0.95, 0) < 1.4)).all()
    correlation = covariance[:, 2, 3] / (covariance[:, 2, 2] * covariance[:, 3, 3]).sqrt()
    assert float(correlation.median()) == pytest.approx(0.8, abs=0.08)
    assert float((found.share[:, 1] - twin).abs().median()) < 0.06
    assert float(found.uniform.median()) == pytest.approx(ELSEWHERE, abs=0.02)
    torch.testing.assert_close(found.share.sum(1) + found.uniform, torch.ones(1000).double())
    few, again = mixed_images(64, generator)[0], Toy()
    for network in (toy, again):
        fit_posterior(network, [few], RANGE_NM, seed=1)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in toy.state_dict().items())


def test_vectors_turn_with_orientations(generator):
    quaternion = random_orientations(20, generator)
    angle = 6 * torch.rand(20, generator=generator, dtype=torch.float64)
    expected = embed(rotate_about_beam(quaternion, angle))
    torch.testing.assert_close(turned_vectors(embed(quaternion), angle), expected)


def test_training_fits_the_head_at_its_end_and_changes_no_answer(tmp_path, monkeypatch):
    monkeypatch.setattr("icobench.network.training.LEAST_IMAGES", 16)
    recipe = dataclasses.replace(TINY, steps=2, spread_share=0.0)
    plain = train(recipe, EXPERIMENT, tmp_path / "plain", seed=3)
    result = train(dataclasses.replace(recipe, posterior_share=1.0), EXPERIMENT, tmp_path / "head", seed=3)
    assert result.simulations == plain.simulations + 2 * 16 // 8
    stored = load_trained(tmp_path / "head" / "network.safetensors")
    assert stored.card["posterior_images"] == 32
    images = torch.rand(3, 3, 128, 128)
    with torch.no_grad():
        assert torch.equal(result.network(images), plain.network(images))
    found = mixture_of(stored.network, images, (28.0, 164.0))
    assert found.factor.isfinite().all()
    assert found.quaternion.shape == (3, 2, 4)
    with pytest.raises(InputError, match="no head for the posterior"):
        pattern = simulate(60.0, photons=1e5)
        with_posterior(load_network(tmp_path / "plain" / "network.safetensors"), pattern)


def test_heads_and_recipes_that_make_no_sense():
    with pytest.raises(ValueError, match="posterior_share needs photon counts and the target orbit"):
        Recipe(steps=1, images="clean", posterior_share=0.1)
    with pytest.raises(InputError, match="needs the target orbit"):
        build_network("compact", {"target": "quaternion", "posterior_hidden": 4})
