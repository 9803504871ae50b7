"""Dihedral relabelling: the turned or mirrored image is the image of the turned body."""

import pytest
import torch

from icobench.geometry.orientation import random_orientations
from icobench.images.symmetry import DIHEDRAL, dihedral_images, dihedral_orientations
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator


def relative(actual, expected):
    return float((actual - expected).norm() / expected.norm())


def test_relabelled_images_are_simulations_of_the_relabelled_bodies(generator):
    # 1e-4: several times the field's error in float32.
    simulator = Simulator(Experiment(pixels=64, refractive_index=0.89 + 0.0859j))
    quaternion = random_orientations(1, generator)
    image = simulator.intensity(torch.tensor([50.0]), quaternion)
    turned = torch.cat([dihedral_orientations(quaternion, i) for i in range(DIHEDRAL)])
    expected = simulator.intensity(torch.full((DIHEDRAL,), 50.0), turned)
    for index in range(DIHEDRAL):
        assert relative(dihedral_images(image, index)[0], expected[index]) < 1e-4
    for index in range(1, DIHEDRAL):  # and all eight differ, if not in the forward peak
        assert relative(expected[index].log1p(), expected[0].log1p()) > 0.01


@pytest.mark.parametrize("index", range(DIHEDRAL))
def test_images_are_permuted(index):
    image = torch.arange(16.0 * 16).reshape(1, 16, 16)
    moved = dihedral_images(image, index)
    assert torch.equal(moved.flatten().sort().values, image.flatten())
    assert moved[0, 8, 8] == image[0, 8, 8]  # the beam stays
    again = moved
    for _ in range(3 if index < 4 else 1):  # turns have order 4 (or a divisor), mirrors order 2
        again = dihedral_images(again, index)
    assert torch.equal(again, image)


def test_leading_dimensions_and_masks():
    quaternion = torch.zeros(3, 5, 4)
    quaternion[..., 0] = 1
    assert dihedral_orientations(quaternion, 6).shape == (3, 5, 4)
    assert dihedral_images(torch.zeros(2, 3, 16, 16, dtype=torch.bool), 7).dtype == torch.bool
