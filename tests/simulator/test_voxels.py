"""The paper's multi-slice method against the exact method."""

import pytest
import torch

from icobench.geometry.convex import icosahedron
from icobench.geometry.orientation import random_orientations
from icobench.geometry.rotations import quaternion_to_matrix
from icobench.simulator.experiment import Experiment, FlatDetector
from icobench.simulator.simulator import Simulator
from icobench.simulator.voxels import SLICES, voxel_slices

PITCH = 13.5 / 8


def relative(found, expected):
    return float((found - expected).abs().square().sum().sqrt() / expected.abs().square().sum().sqrt())


def test_voxels_fill_the_volume(generator):
    rotation = quaternion_to_matrix(random_orientations(1, generator))[0]
    inside = voxel_slices(icosahedron(), torch.tensor(100.0, dtype=torch.float64), rotation, PITCH, 0, SLICES)
    # 530,000 voxels, some 45,000 of them cut by the surface: a random error of 1e-4 and less.
    assert float(inside.sum()) * PITCH**3 == pytest.approx(2.5361507e6, rel=1e-3)
    assert torch.equal(inside, inside.flip(0, 1, 2))  # centrosymmetric about the cube's centre


@pytest.mark.parametrize(
    "index", [Experiment().refractive_index, 0.89 + 0.0859j], ids=["absorbing", "silver"]
)
def test_sliced_against_exact(index, generator):
    """The paper's voxels of an eighth wavelength are good for a percent or two."""
    radius, quaternion = torch.tensor([60.0]), random_orientations(1, generator)
    sliced = Simulator(Experiment(refractive_index=index), method="sliced")
    exact = Simulator(Experiment(refractive_index=index))
    assert 1e-4 < relative(sliced.field(radius, quaternion), exact.field(radius, quaternion)) < 2.5e-2


@pytest.mark.parametrize(
    "experiment", [Experiment(pixels=64), Experiment(pixels=48), Experiment(pixels=64, sin_theta_max=0.5)]
)
def test_sliced_on_other_grids(experiment, generator):
    """The padding follows the detector's pitch, so the same voxels give the same field."""
    radius, quaternion = torch.tensor([60.0]), random_orientations(1, generator)
    sliced = Simulator(experiment, method="sliced").field(radius, quaternion)
    assert relative(sliced, Simulator(experiment).field(radius, quaternion)) < 1.5e-2


def test_the_beam_s_offset_moves_it_as_it_moves_the_exact_field(generator):
    """The difference from the exact field stays what it is without an offset."""
    radius, quaternion = torch.tensor([60.0]), random_orientations(1, generator)
    differences = []
    for offset in ((0.0, 0.0), (0.4, -1.3)):
        experiment = Experiment(pixels=64, centre_offset=offset)
        found = Simulator(experiment, "sliced").field(radius, quaternion)
        differences.append(relative(found, Simulator(experiment).field(radius, quaternion)))
    assert differences[1] == pytest.approx(differences[0], rel=0.2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit"):
        Simulator(Experiment(pixels=64), "sliced").field(
            torch.tensor([163.0]), torch.tensor([[1.0, 0, 0, 0]])
        )
    with pytest.raises(ValueError, match="integer"):
        Simulator(Experiment(sin_theta_max=0.7), "sliced")
    with pytest.raises(ValueError, match="192"):
        Simulator(Experiment(pixels=32), "sliced")
    with pytest.raises(ValueError, match="flat detector"):
        Simulator(Experiment(detector=FlatDetector(50, 0.5)), "sliced")
