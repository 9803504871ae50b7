"""The published network: its weights, its answers, and what it says of images that it does not know."""

from dataclasses import replace

import pytest
import torch

from icobench.errors import InputError
from icobench.geometry.orientation import disorientation
from icobench.geometry.rotations import quaternion_multiply
from icobench.methods import METHODS, Problem
from icobench.network.checkpoint import save_network
from icobench.network.selection import SHIPPED, load_network, predict
from icobench.runs.reconstruct import reconstruct
from icobench.sets.patterns import generate_patterns
from icobench.sets.test_sets import find_test_set
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

DIGEST = "0e70c129a9ef"
"""Of the shipped weights, which every load must give."""


@pytest.fixture(scope="module")
def networks():
    return load_network("paper")


@pytest.fixture(scope="module")
def images():
    """Of the kind that it learned from."""
    return generate_patterns(find_test_set("paper").options(8), Experiment(), 99)


def test_files_and_card(networks):
    """Files that a repository can hold; the cost of the training as the paper counts it."""
    sizes = [file.stat().st_size for file in (SHIPPED / "paper").iterdir()]
    assert sum(sizes) <= 26 * 2**20
    assert max(sizes) <= 12 * 2**20
    (trained,) = networks.members
    assert trained.digest == DIGEST
    assert load_network(SHIPPED / "paper").digest == DIGEST
    assert trained.card["training_simulations"] == 20_046 + 5_012
    assert (trained.card["training_seconds"], trained.card["device"]) == (149.4, "cuda")
    assert (trained.recipe.architecture, trained.recipe.images) == ("paper", "augmented")
    assert "8 bits" in trained.card["weights"]
    # The default networks are still the same three.
    assert DIGEST not in load_network().digest


def test_answers_on_images_of_its_kind(networks, images):
    answer = predict(networks, images)
    # The median of 5,000 images is 0.66 degrees and 1.0 nm.
    assert float(disorientation(answer.quaternion, images.quaternion).median()) < 2
    assert float((answer.radius_nm - images.radius_nm).abs().median()) < 3
    assert set(answer.status) <= {"ok", "ambiguous"}
    assert torch.isnan(answer.radius_std_nm).all()
    assert torch.isnan(answer.orientation_std_deg).all()
    # A quaternion is a point of the orbit: the first hypothesis is certain, the near twin is the second.
    first, second = answer.hypotheses.quaternion.unbind(1)
    assert torch.equal(first, answer.quaternion)
    torch.testing.assert_close(answer.hypotheses.score[:, 0], torch.ones(8).double(), atol=1e-6, rtol=0)
    half_turn = torch.tensor([0.0, 0.0, 0.0, 1.0]).double()
    twin = quaternion_multiply(half_turn.expand(8, 4), first)
    assert float(disorientation(twin, second).max()) < 1e-3


def test_a_name_alone_is_the_shipped_network(networks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper").mkdir()
    assert load_network("paper").digest == DIGEST  # the folder here has no weights
    card = networks.members[0].card
    clean = load_network(SHIPPED / "clean.safetensors").members[0]
    save_network(tmp_path / "paper" / "network.safetensors", networks.members[0].network, card)
    with pytest.raises(InputError, match=r"paper: a shipped network, but weights here .*\./paper"):
        load_network("paper")
    assert load_network("./paper").digest != DIGEST
    assert load_network(["./paper", SHIPPED / "clean.safetensors"]).digest.endswith(clean.digest)
    with pytest.raises(InputError, match="poster: no such file"):
        load_network("poster")
    # The methods of the published network know where it is.
    assert METHODS["paper-network"].load_networks().digest == DIGEST


def test_methods_ask_their_own_networks(images):
    default, paper = (METHODS[name].load_networks("paper") for name in ("network", "paper-network"))
    assert default.digest == paper.digest == DIGEST  # the first because it was told to
    assert METHODS["paper-network+lm"].load_networks(SHIPPED / "clean.safetensors").digest == DIGEST
    assert METHODS["simplex"].load_networks("paper") is None
    problem = Problem(images.subset(torch.arange(2)), Simulator(Experiment()), paper)
    fit = METHODS["paper-network+lm"].run(problem)
    assert float(disorientation(fit.quaternion, problem.images.quaternion).max()) < 0.5
    assert (fit.evaluations > 0).all()


def test_other_kinds_of_image_are_converted_and_it_is_said(networks, images):
    assert networks.conversion("log") == ""
    for kind, words in (("counts", "photon counts"), ("intensity", "noise-free intensities")):
        text = f"{words} were converted to log images over 6 decades, which the network learned from"
        assert networks.conversion(kind) == text
    default = load_network()
    for kind in ("counts", "intensity", "log"):
        assert default.choose(Experiment(), kind).conversion(kind) == ""
    silver = default.choose(Experiment(refractive_index=0.89 + 0.0859j), "log")
    assert silver.conversion("log").startswith("log images were converted to photon counts")
    counts = generate_patterns(find_test_set("counting").options(1), Experiment(), 5)
    answer = reconstruct(counts, method="paper-network")
    assert answer.notes[0].startswith("photon counts were converted to log images")
    assert answer.status == ["outside-training"]
    log_images = replace(images.subset(torch.tensor([0])), experiment=None)
    assert reconstruct(log_images, method="paper-network").notes == []
    with pytest.raises(InputError, match="made for refractive index"):
        reconstruct(log_images, method="paper-network", experiment=Experiment(refractive_index=0.89 + 0.09j))
