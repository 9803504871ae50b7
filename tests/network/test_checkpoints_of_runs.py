"""Which checkpoints a training goes on from, and what it says of the others."""

import dataclasses
import math

import pytest
import torch

from icobench.errors import InputError
from icobench.images.pixels import intensity_from_log
from icobench.network.checkpoint import read_weights
from icobench.network.recipe import Recipe
from icobench.network.training import data_digest, train
from icobench.simulator.experiment import Experiment
from tests.network.tiny import EXPERIMENT, image_set

TINY = Recipe(
    steps=2, batch=16, variants=8, network={"widths": [4, 4, 8], "hidden": 8}, radius_nm=(28.0, 32.0)
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A short run: folder and result."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(TINY, EXPERIMENT, folder, seed=3)


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


RADII, TURNS = torch.tensor([30.0, 31, 32]), torch.eye(4)[:3]
SET = image_set(
    torch.linspace(0, 1, 3 * 128**2).reshape(3, 128, 128), "intensity", radius_nm=RADII, quaternion=TURNS
)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"recipe": dataclasses.replace(TINY, learning_rate=1e-3)}, "recipe.learning_rate 0.002, not 0.001"),
        (
            {"recipe": dataclasses.replace(TINY, pool=3, batch=8)},
            "recipe.pool None, not 3; recipe.batch 16, not 8",
        ),
        (
            {"experiment": Experiment(refractive_index=0.9 + 0.08j)},
            "experiment.refractive_index [1.0, 0.08594366926962348], not [0.9, 0.08]",
        ),
        ({"seed": 4}, "seed 3, not 4"),
        ({"fast": False}, "fast True, not False"),
        ({"data": SET}, f"data None, not {data_digest(SET)}"),
        ({"held_out": SET}, f"held_out None, not {data_digest(SET)}"),
    ],
    ids=["recipe", "two fields", "experiment", "seed", "fast", "data", "held-out set"],
)
def test_a_checkpoint_of_another_run_is_refused(finished, other, named):
    folder, _ = finished
    before = (folder / "checkpoint.pt").read_bytes()
    settings = {"recipe": TINY, "experiment": EXPERIMENT, "seed": 3, **other}
    with pytest.raises(InputError) as refused:
        train(folder=folder, **settings)
    assert str(refused.value) == (
        f"{folder / 'checkpoint.pt'}: belongs to another run ({named}); choose another folder"
    )
    assert (folder / "checkpoint.pt").read_bytes() == before


def test_a_stored_set_is_in_the_identity_and_on_the_card(tmp_path):
    recipe = dataclasses.replace(TINY, steps=1)
    for _ in range(2):
        train(recipe, EXPERIMENT, tmp_path, data=SET, held_out=SET)
    assert read_weights(tmp_path / "network.safetensors").card["data"] == data_digest(SET)
    other = dataclasses.replace(SET, radius_nm=RADII + 1)
    with pytest.raises(InputError, match=f"data {data_digest(SET)}, not {data_digest(other)}"):
        train(recipe, EXPERIMENT, tmp_path, data=other, held_out=SET)
    with pytest.raises(InputError, match=f"data {data_digest(SET)}, not None"):
        train(recipe, EXPERIMENT, tmp_path, held_out=SET)


def test_fields_that_a_checkpoint_lacks_are_defaults(finished, tmp_path):
    """New fields of recipes do not invalidate old checkpoints."""
    folder, expected = finished
    stored = torch.load(folder / "checkpoint.pt", weights_only=True)
    del stored["identity"]["recipe"]["patience"], stored["identity"]["experiment"]["pixel_average"]
    torch.save(stored, tmp_path / "checkpoint.pt")
    assert same(train(TINY, EXPERIMENT, tmp_path, seed=3).network, expected.network)
    with pytest.raises(InputError, match=r"recipe\.patience None, not 2"):
        train(dataclasses.replace(TINY, patience=2), EXPERIMENT, tmp_path, seed=3)
    stored["identity"]["recipe"]["colour"] = "red"
    torch.save(stored, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint\.pt: not a readable checkpoint"):
        train(TINY, EXPERIMENT, tmp_path, seed=3)


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ({"recipe": repr(TINY), "experiment": repr(EXPERIMENT), "seed": 3}, "not a readable checkpoint"),
        ({"seed": 3}, "not a readable checkpoint"),
        (
            {"recipe": TINY.to_dict(), "experiment": EXPERIMENT.to_dict(), "seed": 3},
            "belongs to another run .*start unknown, not None",
        ),
    ],
    ids=["text", "neither recipe nor experiment", "incomplete"],
)
def test_checkpoints_of_older_versions_are_refused(finished, tmp_path, identity, message):
    folder, _ = finished
    stored = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({**stored, "identity": identity}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=rf"checkpoint\.pt: {message}"):
        train(TINY, EXPERIMENT, tmp_path, seed=3)


def test_digest_of_a_set():
    """It changes with shape, truth and pixels, but not with the last bits of log images' intensities."""
    levels = torch.randint(0, 256, (3, 128, 128), generator=torch.Generator().manual_seed(1)) / 255
    intensity = intensity_from_log(levels)
    images = dataclasses.replace(SET, images=intensity)
    digest = data_digest(images)
    rounded = intensity.nextafter(torch.tensor(math.inf)).nextafter(torch.tensor(math.inf))
    assert data_digest(dataclasses.replace(images, images=rounded)) == digest
    others = [
        images.subset(torch.arange(2)),
        dataclasses.replace(images, images=intensity.flip(0)),
        dataclasses.replace(images, radius_nm=RADII.flip(0)),
        dataclasses.replace(images, quaternion=TURNS.flip(0)),
    ]
    assert len({digest, *(data_digest(other) for other in others)}) == 5
    # Those of sets that older trainings used.
    assert data_digest(SET) == "bb384029d1c1"
