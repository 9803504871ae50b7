"""The spread head recovers errors of known size, and changes no answer."""

import dataclasses
import math

import pytest
import torch
from scipy.stats import chi2, norm, t

from icobench.errors import InputError
from icobench.geometry.rotations import quaternion_multiply, random_quaternions, rotation_vector_to_quaternion
from icobench.network.architectures import build_network
from icobench.network.checkpoint import load_trained, read_weights, save_network
from icobench.network.heads import SpreadHead
from icobench.network.orbit import embed
from icobench.network.outputs import Layout
from icobench.network.selection import SHIPPED
from icobench.network.spreads import OF_ANGLE, OF_RADIUS, common_factor, fit_spreads
from icobench.network.stream import TrainingBatch
from icobench.network.targets import TARGETS, Line
from icobench.network.training import train
from tests.network.tiny import EXPERIMENT, TINY


class Toy(torch.nn.Module):
    """Its input is an orbit vector, a radius and eight features; one tells the size of the errors."""

    def __init__(self):
        super().__init__()
        self.layout = Layout(TARGETS["orbit"], Line())

    def with_features(self, x):
        first_guess = torch.full((len(x), 2), -4.0)
        return torch.cat((x[:, :14], first_guess), 1), x[:, 14:]

    def add_spread_head(self, hidden):
        self.head = SpreadHead(8, hidden)
        return self.head

    def error_bars(self, x):
        output, features = self.with_features(x)
        return self.layout.error_bars(torch.cat((output[:, :14], output[:, 14:] + self.head(features)), 1))


def noisy_images(count, generator):
    """Inputs of :class:`Toy` with the truth; standard deviations (nm) and rms angles (deg) of the errors."""
    features = torch.randn(count, 8, generator=generator)
    radius_std, angle_std = torch.exp(0.5 * features[:, 3]), 3 * torch.exp(-0.7 * features[:, 3])
    truth = random_quaternions(count, generator)
    turns = torch.deg2rad(angle_std / math.sqrt(3))[:, None] * torch.randn(count, 3, generator=generator)
    answered = quaternion_multiply(rotation_vector_to_quaternion(turns.double()), truth)
    radius_nm = 40 + 100 * torch.rand(count, generator=generator)
    size = (radius_nm + radius_std * torch.randn(count, generator=generator) - 30) / 130
    inputs = torch.cat((embed(answered).float(), size[:, None], features), 1)
    return TrainingBatch(inputs, truth, radius_nm), radius_std, angle_std


def test_the_head_recovers_a_noise_that_depends_on_the_image(generator):
    """Errors between images differ by factors of ten."""
    toy, again = Toy(), Toy()
    batches = [noisy_images(2048, generator)[0] for _ in range(4)]
    fit_spreads(toy, batches, seed=1)
    fresh, *expected = noisy_images(1000, generator)
    with torch.no_grad():
        for found, size in zip(toy.error_bars(fresh.inputs), expected, strict=True):
            ratio = found / size
            assert float(ratio.median()) == pytest.approx(1, abs=0.1)
            assert float(ratio.quantile(0.05)) > 0.75
            assert float(ratio.quantile(0.95)) < 1.33
    fit_spreads(again, batches, seed=1)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in toy.state_dict().items())


def test_the_head_changes_no_answer(generator):
    network = build_network("compact", {"widths": [4, 4, 8], "hidden": 8}).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images, truth = torch.rand(64, 3, 128, 128, generator=generator), random_quaternions(64, generator)
    numbers = network.layout.dimension
    old = network(images)
    fit_spreads(network, [TrainingBatch(images, truth, torch.full((64,), 60.0))], seed=1)
    new = network(images)
    assert torch.equal(old[:, :numbers], new[:, :numbers])
    assert not torch.equal(old[:, numbers:], new[:, numbers:])
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
    assert all("spread_head" in name for name in network.state_dict().keys() - before.keys())


def test_half_widths_are_quantiles():
    for level, radius, angle in zip((0.6827, 0.95), OF_RADIUS, OF_ANGLE, strict=True):
        assert norm.cdf(radius) - norm.cdf(-radius) == pytest.approx(level)
        assert chi2.cdf(3 * angle**2, 3) == pytest.approx(level)


def test_the_common_factor(generator):
    """With heavy tails one share is too large and the other too small."""
    normal = torch.randn(100_000, generator=generator).abs()
    assert common_factor(3 * normal, OF_RADIUS) == pytest.approx(3, rel=0.02)
    heavy = torch.as_tensor(t.ppf((torch.arange(100_000) + 0.5) / 200_000 + 0.5, 3))
    factor = common_factor(heavy, OF_RADIUS)
    first, second = (float((heavy <= factor * width).double().mean()) for width in OF_RADIUS)
    assert first > 0.6827
    assert second < 0.95
    assert first - 0.6827 == pytest.approx(0.95 - second, abs=1e-3)


def test_weights_with_and_without_the_head(tmp_path, finished):
    """Old files have none and load; a file says that it has one; damaged ones are refused."""
    folder, result = finished
    card = read_weights(folder / "network.safetensors").card
    assert load_trained(folder / "network.safetensors").network.spread_head is None
    network = build_network("compact", TINY.network)
    network.load_state_dict(result.network.state_dict())
    network.add_spread_head(4)
    path = tmp_path / "network.safetensors"
    save_network(path, network, {**card, "network": network.options})
    loaded = load_trained(path).network
    images = torch.rand(2, 3, 128, 128)
    with torch.no_grad():  # a new head corrects nothing
        torch.testing.assert_close(loaded(images), result.network(images), rtol=1e-4, atol=1e-5)
    save_network(path, network, card)
    with pytest.raises(InputError, match=r"spread_head.* is not the network's"):
        load_trained(path)
    save_network(path, result.network, {**card, "network": network.options})
    with pytest.raises(InputError, match=r"there is no spread_head"):
        load_trained(path)
    network.spread_head.scale[0] = 0
    save_network(path, network, {**card, "network": network.options})
    with pytest.raises(InputError, match="scale of a head is not positive"):
        load_trained(path)
    save_network(path, result.network, {**card, "spreads": 3})
    with pytest.raises(InputError, match="spreads is no dictionary"):
        load_trained(path)


def test_training_fits_the_head_at_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("icobench.network.training.LEAST_IMAGES", 16)
    recipe = dataclasses.replace(TINY, steps=2, spread_share=1.0)
    early = train(recipe, EXPERIMENT, tmp_path, seed=3, max_minutes=0)
    assert not early.finished
    assert load_trained(tmp_path / "network.safetensors").network.spread_head is None
    result = train(recipe, EXPERIMENT, tmp_path, seed=3)
    stored = load_trained(tmp_path / "network.safetensors")
    assert stored.network.spread_head is not None
    assert stored.card["spread_images"] == 32
    # Two steps of 16 images, eight of them from one simulation, and as many for the head.
    assert stored.card["training_simulations"] == result.simulations == 2 * 2 * 16 // 8
    without = train(dataclasses.replace(recipe, spread_share=0.0), EXPERIMENT, tmp_path / "none", seed=3)
    assert without.simulations == 2 * 16 // 8
    state = result.network.state_dict()
    assert all(torch.equal(state[name], value) for name, value in without.network.state_dict().items())
    start = read_weights(tmp_path / "network.safetensors")
    train(dataclasses.replace(recipe, steps=1), EXPERIMENT, tmp_path / "more", seed=3, start=start)


def test_shipped_networks_have_a_head_and_the_answers_of_before():
    for path in SHIPPED.glob("*.safetensors"):
        card = read_weights(path).card
        assert card["network"]["spread_hidden"] > 0
        assert card["spreads"]["answers_of"] and card["started_from"]["spread_factors"]
