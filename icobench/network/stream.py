"""Training images straight from the simulator, with detector effects."""

import math

import numpy as np
import torch
from torch import Tensor

from icobench.geometry.orientation import random_orientations
from icobench.images.symmetry import DIHEDRAL, dihedral_images, dihedral_orientations
from icobench.network.inputs import network_input
from icobench.network.orbit import embed
from icobench.network.recipe import Recipe
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["TrainingStream"]

INDEX_GRID = 16
"""Other refractive indices are drawn from this many fixed ones."""


class TrainingStream:
    """Batches of network inputs and targets, each a function of seed and step alone.

    Args:
        recipe: ranges of radius, photons, holes and crops.
        experiment: the whole forward half space on the canonical grid.
        seed: of the run.
        device: where images are simulated.
    """

    def __init__(self, recipe: Recipe, experiment: Experiment, seed: int, device: torch.device | str) -> None:
        self.recipe, self.experiment, self.seed = recipe, experiment, seed
        self.device = torch.device(device)
        self.simulator = Simulator(experiment, device=self.device)
        sines = experiment.sines(dtype=torch.float32)
        self.sine = (sines[:, None] ** 2 + sines**2).sqrt().to(self.device)
        self.edge = torch.maximum(sines.abs()[:, None], sines.abs()).to(self.device)
        self.valid = experiment.valid().to(self.device)

    def _index(self, rng: np.random.Generator) -> complex:
        """The experiment's index, or one of a fixed grid."""
        recipe = self.recipe
        if rng.random() < recipe.default_index_share:
            return self.experiment.refractive_index
        column, row = divmod(int(rng.integers(INDEX_GRID)), 4)
        refraction = np.linspace(*recipe.refraction, 4)[column]
        absorption = np.linspace(*recipe.absorption, 4)[row]
        return complex(1 - refraction, absorption)

    def _from_pool(self, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """Bodies by their number in the pool, the same in every step."""
        radii, orientations = [], []
        for number in numbers.tolist():
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(5, number)))
            generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
            radii.append(rng.uniform(*self.recipe.radius_nm))
            orientations.append(random_orientations(1, generator))
        return torch.tensor(radii, dtype=torch.float64), torch.cat(orientations)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (B, 6, 64, 64), orbit vectors (B, 13) and radii (B,) of one step."""
        recipe = self.recipe
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(1, step)))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        hardness = min(1.0, (step + 1) / max(1.0, recipe.warm_share * recipe.steps))

        fresh = recipe.batch // recipe.variants
        if recipe.pool is None:
            radius = torch.as_tensor(rng.uniform(*recipe.radius_nm, fresh))
            quaternion = random_orientations(fresh, generator)
        else:
            radius, quaternion = self._from_pool(rng.integers(recipe.pool, size=fresh))
        index = self._index(rng)
        with torch.no_grad():
            simulator = self.simulator.with_refractive_index(index)
            intensity = simulator.intensity(radius.to(self.device), quaternion.to(self.device))
        versions = rng.permutation(DIHEDRAL)[: recipe.variants]
        intensity = torch.cat([dihedral_images(intensity, int(v)) for v in versions])
        quaternion = torch.cat([dihedral_orientations(quaternion, int(v)) for v in versions])
        radius = radius.repeat(recipe.variants)

        count = recipe.batch
        hole = np.sin(np.radians(rng.uniform(*recipe.hole_degrees, count) * hardness))
        sine = rng.uniform(*recipe.sine, count)
        sine = np.where(rng.random(count) < 1 - hardness * (1 - recipe.whole_share), 1.0, sine)
        low, high = np.log(recipe.photons)
        photons = np.exp(rng.uniform(high + hardness * (low - high), high, count))

        def column(values: np.ndarray) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=self.device)[:, None, None]

        mask = self.valid & (self.sine >= column(hole)) & (self.edge <= column(sine) + 1e-6)
        usable = intensity * mask
        mean = usable * (column(photons) / usable.sum((-2, -1), keepdim=True))
        counts = torch.poisson(mean.cpu(), generator=generator).to(self.device)
        inputs = network_input(counts, mask, 1 - index.real)
        return inputs, embed(quaternion).float().to(self.device), radius.float().to(self.device)


def step_learning_rate(recipe: Recipe, step: int) -> float:
    """One cycle: linear warm-up over 3 % of the steps, then cosine to 1 % of the peak."""
    warm = max(1, round(0.03 * recipe.steps))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    progress = (step - warm) / max(1, recipe.steps - warm)
    return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
