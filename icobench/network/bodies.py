"""The bodies that training sees, and their noise-free patterns."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from icobench.geometry.orientation import random_orientations
from icobench.images.image_set import ImageSet
from icobench.network.recipe import Recipe
from icobench.seeds import Purpose, random_generator
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["Bodies", "generator_pair"]

INDEX_GRID = 4
"""Refractive indices other than the experiment's are drawn from a grid of so many refractions times so many
absorptions, so that few materials occur in a batch."""

CACHED_POOL = 40_000
"""Pools up to this size are simulated once and kept (64 KiB a body), larger ones as they are needed."""

AHEAD = 16
"""Consecutive steps that are simulated together: larger batches are faster."""


def generator_pair(seed: int, purpose: Purpose, *key: int) -> tuple[np.random.Generator, torch.Generator]:
    """Generators of NumPy and of torch for one purpose, the second seeded by the first."""
    rng = random_generator(seed, purpose, *key)
    return rng, torch.Generator().manual_seed(int(rng.integers(2**62)))


class Bodies:
    """Patterns of each step's bodies, which depend on seed and step alone.

    Args:
        recipe: ranges, batch and pool.
        experiment: physics and grid.
        seed: of the run.
        device: where to simulate.
        data: intensities to draw from instead of simulating; they are kept on the device.
    """

    def __init__(
        self,
        recipe: Recipe,
        experiment: Experiment,
        seed: int,
        device: torch.device,
        data: ImageSet | None = None,
    ) -> None:
        self.recipe, self.experiment, self.seed, self.device = recipe, experiment, seed, device
        self.simulator = Simulator(experiment, device=device)
        self.mask = experiment.valid().to(device)
        self.stored: ImageSet | None = None
        if data is not None:
            index = torch.full((len(data),), experiment.refractive_index, dtype=torch.complex128)
            self.stored = replace(
                data, images=data.images.to(device), mask=data.mask.to(device), refractive_index=index
            )
        self.last_step = -2
        self.ready: dict[int, ImageSet] = {}

    def patterns(self, step: int) -> ImageSet:
        """Intensities of the ``batch / variants`` bodies of one step, with their truth and materials."""
        if step not in self.ready:
            ahead = min(AHEAD, self.recipe.steps - step) if step == self.last_step + 1 else 1
            self.ready = self._patterns_of(range(step, step + max(1, ahead)))
        self.last_step = step
        return self.ready.pop(step)

    def _patterns_of(self, steps: Sequence[int]) -> dict[int, ImageSet]:
        pool = self.recipe.pool
        if self.stored is None and pool is not None and pool <= CACHED_POOL:
            self.stored = self._simulate(*self._pool(range(pool)))
        if self.stored is None:
            drawn = [self._draw(step) for step in steps]
            patterns = self._simulate(*(torch.cat(column) for column in zip(*drawn, strict=True)))
        else:
            total = len(self.stored)
            patterns = self.stored.subset(torch.cat([self._draw_rows(step, total) for step in steps]))
        rows = torch.arange(len(patterns)).split(self._count)
        return {step: patterns.subset(part) for step, part in zip(steps, rows, strict=True)}

    @property
    def _count(self) -> int:
        """Bodies of a step."""
        return self.recipe.batch // self.recipe.variants

    def _simulate(self, radius_nm: Tensor, quaternion: Tensor, index: Tensor) -> ImageSet:
        """Patterns of bodies with refractive indices (N,), in one call of the simulator for each material."""
        pixels = self.experiment.pixels
        images = torch.empty(len(index), pixels, pixels, device=self.device)
        for real, imaginary in torch.unique(torch.view_as_real(index), dim=0).tolist():
            material = complex(real, imaginary)
            rows = (index == material).nonzero().squeeze(1)
            simulator = self.simulator.with_refractive_index(material)
            with torch.no_grad():
                images[rows.to(self.device)] = simulator.intensity(
                    radius_nm[rows].to(self.device), quaternion[rows].to(self.device)
                )
        return ImageSet(
            images, self.mask.expand(images.shape), "intensity", self.experiment, radius_nm, quaternion,
            refractive_index=index,
        )  # fmt: skip

    def _draw_rows(self, step: int, total: int) -> Tensor:
        """(batch / variants,) indices of a step's bodies in the stored set."""
        rng, _ = generator_pair(self.seed, Purpose.TRAINING, step, 0)
        return torch.as_tensor(rng.integers(total, size=self._count))

    def _draw(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Radii, orientations and refractive indices of a step's bodies."""
        rng, generator = generator_pair(self.seed, Purpose.TRAINING, step, 0)
        if self.recipe.pool is not None:
            return self._pool(rng.integers(self.recipe.pool, size=self._count).tolist())
        index = self._indices(rng, self._count)
        radius_nm = torch.as_tensor(rng.uniform(*self.recipe.radius_nm, self._count))
        return radius_nm, random_orientations(self._count, generator), index

    def _indices(self, rng: np.random.Generator, count: int) -> Tensor:
        """(count,) complex128: the experiment's refractive index, or one of a fixed grid.

        Each body has its own: if all bodies of a batch had the same material, the network would learn to
        read it from the statistics of the batch norms, which single images do not have.
        """
        recipe, default = self.recipe, self.experiment.refractive_index
        if recipe.log_images:
            return torch.full((count,), default, dtype=torch.complex128)
        refraction = np.linspace(*recipe.refraction, INDEX_GRID)
        absorption = np.linspace(*recipe.absorption, INDEX_GRID)
        column, row = divmod(rng.integers(INDEX_GRID**2, size=count), INDEX_GRID)
        other = 1 - refraction[column] + 1j * absorption[row]
        return torch.as_tensor(np.where(rng.random(count) < recipe.default_index_share, default, other))

    def _pool(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Radii, orientations and refractive indices of bodies by their number in the pool.

        They are the same in every step: a pool of N bodies costs N simulations, whatever their materials.
        """
        radii, orientations, indices = [], [], []
        for number in numbers:
            rng, generator = generator_pair(self.seed, Purpose.TRAINING_POOL, number)
            radii.append(rng.uniform(*self.recipe.radius_nm))
            orientations.append(random_orientations(1, generator))
            indices.append(self._indices(rng, 1))
        return torch.tensor(radii, dtype=torch.float64), torch.cat(orientations), torch.cat(indices)
