"""What images show: symmetry, batches, files, images that cannot be used, what the shipped weights say."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import icobench
from icobench.answer import MISS
from icobench.errors import InputError
from icobench.images.image_set import ImageSet
from icobench.images.reading import DARK
from icobench.images.symmetry import dihedral_images
from icobench.network.checkpoint import save_network
from icobench.network.classifier import (
    ARCHITECTURE,
    LABELS,
    Classifier,
    ClassifierNetwork,
    label_images,
    load_classifier,
)
from icobench.network.selection import SHIPPED
from icobench.simulator.experiment import Experiment

CARD = {"architecture": ARCHITECTURE, "recipe": {}, "experiment": Experiment().to_dict()}


def network() -> ClassifierNetwork:
    torch.manual_seed(1)
    return ClassifierNetwork((4, 4, 8), 8).eval()


@pytest.fixture
def tiny() -> Classifier:
    return Classifier(network(), {}, "")


@pytest.fixture(scope="module")
def patterns() -> ImageSet:
    """Icosahedra, 1e5 photons."""
    return icobench.generate(6, photons=1e5, seed=7)


def test_an_image_is_labelled_by_itself_and_turned_images_alike(tiny, patterns):
    together = label_images(patterns, tiny).probabilities
    alone = torch.cat(
        [label_images(patterns.subset(torch.tensor([i])), tiny).probabilities for i in range(6)]
    )
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    # Row and column 0 lie beyond the rim, so that a quarter turn is exact.
    turned = ImageSet(
        dihedral_images(patterns.images, 1), dihedral_images(patterns.mask, 1), "counts", patterns.experiment
    )
    torch.testing.assert_close(label_images(turned, tiny).probabilities, together, atol=1e-4, rtol=0)
    torch.testing.assert_close(together.sum(1), torch.ones(6))


def test_weights_are_stored_and_read(tmp_path, tiny, patterns):
    path = tmp_path / "mine.safetensors"
    trained = network()
    trained.scale[0], trained.shift[0, 2] = 0.5, 1.0
    save_network(path, trained, {**CARD, "network": trained.options})
    read = load_classifier(path)
    with torch.no_grad():
        x = torch.rand(3, 2, 128, 128)
        expected = trained.raw(x, torch.zeros(3)) * 0.5 + torch.tensor([0, 0, 1.0, 0, 0])
        torch.testing.assert_close(read.network(x, torch.zeros(3)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "compact"}, "its architecture is 'compact', not 'classifier'"),
        ({"network": {"widths": [10**6] * 3}}, "widths is"),
        ({"network": {"widths": [4, 4], "hidden": 8}}, "not a network of icobench"),
        ({"network": {"depth": 3}}, "not a network of icobench"),
        ({"network": {"widths": [4, 4, 8], "hidden": 16}}, "of shape"),
    ],
)
def test_foreign_weights_are_refused_in_one_line(tmp_path, changes, message):
    path, made = tmp_path / "a.safetensors", network()
    save_network(path, made, json.loads(json.dumps({**CARD, "network": made.options} | changes)))
    with pytest.raises(InputError, match=message) as refused:
        load_classifier(path)
    assert "\n" not in str(refused.value)


def test_networks_for_bodies_are_no_classifiers():
    with pytest.raises(InputError, match="its architecture is 'compact'"):
        load_classifier(SHIPPED / "clean.safetensors")


def test_images_that_cannot_be_used_keep_their_rows(tiny, patterns):
    flawed = patterns.subset(torch.arange(3))
    flawed.problems = {1: DARK, 2: "masked completely"}
    labels = label_images(flawed, tiny)
    assert labels.names[1:] == ["empty", ""]
    table = labels.to_frame()
    assert list(table.columns) == ["index", "label", *(f"p_{name}" for name in LABELS), "status"]
    assert table["status"].tolist() == ["ok", "ok", "failed: masked completely"]
    assert table["p_empty"][1] == 1
    assert np.isnan(table["p_several"][2])
    assert labels.misses[1:].tolist() == [True, False]


def test_shipped_weights_know_icosahedra_cubes_and_noise(patterns):
    noise = torch.poisson(torch.full((4, 128, 128), 0.05), generator=torch.Generator().manual_seed(0))
    empty = ImageSet(noise * patterns.mask[:4], patterns.mask[:4], "counts", patterns.experiment)
    assert label_images(empty).names == ["empty"] * 4
    assert label_images(patterns).names.count("icosahedron") >= 5
    cubes = [icobench.simulate(80.0, photons=1e6, shape="cube", seed=seed) for seed in range(4)]
    assert label_images(ImageSet.join(cubes)).names.count("faceted") >= 3


def test_commands_label_and_leave_out_misses(call, tmp_path, patterns):
    noise = torch.poisson(torch.full((128, 128), 0.05), generator=torch.Generator().manual_seed(0))
    frames = torch.stack((noise, patterns.images[0], torch.zeros(128, 128), patterns.images[1]))
    np.save(tmp_path / "run.npy", frames.numpy().astype(np.int32))
    code, _, err = call("classify run.npy")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "labels.csv")
    assert table["label"].tolist() == ["empty", "icosahedron", "empty", "icosahedron"]
    code, _, err = call("reconstruct run.npy --method network --sort")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "result.csv")
    assert table["index"].tolist() == [0, 1, 2, 3]
    assert table["status"][0].startswith(MISS + "empty")
    assert table["radius_nm"].isna().tolist() == [True, False, True, False]
    assert "1 of 4 images show no single body" in err
