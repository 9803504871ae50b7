"""Weights and their cards: read, written, refused; what a network was trained for."""

import dataclasses
import hashlib
import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from icobench.errors import InputError
from icobench.network import checkpoint
from icobench.network.architectures import build_network
from icobench.network.checkpoint import (
    FORMAT,
    TrainedNetwork,
    load_trained,
    read_weights,
    rounded,
    save_network,
    save_rounded,
    training_stages,
    unrounded,
)
from icobench.network.stream import TrainingStream
from icobench.simulator.experiment import Experiment
from tests.network.tiny import EXPERIMENT, TINY


def test_card_and_weights_round_trip(finished):
    folder, result = finished
    trained = load_trained(folder / "network.safetensors")
    batch = TrainingStream(TINY, EXPERIMENT, 3, "cpu").batch(0)
    with torch.no_grad():
        # Merged norms round differently.
        torch.testing.assert_close(
            trained.network(batch.inputs), result.network(batch.inputs), rtol=1e-4, atol=1e-5
        )
    assert trained.recipe == TINY
    assert not trained.network.training
    assert trained.card["steps"] == 4
    assert trained.card["training_simulations"] == result.simulations
    assert trained.card["seed"] == 3
    assert Experiment.from_dict(trained.card["experiment"]) == EXPERIMENT
    assert len(trained.digest) == 12
    assert trained.card["parameters"] == sum(p.numel() for p in result.network.parameters())
    # The same weights under another name have the same digest.
    again = folder.parent / "again.safetensors"
    save_network(again, result.network, trained.card)
    assert load_trained(again).digest == trained.digest
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.pt", "network.safetensors", "training.csv",
    ]  # fmt: skip


@pytest.fixture
def copied(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "network.safetensors").write_bytes((folder / "network.safetensors").read_bytes())
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
        load_trained(copied)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card["network"].update(widths=[4, 4]), "not enough values"),
        (lambda card: card["network"].update(widths=[4, 4, 16]), r"is of shape \(8,.*, not \(16,"),
        (lambda card: card["network"].update(colour="red"), "colour"),
        (lambda card: card["network"].update(target="euler"), "unknown target 'euler'"),
        (lambda card: card.update(architecture="vast"), "unknown architecture 'vast'"),
        (lambda card: card.pop("experiment"), "experiment"),
        (lambda card: card.pop("recipe"), "recipe"),
        (lambda card: card["recipe"].update(sharpness=3), "a recipe has no sharpness"),
    ],
    ids=[
        "two widths",
        "other widths",
        "option",
        "target",
        "architecture",
        "experiment",
        "no recipe",
        "recipe",
    ],
)
def test_damaged_cards(copied, change, message):
    weights = load_file(str(copied))
    with safe_open(str(copied), framework="pt") as opened:
        card = json.loads(opened.metadata()["card"])
    change(card)
    save_file(weights, str(copied), {"format": FORMAT, "card": json.dumps(card)})
    with pytest.raises(InputError, match=rf"not a network of icobench \(.*({message})"):
        load_trained(copied)


def rewrite(path, change):
    """The same file with every tensor of numbers changed."""
    weights = load_file(str(path))
    with safe_open(str(path), framework="pt") as opened:
        metadata = opened.metadata()
    changed = {name: change(value) if value.is_floating_point() else value for name, value in weights.items()}
    save_file(changed, str(path), metadata)


def test_weights_with_nan_are_neither_read_nor_written(copied):
    network = load_trained(copied).network
    network.get_parameter(next(name for name, _ in network.named_parameters())).data.fill_(math.inf)
    before = copied.read_bytes()
    with pytest.raises(InputError, match=r"not written, .* is not finite"):
        save_network(copied, network, {})
    assert copied.read_bytes() == before
    rewrite(copied, lambda value: value * math.nan)
    for read in (load_trained, read_weights):
        with pytest.raises(InputError, match=r"network\.safetensors: not a network.*is not finite"):
            read(copied)


def test_weights_in_half_precision(copied):
    whole = load_trained(copied)
    rewrite(copied, lambda value: value.bfloat16())
    half = load_trained(copied)
    assert half.digest != whole.digest
    for first, second in zip(half.network.parameters(), whole.network.parameters(), strict=True):
        assert first.dtype == second.dtype
        torch.testing.assert_close(first, second, rtol=0.02, atol=1e-3)


def test_rounding_moves_no_weight_by_more_than_half_a_step():
    """A step is a 127th of the largest weight of an output channel; a channel of zeros stays zero."""
    generator = torch.Generator().manual_seed(2)
    large = torch.randn(16, 32, 3, 3, generator=generator) * torch.logspace(-6, 2, 16)[:, None, None, None]
    large[5] = 0
    weights = {"large": large, "small": torch.randn(5, 512, generator=generator), "count": torch.tensor(7)}
    stored = rounded(weights)
    assert {name: value.dtype for name, value in stored.items()} == {
        "large": torch.int8, "large.step": torch.float32, "small": torch.float16, "count": torch.int64,
    }  # fmt: skip
    again = unrounded(stored)
    assert list(again) == list(weights)
    step = large.abs().amax((1, 2, 3)) / 127
    moved = (again["large"] - large).abs().amax((1, 2, 3))
    assert (moved <= step * (0.5 + 1e-4)).all()
    assert (moved[step > 0] > 0.4 * step[step > 0]).all()  # of 288 weights some lie half-way
    assert (again["large"][5] == 0).all()
    torch.testing.assert_close(again["small"].float(), weights["small"], rtol=1e-3, atol=1e-7)
    assert again["count"] == 7
    with pytest.raises(ValueError, match=r"there is no large\.step"):
        unrounded({"large": stored["large"]})


@pytest.fixture
def parts(finished, tmp_path, monkeypatch):
    """A folder with a rounded network in three parts."""
    monkeypatch.setattr(checkpoint, "LEAST_ROUNDED", 100)
    trained = load_trained(finished[0] / "network.safetensors")
    network = build_network("compact", TINY.network)
    size = sum(value.nbytes for value in rounded(network.state_dict()).values())
    monkeypatch.setattr(checkpoint, "PART_BYTES", size // 2 - 1)
    save_rounded(tmp_path / "rounded", network, trained.card)
    return tmp_path / "rounded"


def test_parts_are_read_as_one_network(parts):
    files = sorted(parts.iterdir())
    assert [file.name for file in files] == [f"part-{number}.safetensors" for number in (1, 2, 3)]
    together = load_trained(parts)
    assert together.digest == load_trained(str(parts)).digest
    assert together.recipe == TINY
    assert any(value.dtype == torch.int8 for value in load_file(str(files[0])).values())
    # However they are divided.
    everything = {name: value for file in files for name, value in load_file(str(file)).items()}
    header = {"format": FORMAT, "card": json.dumps(together.card)}
    save_file(everything, str(parts.with_name("whole.safetensors")), header)
    assert load_trained(parts.with_name("whole.safetensors")).digest == together.digest


def test_parts_that_are_missing_damaged_or_anothers(parts, tmp_path):
    second = parts / "part-2.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"part-2\.safetensors: not a network of icobench"):
        load_trained(parts)
    second.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=r"rounded: not a network .*a part is damaged or another's"):
        load_trained(parts)
    second.unlink()
    with pytest.raises(InputError, match=r"rounded: not a network .*\(2 of 3 parts\)"):
        load_trained(parts)
    with pytest.raises(InputError, match=r"part-1\.safetensors: .*\(1 of 3 parts\)"):
        load_trained(parts / "part-1.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no weights in this folder"):
        load_trained(tmp_path / "empty")
    network = build_network("compact", TINY.network)
    next(network.parameters()).data.fill_(math.nan)
    with pytest.raises(InputError, match="not written"):
        save_rounded(tmp_path / "other", network, {})


def test_digest_is_that_of_the_numbers(copied):
    """Shipped weights are known by it: it must not change."""
    digest = hashlib.sha256()
    for name, value in sorted(load_file(str(copied)).items()):
        digest.update(name.encode() + value.numpy().tobytes())
    assert read_weights(copied).digest == digest.hexdigest()[:12]


def test_foreign_weights(copied):
    save_file({"weight": torch.zeros(3)}, str(copied))
    with pytest.raises(InputError, match="its format is None"):
        load_trained(copied)
    save_file({"weight": torch.zeros(3)}, str(copied), {"format": FORMAT, "card": "{"})
    with pytest.raises(InputError, match="not a network of icobench"):
        load_trained(copied)
    with pytest.raises(InputError, match=r"other\.safetensors: no such file"):
        load_trained(copied.with_name("other.safetensors"))


def untrained(recipe):
    network = build_network("compact", TINY.network)
    return TrainedNetwork(network, {"experiment": EXPERIMENT.to_dict()}, recipe, "")


@pytest.mark.parametrize(
    ("experiment", "message"),
    [
        (Experiment(wavelength_nm=13.6), "wavelength 13.5 nm, not 13.6 nm"),
        (Experiment(refractive_index=0.8 + 0.0859j), "refractive index"),
        (Experiment(refractive_index=0.95 + 0.2j), "refractive index"),
        (Experiment(sin_theta_max=0.4), "sin_theta_max of at least 0.5, not 0.4"),
        (Experiment(physics="propagated"), "the physics straight, not propagated"),
    ],
)
def test_experiments_outside_of_training_are_named(experiment, message):
    assert message in "; ".join(untrained(TINY).misfits(experiment))
    clean = dataclasses.replace(TINY, images="clean")
    assert untrained(clean).misfits(experiment)


@pytest.mark.parametrize(
    "experiment",
    [
        EXPERIMENT,
        Experiment(refractive_index=0.89 + 0.0859j),
        Experiment(sin_theta_max=0.5, pixels=96, solid_angle_factor=True),
        Experiment(refractive_index=0.91 + 0.08j, polarization="circular"),
    ],
)
def test_experiments_within_training_are_accepted(experiment):
    assert not untrained(TINY).misfits(experiment)
    # The network for clean images knows one material and the whole half space only.
    clean = untrained(dataclasses.replace(TINY, images="clean"))
    assert bool(clean.misfits(experiment)) == (experiment != EXPERIMENT)


def test_stages_of_a_training_are_told_apart():
    """The costs in a card include those of the weights that the training started from."""
    first = {"device": "cpu", "training_core_seconds": 4000.0, "training_simulations": 176_000, "data": None}
    second = {
        "device": "cuda", "training_core_seconds": 4140.0, "training_simulations": 611_000, "data": "x",
        "started_from": first,
    }  # fmt: skip
    assert training_stages(second) == [(140.0, 435_000, True, False), (4000.0, 176_000, False, True)]
