"""Test-time averaging makes any network, even an untrained one, turn with the image."""

import pytest
import torch

from icobench.errors import InputError
from icobench.geometry.orientation import disorientation, random_orientations
from icobench.images.symmetry import DIHEDRAL, dihedral_images, dihedral_orientations
from icobench.network.checkpoint import TrainedNetwork, load_network
from icobench.network.compact import CompactNetwork
from icobench.network.predict import predict
from icobench.network.recipe import Recipe
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

EXPERIMENT = Experiment()


class Projection(torch.nn.Module):
    """Stands for a network that has learnt nothing: a random linear map of the image."""

    interpret = staticmethod(CompactNetwork.interpret)

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(15, 6 * 64 * 64, generator=generator) / 1e3
        self.weight = torch.nn.Parameter(weight, requires_grad=False)

    def forward(self, x):
        return x.flatten(1) @ self.weight.T


@pytest.fixture(scope="module")
def untrained():
    card = {"experiment": EXPERIMENT.to_dict(), "recipe": Recipe(steps=1).to_dict()}
    return TrainedNetwork(Projection(), card, "0" * 12)


@pytest.fixture(scope="module")
def image():
    generator = torch.Generator().manual_seed(5)
    intensity = Simulator(EXPERIMENT).intensity(torch.tensor([40.0]), random_orientations(1, generator))
    return torch.poisson(intensity / intensity.sum() * 1e5, generator=generator)


def test_prediction_turns_with_the_image(image):
    versions = torch.cat([dihedral_images(image, i) for i in range(DIHEDRAL)])
    mask = EXPERIMENT.valid().expand_as(versions)
    answer = predict(load_network(), versions, mask, EXPERIMENT)
    best = answer.quaternion[:, 0]
    expected = torch.stack([dihedral_orientations(best[0], i) for i in range(DIHEDRAL)])
    # The same 8 network outputs in another order, in float32.
    assert float(disorientation(best, expected).max()) < 0.01
    torch.testing.assert_close(answer.radius_nm, answer.radius_nm[:1].expand(8), rtol=1e-5, atol=0)
    torch.testing.assert_close(answer.radius_std_nm, answer.radius_std_nm[:1].expand(8), rtol=1e-5, atol=0)


def test_shapes_and_several_pieces(untrained, image):
    """More images than are held at once; each answer is its image's own."""
    many = image.expand(33, -1, -1).clone()
    many[32] = dihedral_images(image, 1)[0]
    answer = predict(
        untrained, many, EXPERIMENT.valid().expand_as(many), EXPERIMENT, versions=2, hypotheses=3
    )
    assert answer.quaternion.shape == (33, 3, 4)
    assert answer.score.shape == (33, 3)
    for column in answer:
        assert column.dtype == torch.float64
        assert torch.isfinite(column).all()
        torch.testing.assert_close(column[31], column[0], rtol=1e-5, atol=1e-5)


def test_unseen_experiments_are_refused(untrained, image):
    with pytest.raises(InputError, match="sin_theta_max"):
        predict(untrained, image, EXPERIMENT.valid().expand_as(image), Experiment(sin_theta_max=0.3))
