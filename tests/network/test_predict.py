"""Answers of one network, and which of several networks answers."""

import dataclasses
from pathlib import Path

import pytest
import torch

from icobench.answer import Answer, Hypotheses
from icobench.errors import InputError
from icobench.geometry.orientation import disorientation, random_orientations
from icobench.geometry.rotations import quaternion_multiply, rotation_vector_to_quaternion
from icobench.images.symmetry import DIHEDRAL, dihedral_images, dihedral_orientations
from icobench.network import selection
from icobench.network.architectures import CompactNetwork, PaperNetwork
from icobench.network.checkpoint import TrainedNetwork, load_trained, save_network
from icobench.network.outputs import Layout
from icobench.network.recipe import Recipe
from icobench.network.selection import Networks, answer, load_network, predict
from icobench.network.targets import TARGETS, Circles, Line
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator
from tests.network.tiny import EXPERIMENT, image_set

CARD = {"experiment": EXPERIMENT.to_dict()}
SILVER = Experiment(refractive_index=0.89 + 0.0859j)
HALF = Experiment(sin_theta_max=0.5)


class Projection(torch.nn.Module):
    """Stands for a network that has learnt nothing: a random linear map of the image."""

    layout = Layout(TARGETS["orbit"], Line())

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(16, 3 * 128 * 128, generator=generator) / 1e3
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


@pytest.fixture(scope="module")
def untrained():
    return TrainedNetwork(Projection(), CARD, Recipe(steps=1), "0" * 12)


@pytest.fixture(scope="module")
def image():
    generator = torch.Generator().manual_seed(5)
    intensity = Simulator(EXPERIMENT).intensity(torch.tensor([40.0]), random_orientations(1, generator))
    return torch.poisson(intensity / intensity.sum() * 1e5, generator=generator)


def test_the_average_turns_with_the_image(untrained, image):
    """All eight versions: any network, even this one, then turns with the image."""
    versions = torch.cat([dihedral_images(image, i) for i in range(DIHEDRAL)])
    result = answer(untrained, image_set(versions), versions=DIHEDRAL)
    best = result.quaternion
    expected = torch.stack([dihedral_orientations(best[0], i) for i in range(DIHEDRAL)])
    # The same 8 network outputs in another order, in float32.
    assert float(disorientation(best, expected).max()) < 0.01
    for column in (result.radius_nm, result.radius_std_nm, result.orientation_std_deg):
        torch.testing.assert_close(column, column[:1].expand(8), rtol=1e-5, atol=0)


def test_versions_meet_on_the_circles_not_between_their_turns(image):
    """Two versions a turn of the narrowest circle apart: the average is one of them, not 8 nm off both."""
    circles = Circles((256, 64, 16))

    class TwoMinds(Projection):
        layout = Layout(TARGETS["orbit"], circles)

        def forward(self, x):
            self.calls = getattr(self, "calls", 0) + 1
            numbers = torch.cat(
                (circles.encode(torch.tensor([80.0 + 16 * (self.calls % 2)])), torch.zeros(1, 2)), 1
            )
            return torch.cat((super().forward(x)[:, :13], numbers), 1)

    trained = TrainedNetwork(TwoMinds(), CARD, Recipe(steps=1), "0" * 12)
    result = answer(trained, image_set(image), versions=2)
    assert min(abs(float(result.radius_nm) - nm) for nm in (80.0, 96.0)) < 0.7


def test_shapes_and_several_pieces(untrained, image):
    """More images than are held at once; each answer is its image's own."""
    many = image.expand(65, -1, -1).clone()
    many[64] = dihedral_images(image, 1)[0]
    result = answer(untrained, image_set(many), versions=2, hypotheses=3)
    assert result.hypotheses.quaternion.shape == (65, 3, 4)
    assert result.hypotheses.score.shape == result.hypotheses.radius_nm.shape == (65, 3)
    assert torch.equal(result.hypotheses.quaternion[:, 0], result.quaternion)
    columns = result.radius_nm, result.quaternion, result.radius_std_nm, result.orientation_std_deg
    for column in (*columns, *result.hypotheses):
        assert column.dtype == torch.float64
        assert torch.isfinite(column).all()
        torch.testing.assert_close(column[63], column[0], rtol=1e-5, atol=1e-5)


def test_the_published_network_answers_too(image):
    recipe = Recipe(steps=1, architecture="paper", images="augmented")
    trained = TrainedNetwork(PaperNetwork().eval(), CARD, recipe, "")
    result = answer(trained, image_set(image))
    assert result.hypotheses.quaternion.shape == (1, 2, 4)
    assert torch.isnan(result.radius_std_nm).all()


def test_unseen_experiments_are_refused(untrained, image):
    with pytest.raises(InputError, match="sin_theta_max"):
        answer(untrained, image_set(image, experiment=Experiment(sin_theta_max=0.3)))


def member(images):
    network = CompactNetwork(widths=(4, 4, 4), hidden=4)
    return TrainedNetwork(network, CARD, Recipe(steps=1, images=images), images)


@pytest.mark.parametrize(
    ("experiment", "kind", "expected"),
    [
        (EXPERIMENT, "counts", ["counts"]),
        (EXPERIMENT, "intensity", ["clean", "counts"]),
        (EXPERIMENT, "log", ["clean", "realistic"]),
        (SILVER, "counts", ["counts"]),
        (SILVER, "log", ["counts"]),
        (HALF, "intensity", ["counts"]),
        (HALF, "log", ["counts"]),
    ],
)
def test_the_network_for_the_images_answers(experiment, kind, expected):
    networks = Networks(tuple(member(images) for images in ("clean", "counts", "realistic")))
    assert networks.choose(experiment, kind).digest == "-".join(expected)
    complete = [m.digest for m in networks.choose(experiment, kind, complete=True).members]
    assert complete == (expected[:1] if kind == "intensity" else expected)


def test_no_network_fits():
    networks = Networks((member("clean"), member("counts")))
    with pytest.raises(InputError, match=r"refractive index 1\+0\.0859437j.*; or for refractive index"):
        networks.choose(Experiment(refractive_index=1.2 + 0.1j), "log")
    # A lone network answers for any kind of image.
    assert Networks((member("clean"),)).choose(EXPERIMENT, "counts").digest == "clean"


def made_up(radius_nm, quaternion, std, status):
    """An answer with one hypothesis of score 1."""
    hypotheses = Hypotheses(
        radius_nm[:, None].clone(), quaternion[:, None].clone(), torch.ones_like(std)[:, None]
    )
    return Answer(
        radius_nm, quaternion.clone(), status=[status] * len(radius_nm), radius_std_nm=std.clone(),
        orientation_std_deg=std.clone(), hypotheses=hypotheses,
    )  # fmt: skip


def test_the_specialist_is_believed_where_the_robust_network_agrees(monkeypatch, generator):
    """Turns and sizes apart by shares of the robust network's error bars of 1 degree and 1 nm."""
    quaternion = random_orientations(4, generator)
    apart = torch.tensor([[1e-3, 0, 0], [0.2, 0, 0], [1e-3, 0, 0], [0, 0, 0]]).double()
    moved = quaternion_multiply(rotation_vector_to_quaternion(apart), quaternion)
    ones = torch.ones(4).double()
    robust = made_up(60 * ones, quaternion, ones, "ambiguous")
    special = made_up(torch.tensor([60.5, 60.5, 70.0, 60.0]).double(), moved, ones / 100, "ok")
    monkeypatch.setattr(
        selection, "answer", lambda trained, *_: special if trained.digest == "clean" else robust
    )
    networks = Networks((member("realistic"), member("clean")))
    result = predict(networks, image_set(torch.zeros(4, 128, 128), "log"))
    expected = torch.tensor([60.5, 60.0, 60.0, 60.0]).double()
    torch.testing.assert_close(result.radius_nm, expected)
    torch.testing.assert_close(result.hypotheses.radius_nm[:, 0], expected)
    torch.testing.assert_close(result.radius_std_nm, torch.tensor([0.01, 1, 1, 0.01]).double())
    assert result.status == ["ok", "ambiguous", "ambiguous", "ok"]
    torch.testing.assert_close(result.quaternion[0], moved[0])
    torch.testing.assert_close(result.quaternion[1], quaternion[1])


def test_incomplete_intensities_go_to_the_network_for_counts(monkeypatch):
    """Image 1 of three has a hole; it alone is answered by the other network, in a batch as alone."""

    def constant(trained, images, *_):
        radius_nm = torch.full((len(images),), 50.0 if trained.digest == "clean" else 90.0).double()
        return made_up(radius_nm, torch.zeros(len(images), 4).double(), radius_nm, "ok")

    monkeypatch.setattr(selection, "answer", constant)
    networks = Networks((member("counts"), member("clean")))
    mask = EXPERIMENT.valid().repeat(3, 1, 1)
    mask[1, 60:68, 60:68] = False
    images = image_set(torch.zeros(3, 128, 128), "intensity", mask)
    assert predict(networks, images).radius_nm.tolist() == [50, 90, 50]
    assert predict(networks, images.subset(torch.tensor([0]))).radius_nm.tolist() == [50]
    shifted = dataclasses.replace(EXPERIMENT, centre_offset=(0.5, 0.0))
    assert predict(networks, dataclasses.replace(images, experiment=shifted)).radius_nm.tolist() == [90] * 3
    # The mask of the networks alone may have the hole.
    unmasked = image_set(torch.zeros(3, 128, 128), "intensity")
    assert predict(networks, unmasked).radius_nm.tolist() == [50] * 3
    assert predict(networks, unmasked, mask).radius_nm.tolist() == [50, 90, 50]


def test_wrong_shapes_and_kinds_are_refused(untrained, image):
    images = image_set(image)
    for changes, versions in (
        ({"mask": EXPERIMENT.valid()}, 1),
        ({"mask": images.mask.double()}, 1),
        ({"kind": "count"}, 1),
        ({"experiment": None}, 1),
        ({}, 9),
    ):
        with pytest.raises(ValueError, match="must"):
            answer(untrained, dataclasses.replace(images, **changes), versions=versions)


def test_status(untrained, image):
    """Numbers of the images stay; unlike images come before ambiguous ones."""
    images = image_set(torch.cat((image, image / 1000)))
    images.numbers = torch.tensor([7, 3])
    result = answer(untrained, images)
    score = result.hypotheses.score
    likely = "ambiguous" if float(score[0, 0] - score[0, 1]) < 0.1 else "ok"
    assert result.status == [likely, "outside-training"]
    assert result.index.tolist() == [7, 3]
    assert answer(untrained, images, hypotheses=1).status == ["ok", "outside-training"]


def test_loading_one_several_or_none(tmp_path):
    trained = member("clean")
    card = {
        **CARD,
        "architecture": "compact",
        "network": trained.network.options,
        "recipe": trained.recipe.to_dict(),
    }
    for name in ("a", "b"):
        save_network(tmp_path / f"{name}.safetensors", trained.network, card)
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    assert len(load_network(paths[0]).members) == len(load_network(str(paths[0])).members) == 1
    both = load_network(paths)
    assert [m.digest for m in both.members] == 2 * [load_trained(paths[0]).digest]
    assert both.cards[0]["architecture"] == "compact"
    with pytest.raises(InputError, match="no such file"):
        load_network([paths[0], tmp_path / "c.safetensors"])


def test_shipped_networks_know_their_images():
    """One for every kind of image; each within the size that the repository allows."""
    shipped = load_network()
    assert {m.recipe.images for m in shipped.members} >= {"clean", "counts"}
    files = list((Path(selection.__file__).parent / "weights").glob("*.safetensors"))
    assert len(files) == len(shipped.members)
    assert all(path.stat().st_size <= 12 * 2**20 for path in files)
    assert all(sum(p.numel() for p in m.network.parameters()) <= 3e6 for m in shipped.members)
    fresh = dataclasses.replace(EXPERIMENT)
    for kind in ("counts", "intensity", "log"):
        assert shipped.choose(fresh, kind).members
