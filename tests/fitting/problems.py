"""Small reconstruction problems shared by the fitters' tests."""

import torch

from icobench.fitting.counter import FURTHER_COST, JACOBIAN_COST, CountingSimulator
from icobench.fitting.objectives import PoissonDeviance
from icobench.geometry.orientation import random_orientations
from icobench.geometry.rotations import quaternion_multiply, rotation_vector_to_quaternion
from icobench.images.pixels import photon_counts, usable_pixels
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

EXPERIMENT = Experiment(pixels=32)


class CountingRows(Simulator):
    """A simulator that counts its rows itself, independently of the wrapper."""

    rows = 0

    def intensity(self, radius_nm, quaternion):
        self.rows += len(radius_nm)
        return super().intensity(radius_nm, quaternion)

    def intensity_jacobian(self, radius_nm, quaternion, also=()):
        self.rows += (JACOBIAN_COST + 2 * FURTHER_COST * len(also)) * len(radius_nm)
        return super().intensity_jacobian(radius_nm, quaternion, also)


def problem(images, generator, photons=1e5, radius=(30.0, 60.0), simulator=None):
    """Objective on photon counts, true radii (N,) and true orientations (N, 4)."""
    simulator = simulator or Simulator(EXPERIMENT)
    low, high = radius
    true_radius = low + (high - low) * torch.rand(images, generator=generator, dtype=torch.float64)
    truth = random_orientations(images, generator)
    mask = usable_pixels(simulator.experiment, 3.0)
    clean = Simulator(simulator.experiment).intensity(true_radius, truth)
    counts = photon_counts(clean, mask, photons, generator)
    counter = CountingSimulator(simulator, images)
    return PoissonDeviance(counts, mask.expand_as(counts), counter), true_radius, truth


def displaced(quaternion, degrees, generator):
    """Turned by the given angle about random axes."""
    axis = torch.nn.functional.normalize(
        torch.randn(*quaternion.shape[:-1], 3, generator=generator, dtype=torch.float64), dim=-1
    )
    return quaternion_multiply(
        rotation_vector_to_quaternion(axis * torch.deg2rad(torch.tensor(degrees))), quaternion
    )
