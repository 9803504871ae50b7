"""The stream's determinism, training and resuming bit for bit."""

import csv
import dataclasses
import itertools
import json
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from icobench import stopwatch
from icobench.errors import InputError
from icobench.geometry.orientation import random_orientations
from icobench.images.pixels import log_image
from icobench.network.architectures import build_network
from icobench.network.checkpoint import load_trained, read_weights, training_core_seconds
from icobench.network.optimisers import Schedule
from icobench.network.outputs import LOSSES
from icobench.network.recipe import RECIPES, Recipe
from icobench.network.stream import TrainingStream
from icobench.network.training import DivergedError, train
from icobench.network.validation import validation_batches
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.simulator import Simulator
from tests.network.tiny import EXPERIMENT, TINY, image_set

CPU = torch.device("cpu")


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_stream_is_a_function_of_seed_and_step():
    stream = TrainingStream(TINY, EXPERIMENT, 3, "cpu")
    first = stream.batch(2)
    stream.batch(0)
    for expected, again in zip(first, stream.batch(2), strict=True):
        assert torch.equal(expected, again)
    for expected, again in zip(first, TrainingStream(TINY, EXPERIMENT, 3, "cpu").batch(2), strict=True):
        assert torch.equal(expected, again)
    assert not torch.equal(first[0], stream.batch(1)[0])
    assert not torch.equal(first[2], TrainingStream(TINY, EXPERIMENT, 4, "cpu").batch(2)[2])


def test_stream_makes_images_of_its_targets():
    """The input's counts, brought back, fit a simulation of the target's orientation and radius."""
    recipe = dataclasses.replace(
        TINY, batch=8, photons=(1e7, 1e7), whole_share=1.0, hole_degrees=(0.0, 0.0), default_index_share=1.0
    )
    inputs, quaternion, radius = TrainingStream(recipe, EXPERIMENT, 5, "cpu").batch(0)
    assert inputs.shape == (8, 3, 128, 128)
    assert ((radius >= 28) & (radius <= 32)).all()
    counts = torch.expm1(4 * inputs[:, 0])
    mean = Simulator(EXPERIMENT).intensity(radius, quaternion)
    mean = mean / mean.sum((1, 2), keepdim=True) * counts.sum((1, 2), keepdim=True)
    valid = EXPERIMENT.valid()
    # Pearson's chi square per pixel is 1 where counts are Poisson about this mean.
    chi = ((counts - mean).square() / mean.clamp_min(1))[:, valid].mean(1)
    np.testing.assert_allclose(chi, 1, atol=0.2)


def test_clean_log_images_are_those_of_their_truth():
    recipe = dataclasses.replace(TINY, images="clean", batch=4, variants=4)
    inputs, quaternion, radius = TrainingStream(recipe, EXPERIMENT, 5, "cpu").batch(0)
    expected = log_image(Simulator(EXPERIMENT).intensity(radius, quaternion))
    # The truth went through float32 and another equivalent: turns of 1e-7.
    np.testing.assert_allclose(inputs[:, 0], expected, atol=2e-3)
    assert torch.equal(inputs[:, 1].bool(), EXPERIMENT.valid().expand(4, -1, -1))


@pytest.mark.parametrize("images", ["augmented", "realistic"])
def test_filters_reach_the_network(images):
    recipe = dataclasses.replace(TINY, images=images, batch=16)
    inputs, _, _ = TrainingStream(recipe, EXPERIMENT, 5, "cpu").batch(0)
    clean, _, _ = TrainingStream(dataclasses.replace(recipe, images="clean"), EXPERIMENT, 5, "cpu").batch(0)
    changed = (inputs[:, 0] != clean[:, 0]).flatten(1).any(1)
    assert int(changed.sum()) >= 10
    assert (inputs[:, 0][inputs[:, 1] == 0] == 0).all()
    again, _, _ = TrainingStream(recipe, EXPERIMENT, 5, "cpu").batch(0)
    assert torch.equal(inputs, again)


def test_a_pool_is_drawn_from_again_and_again():
    recipe = dataclasses.replace(TINY, pool=2, images="clean", variants=1, batch=12)
    stream = TrainingStream(recipe, EXPERIMENT, 3, "cpu")
    radii = torch.cat([stream.batch(step).radius_nm for step in range(3)])
    assert len(radii.unique()) == 2
    # Held-out images never come from the pool.
    fresh = torch.cat([batch.radius_nm for batch in validation_batches(recipe, EXPERIMENT, 3, CPU, None)])
    assert not torch.isin(fresh, radii).any()


def test_a_pool_costs_one_simulation_a_body(monkeypatch):
    """Also where its bodies are of several materials, each of the same one in every step."""
    recipe = dataclasses.replace(TINY, steps=100, pool=16, variants=1, default_index_share=0.5)
    stream, simulated = TrainingStream(recipe, EXPERIMENT, 3, CPU), []
    simulate = Simulator.intensity

    def counted(self, radius, quaternion):
        simulated.extend(zip(radius.tolist(), [self.experiment.refractive_index] * len(radius), strict=True))
        return simulate(self, radius, quaternion)

    monkeypatch.setattr(Simulator, "intensity", counted)
    drawn = [stream.patterns(step) for step in range(20)]
    assert len(simulated) == len(set(simulated)) == 16
    pairs = {
        pair
        for patterns in drawn
        for pair in zip(patterns.radius_nm.tolist(), patterns.refractive_index.tolist(), strict=True)
    }
    assert pairs == set(simulated)
    assert 4 <= sum(index == EXPERIMENT.refractive_index for _, index in pairs) <= 12
    patterns = drawn[7]
    expected = stream.simulator.with_refractive_index(complex(patterns.refractive_index[5])).intensity(
        patterns.radius_nm[5:6], patterns.quaternion[5:6]
    )
    torch.testing.assert_close(patterns.images[5:6], expected, rtol=1e-3, atol=1e-6)


def test_stored_images_are_used_as_they_are(generator):
    radius, quaternion = torch.tensor([30.0, 31.0]).double(), random_orientations(2, generator)
    intensity = Simulator(EXPERIMENT).intensity(radius, quaternion)
    recipe = dataclasses.replace(TINY, images="clean", variants=1, batch=6)
    data = image_set(intensity, "intensity", radius_nm=radius, quaternion=quaternion)
    inputs, turned, sizes = TrainingStream(recipe, EXPERIMENT, 3, "cpu", data).batch(0)
    assert set(sizes.tolist()) == {30.0, 31.0}
    # One version: neither turned nor mirrored.
    assert torch.equal(turned, quaternion[(sizes - 30).long()])
    expected = log_image(Simulator(EXPERIMENT).intensity(sizes, turned))
    np.testing.assert_allclose(inputs[:, 0], expected, atol=2e-3)


def test_learning_rate_is_one_cycle():
    recipe = Recipe(steps=1000)
    rates = [Schedule(recipe).learning_rate(step) for step in range(1000)]
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates.index(max(rates)) in (29, 30)  # 3 % of the steps
    assert rates[-1] == pytest.approx(0.01 * recipe.learning_rate, rel=0.01)
    assert all(a > b for a, b in pairwise(rates[31:]))


def test_recipe_refuses_nonsense():
    for wrong in (
        {"steps": 0},
        {"steps": 1, "batch": 0},
        {"steps": 1, "batch": 31},
        {"steps": 1, "batch": 9, "variants": 9},
    ):
        with pytest.raises(ValueError, match="multiple of variants"):
            Recipe(**wrong)
    for wrong in ({"images": "blurred"}, {"loss": "hinge"}, {"optimiser": "newton"}):
        with pytest.raises(ValueError, match="unknown"):
            Recipe(steps=1, **wrong)


def test_recipes_round_trip():
    for recipe in RECIPES.values():
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    with pytest.raises(InputError, match="a recipe has no colour"):
        Recipe.from_dict({"steps": 3, "colour": "red"})
    with pytest.raises(InputError, match="not a recipe"):
        Recipe.from_dict({})


def test_resuming_is_bit_for_bit(finished, tmp_path):
    folder, uninterrupted = finished
    calls = 0
    result = None
    while result is None or not result.finished:
        result = train(TINY, EXPERIMENT, tmp_path, seed=3, max_minutes=0)
        calls += 1
        assert result.steps == calls  # one step a call
    assert same(result.network, uninterrupted.network)
    assert (
        (result.steps, result.simulations)
        == (uninterrupted.steps, uninterrupted.simulations)
        == (4, 4 * 16 // 8)
    )
    first, second = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (folder, tmp_path))
    for name in ("network", "average"):
        assert all(torch.equal(first[name][key], second[name][key]) for key in first[name])


@pytest.fixture
def fast_clocks(monkeypatch):
    """A processor that counts 12 core-seconds, and a wall 7 s, every time that somebody looks."""
    ticks = {"process_time": itertools.count(0, 12), "perf_counter": itertools.count(0, 7)}
    clocks = {name: lambda name=name: float(next(ticks[name])) for name in ticks}
    monkeypatch.setattr(stopwatch, "time", SimpleNamespace(**clocks))


def test_core_seconds_add_up_over_resumptions(tmp_path, fast_clocks):
    """Each call does a step, between two looks at the processor's clock."""
    for calls in (1, 2, 3):
        result = train(TINY, EXPERIMENT, tmp_path, seed=3, max_minutes=0)
        assert (result.seconds, result.core_seconds) == (7 * calls, 12 * calls)
    card = read_weights(tmp_path / "network.safetensors").card
    assert (card["training_seconds"], card["training_core_seconds"]) == (21.0, 36.0)
    stored = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert stored.pop("core_seconds") == 36.0
    # As an earlier version left it: wall time of so many threads.
    torch.save(stored, tmp_path / "checkpoint.pt")
    result = train(TINY, EXPERIMENT, tmp_path, seed=3, max_minutes=0)
    assert result.core_seconds == 21 * torch.get_num_threads() + 12


def test_core_seconds_of_cards():
    card = {"training_seconds": 100.0, "threads": 2, "device": "cpu"}
    assert training_core_seconds(card) == 200.0
    assert training_core_seconds(card | {"training_core_seconds": 150.0}) == 150.0
    assert training_core_seconds(card | {"device": "cuda:0", "threads": 8}) == 100.0
    assert training_core_seconds({}) == 0.0


@pytest.mark.parametrize(
    ("experiment", "named"),
    [
        (Experiment(sin_theta_max=0.5), "not sin_theta_max 0.5"),
        (Experiment(pixels=64, solid_angle_factor=True), "not 64 x 64 pixels, a solid-angle factor"),
        (Experiment(centre_offset=(1.0, 0.0)), "not an off-centre beam"),
        (Experiment(detector=FlatDetector(50.0, 0.4)), "not a flat detector"),
        (Experiment(refractive_index=0.7 + 0.08j), "the recipe is for refractive index"),
        (Experiment(refractive_index=0.95 + 0.02j), "the recipe is for refractive index"),
    ],
)
def test_experiments_that_the_network_would_refuse(tmp_path, experiment, named):
    with pytest.raises(InputError, match=named):
        train(TINY, experiment, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stored", [False, True])
def test_radii_that_circles_cannot_tell(tmp_path, generator, stored):
    recipe = TINY if stored else dataclasses.replace(TINY, radius_nm=(10.0, 32.0))
    images = torch.rand(2, 128, 128, generator=generator)
    data = image_set(
        images, "intensity", radius_nm=torch.tensor([10.0, 32.0]), quaternion=random_orientations(2)
    )
    with pytest.raises(InputError, match="radii of 16 to 180 nm, not of 10 to 32 nm"):
        train(recipe, EXPERIMENT, tmp_path / "run", data=data if stored else None)
    assert list(tmp_path.iterdir()) == []
    line = dataclasses.replace(recipe, steps=1, network={**TINY.network, "periods_nm": []})
    train(line, EXPERIMENT, tmp_path / "run", data=data if stored else None)


def test_a_checkpoint_of_another_architecture_is_refused(finished, tmp_path):
    """Such as of a version whose defaults were others: the recipe is the same."""
    folder, _ = finished
    stored = torch.load(folder / "checkpoint.pt", weights_only=True)
    del stored["network"]["material"]
    torch.save(stored, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"another architecture .*material"):
        train(TINY, EXPERIMENT, tmp_path, seed=3)


def test_another_wavelength_and_material(tmp_path):
    other = Experiment(wavelength_nm=10.0, refractive_index=0.95 + 0.02j)
    train(dataclasses.replace(TINY, images="clean", steps=1), other, tmp_path)
    trained = load_trained(tmp_path / "network.safetensors")
    assert Experiment.from_dict(trained.card["experiment"]) == other
    assert trained.misfits(other) == []
    assert len(trained.misfits(EXPERIMENT)) == 2


def test_training_moves_the_network(finished):
    _, result = finished
    torch.manual_seed(0)
    assert not same(result.network, build_network("compact", TINY.network))
    assert all(torch.isfinite(value).all() for value in result.network.state_dict().values())
    assert not result.network.training


def test_another_seed_is_another_network(finished, tmp_path):
    _, result = finished
    one_step = dataclasses.replace(TINY, steps=1)
    assert not same(train(one_step, EXPERIMENT, tmp_path, seed=4).network, result.network)


def test_training_log(finished):
    folder, _ = finished
    with (folder / "training.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["step"] for row in rows] == ["4"]
    assert int(rows[0]["images"]) == 4 * 16
    assert 0 < float(rows[0]["disorientation_median_deg"]) <= float(rows[0]["disorientation_90_deg"]) < 45


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "noise", "foreign"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    if content is None:
        torch.save({"weights": torch.zeros(3)}, tmp_path / "checkpoint.pt")
    else:
        (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.pt"):
        train(TINY, EXPERIMENT, tmp_path, seed=3)


def test_progress_is_the_share_of_the_steps(tmp_path):
    shares, losses = [], []
    recipe = dataclasses.replace(TINY, steps=2)
    train(
        recipe, EXPERIMENT, tmp_path, progress=shares.append, report=lambda *values: losses.append(values[:2])
    )
    assert shares == [0.5, 1.0]
    assert [step for step, _ in losses] == [1, 2]
    assert all(math.isfinite(loss) for _, loss in losses)


def test_nan_loss_stops_and_keeps_the_last_good_state(tmp_path):
    """An absurd learning rate; the checkpoint of step 1 must survive."""
    wild = dataclasses.replace(TINY, steps=40, learning_rate=1e30, batch=8)
    train(wild, EXPERIMENT, tmp_path, seed=3, max_minutes=0)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match="loss became"):
        train(wild, EXPERIMENT, tmp_path, seed=3)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


class Spoilt(torch.autograd.Function):
    """The same number with a gradient of NaN."""

    @staticmethod
    def forward(context, loss):
        return loss.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * math.nan


def spoil(monkeypatch, wrong):
    """Spoil the losses of training from now on."""
    honest = LOSSES[TINY.loss]
    monkeypatch.setitem(LOSSES, TINY.loss, lambda *arguments: wrong(honest(*arguments)))


@pytest.mark.parametrize(
    ("wrong", "name"), [(Spoilt.apply, "gradient"), (lambda loss: loss * math.nan, "loss")]
)
def test_nan_reaches_no_weights(tmp_path, monkeypatch, wrong, name):
    train(TINY, EXPERIMENT, tmp_path, seed=3, max_minutes=0)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    spoil(monkeypatch, wrong)
    with pytest.raises(DivergedError, match=rf"the {name} became nan at step 1; .*checkpoint\.pt holds"):
        train(TINY, EXPERIMENT, tmp_path, seed=3, checkpoint_minutes=0)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good
    with pytest.raises(DivergedError, match=rf"the {name} became nan at step 0$"):
        train(TINY, EXPERIMENT, tmp_path / "fresh", seed=3)
    assert list((tmp_path / "fresh").iterdir()) == []


def test_weights_that_overflow_are_not_saved(tmp_path):
    wild = dataclasses.replace(TINY, steps=1, learning_rate=1e30, weight_decay=1e10)
    with pytest.raises(DivergedError, match=r"became infinite or NaN at step 1$"):
        train(wild, EXPERIMENT, tmp_path, seed=3)
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_with_nan_is_refused(finished, tmp_path):
    folder, _ = finished
    stored = torch.load(folder / "checkpoint.pt", weights_only=True)
    name = next(iter(stored["average"]))
    stored["average"][name].fill_(math.nan)
    torch.save(stored, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=rf"checkpoint\.pt: average {name} is not finite"):
        train(TINY, EXPERIMENT, tmp_path, seed=3)


def test_simulating_ahead_changes_nothing():
    """Steps in order are simulated together; each is the same as when asked for alone."""
    recipe = dataclasses.replace(TINY, steps=6, default_index_share=0.5)
    stream = TrainingStream(recipe, EXPERIMENT, 3, "cpu")
    in_order = [stream.batch(step) for step in range(6)]
    for step in (4, 1, 5):
        alone = TrainingStream(recipe, EXPERIMENT, 3, "cpu").batch(step)
        for values, other in zip(alone, in_order[step], strict=True):
            assert torch.equal(values, other)


@pytest.mark.parametrize(("share", "moved"), [(1.0, False), (0.5, True)])
def test_norms_keep_their_statistics_while_settling(tmp_path, share, moved):
    recipe = dataclasses.replace(TINY, steps=2, settle_share=share)
    network = train(recipe, EXPERIMENT, tmp_path, seed=3).network
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert any(bool(norm.running_mean.any()) for norm in norms) == moved
    assert not torch.equal(norms[0].weight, torch.ones_like(norms[0].weight))


def test_going_on_from_weights(finished, tmp_path):
    folder, uninterrupted = finished
    begun = read_weights(folder / "network.safetensors")
    still = dataclasses.replace(TINY, steps=1, learning_rate=1e-12, settle_share=1.0)
    result = train(still, EXPERIMENT, tmp_path / "same", seed=3, start=begun)
    for first, second in zip(result.network.parameters(), uninterrupted.network.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-9)
    card = load_trained(tmp_path / "same" / "network.safetensors").card
    assert card["started_from"]["steps"] == 4
    # The cost is that of both runs.
    assert card["training_simulations"] == uninterrupted.simulations + 16 // 8 == result.simulations
    assert card["training_seconds"] >= begun.card["training_seconds"]
    assert card["training_core_seconds"] >= begun.card["training_core_seconds"]
    with pytest.raises(InputError, match=f"start {begun.digest}, not None"):
        train(still, EXPERIMENT, tmp_path / "same", seed=3)
    wider = dataclasses.replace(still, network={"widths": [4, 4, 16], "hidden": 8})
    with pytest.raises(InputError, match=r"belong to another architecture \(.* is of shape"):
        train(wider, EXPERIMENT, tmp_path / "other", seed=3, start=begun)
