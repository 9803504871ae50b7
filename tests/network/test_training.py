"""The stream's determinism, resuming bit for bit, checkpoints and cards."""

import csv
import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from icobench.errors import InputError
from icobench.geometry.orientation import disorientation
from icobench.network.checkpoint import TrainedNetwork, load_network, save_network
from icobench.network.compact import CompactNetwork
from icobench.network.orbit import decode, embed
from icobench.network.recipe import Recipe
from icobench.network.stream import TrainingStream, step_learning_rate
from icobench.network.training import train
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

TINY = Recipe(
    steps=4, batch=64, variants=8, widths=(4, 4, 8, 8), hidden=8, radius_nm=(28.0, 32.0), warm_share=0.5
)
EXPERIMENT = Experiment()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run without interruption: folder and result."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(TINY, EXPERIMENT, folder, seed=3)


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_stream_is_a_function_of_seed_and_step():
    stream = TrainingStream(TINY, EXPERIMENT, 3, "cpu")
    first = stream.batch(2)
    stream.batch(0)
    for one, again in zip(first, stream.batch(2), strict=True):
        assert torch.equal(one, again)
    for one, again in zip(first, TrainingStream(TINY, EXPERIMENT, 3, "cpu").batch(2), strict=True):
        assert torch.equal(one, again)
    assert not torch.equal(first[0], stream.batch(1)[0])
    assert not torch.equal(first[2], TrainingStream(TINY, EXPERIMENT, 4, "cpu").batch(2)[2])


def test_stream_makes_images_of_its_targets():
    """The input's counts, brought back, fit a simulation of the target's orientation and radius."""
    recipe = dataclasses.replace(
        TINY, batch=4, variants=4, photons=(1e7, 1e7), whole_share=1.0, hole_degrees=(0.0, 0.0),
        default_index_share=1.0,
    )  # fmt: skip
    inputs, vector, radius = TrainingStream(recipe, EXPERIMENT, 5, "cpu").batch(0)
    assert inputs.shape == (4, 6, 64, 64)
    assert ((radius >= 28) & (radius <= 32)).all()
    counts = torch.nn.functional.pixel_shuffle(torch.expm1(4 * inputs[:, :4]), 2)[:, 0]
    quaternion = decode(vector, 1).quaternion[:, 0]
    mean = Simulator(EXPERIMENT).intensity(radius, quaternion)
    mean = mean / mean.sum((1, 2), keepdim=True) * counts.sum((1, 2), keepdim=True)
    valid = EXPERIMENT.valid()
    # Pearson's chi square per pixel is 1 where counts are Poisson about this mean.
    chi = ((counts - mean).square() / mean.clamp_min(1))[:, valid].mean(1)
    np.testing.assert_allclose(chi, 1, atol=0.2)


def test_learning_rate_is_one_cycle():
    recipe = Recipe(steps=1000)
    rates = [step_learning_rate(recipe, step) for step in range(1000)]
    assert max(rates) == pytest.approx(recipe.learning_rate)
    assert rates.index(max(rates)) in (29, 30)  # 3 % of the steps
    assert rates[-1] == pytest.approx(0.01 * recipe.learning_rate, rel=0.01)
    assert all(a > b for a, b in pairwise(rates[31:]))


def test_recipe_refuses_nonsense():
    for wrong in ({"steps": 0}, {"steps": 1, "batch": 30}, {"steps": 1, "batch": 9, "variants": 9}):
        with pytest.raises(ValueError, match="multiple of variants"):
            Recipe(**wrong)


def test_resuming_is_bit_for_bit(finished, tmp_path):
    folder, whole = finished
    calls = 0
    result = None
    while result is None or not result.finished:
        result = train(TINY, EXPERIMENT, tmp_path, seed=3, max_minutes=0)
        calls += 1
        assert result.steps == calls  # one step a call
    assert same(result.network, whole.network)
    assert (result.steps, result.simulations) == (whole.steps, whole.simulations) == (4, 4 * 64 // 8)
    first, second = (torch.load(run / "checkpoint.pt", weights_only=True) for run in (folder, tmp_path))
    for name in ("network", "average"):
        assert all(torch.equal(first[name][key], second[name][key]) for key in first[name])


def test_training_moves_the_network(finished):
    _, result = finished
    torch.manual_seed(0)
    assert not same(result.network, CompactNetwork(TINY.widths, TINY.hidden))
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
    assert int(rows[0]["images"]) == 4 * 64
    assert 0 < float(rows[0]["disorientation_median_deg"]) <= float(rows[0]["disorientation_90_deg"]) < 45


@pytest.mark.parametrize(
    ("recipe", "experiment", "seed"),
    [
        (dataclasses.replace(TINY, learning_rate=1e-3), EXPERIMENT, 3),
        (TINY, Experiment(refractive_index=0.9 + 0.08j), 3),
        (TINY, EXPERIMENT, 4),
    ],
    ids=["recipe", "experiment", "seed"],
)
def test_a_checkpoint_of_another_run_is_refused(finished, recipe, experiment, seed):
    folder, _ = finished
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match=r"checkpoint\.pt: belongs to another recipe"):
        train(recipe, experiment, folder, seed=seed)
    assert (folder / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "noise", "foreign"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    if content is None:
        torch.save({"weights": torch.zeros(3)}, tmp_path / "checkpoint.pt")
    else:
        (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint\.pt"):
        train(TINY, EXPERIMENT, tmp_path, seed=3)


def test_nan_loss_stops_and_keeps_the_last_good_state(tmp_path):
    """An absurd learning rate; the checkpoint of step 1 must survive."""
    wild = dataclasses.replace(TINY, steps=40, learning_rate=1e30, batch=8)
    train(wild, EXPERIMENT, tmp_path, seed=3, max_minutes=0)
    good = (tmp_path / "checkpoint.pt").read_bytes()
    with pytest.raises(InputError, match="loss became"):
        train(wild, EXPERIMENT, tmp_path, seed=3)
    assert (tmp_path / "checkpoint.pt").read_bytes() == good


def test_card_and_weights_round_trip(finished):
    folder, result = finished
    trained = load_network(folder / "network.safetensors")
    assert same(trained.network, result.network)
    assert not trained.network.training
    assert trained.card["steps"] == 4
    assert trained.card["training_simulations"] == result.simulations
    assert trained.card["seed"] == 3
    assert Experiment.from_dict(trained.card["experiment"]) == EXPERIMENT
    assert len(trained.digest) == 12
    assert trained.card["parameters"] == sum(p.numel() for p in result.network.parameters())
    # The same weights under another name have the same digest.
    again = folder.parent / "again.safetensors"
    save_network(again, trained.network, {"experiment": EXPERIMENT.to_dict(), "recipe": TINY.to_dict()})
    assert load_network(again).digest == trained.digest
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.pt", "network.json", "network.safetensors", "training.csv",
    ]  # fmt: skip


@pytest.fixture
def copied(finished, tmp_path):
    folder, _ = finished
    for name in ("network.safetensors", "network.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    return tmp_path / "network.safetensors"


@pytest.mark.parametrize("damage", ["empty", "cut short", "noise", "flipped header"])
def test_damaged_weights(copied, damage, rng):
    whole = copied.read_bytes()
    copied.write_bytes(
        {
            "empty": b"",
            "cut short": whole[:-1000],
            "noise": rng.bytes(5000),
            "flipped header": bytes([whole[0] ^ 255]) + whole[1:],
        }[damage]
    )
    with pytest.raises(InputError, match=r"network\.safetensors: not a network of icobench"):
        load_network(copied)


@pytest.mark.parametrize(
    "change",
    [
        lambda card: card.pop("widths"),
        lambda card: card.update(widths=[4, 4, 8]),
        lambda card: card.update(widths=[4, 4, 8, 16]),
        lambda card: card.update(hidden="many"),
        lambda card: card.pop("experiment"),
        lambda card: card.pop("recipe"),
    ],
    ids=["no widths", "three widths", "other widths", "no number", "no experiment", "no recipe"],
)
def test_damaged_cards(copied, change):
    path = copied.with_suffix(".json")
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))
    with pytest.raises(InputError, match="not a network of icobench"):
        load_network(copied)


def test_missing_parts(copied):
    copied.with_suffix(".json").write_text("{")
    with pytest.raises(InputError, match="not a network of icobench"):
        load_network(copied)
    copied.with_suffix(".json").unlink()
    with pytest.raises(InputError, match=r"network\.json: no such file"):
        load_network(copied)
    with pytest.raises(InputError, match=r"other\.safetensors: no such file"):
        load_network(copied.with_name("other.safetensors"))


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (Experiment(wavelength_nm=13.6), "wavelength 13.5 nm, not 13.6 nm"),
        (Experiment(refractive_index=0.8 + 0.0859j), "refractive index"),
        (Experiment(refractive_index=0.95 + 0.2j), "refractive index"),
        (Experiment(sin_theta_max=0.4), "sin_theta_max of at least 0.5, not 0.4"),
    ],
)
def test_experiments_outside_of_training_are_refused(experiment, message):
    trained = TrainedNetwork(
        CompactNetwork((4, 4, 4, 4), 4), {"experiment": EXPERIMENT.to_dict(), "recipe": TINY.to_dict()}, ""
    )
    with pytest.raises(InputError, match=message):
        trained.check(experiment)


@pytest.mark.parametrize(
    "experiment",
    [
        EXPERIMENT,
        Experiment(refractive_index=0.89 + 0.0859j),
        Experiment(sin_theta_max=0.5, pixels=96, solid_angle_factor=True),
    ],
)
def test_experiments_within_training_are_accepted(experiment):
    card = {"experiment": EXPERIMENT.to_dict(), "recipe": TINY.to_dict()}
    TrainedNetwork(CompactNetwork((4, 4, 4, 4), 4), card, "").check(experiment)


def test_loss_is_least_at_the_truth(generator):
    vector = embed(torch.tensor([[1.0, 0, 0, 0], [0.9, 0.3, 0.1, 0.3]]).double()).float()
    radius = torch.tensor([60.0, 120.0])
    perfect = torch.cat((vector, (radius[:, None] - 95) / 65, torch.full((2, 1), -3.0)), 1)
    said = CompactNetwork.interpret(perfect)
    torch.testing.assert_close(said.radius_nm, radius)
    torch.testing.assert_close(said.radius_std_nm, torch.full((2,), 65 * np.exp(-3.0), dtype=torch.float32))
    assert float(disorientation(decode(said.vector, 1).quaternion[0, 0], torch.eye(4).double()[0])) < 0.01
    best = CompactNetwork.loss(perfect, vector, radius)
    for column in (0, 6, 12, 13):
        worse = perfect.clone()
        worse[:, column] += 0.1
        assert CompactNetwork.loss(worse, vector, radius) > best
