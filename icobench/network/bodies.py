"""The bodies that training sees, and their noise-free patterns."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icobench.geometry.orientation import random_orientations
from icobench.network.recipe import Recipe
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["Bodies", "Patterns"]

INDEX_GRID = 16
"""Other refractive indices are drawn from this many fixed ones."""

CACHED_POOL = 40_000
"""Pools up to this size are simulated once and kept (64 KiB a body), larger ones as they are needed."""

AHEAD = 16
"""Steps simulated together when they are asked for in order: larger batches are faster."""


class Patterns(NamedTuple):
    """Noise-free patterns of N bodies.

    Attributes:
        intensity: (N, 128, 128).
        radius_nm: (N,) float64.
        quaternion: (N, 4) float64.
        refractive_index: (N,) complex128, the bodies' own.
    """

    intensity: Tensor
    radius_nm: Tensor
    quaternion: Tensor
    refractive_index: Tensor


class _Drawn(NamedTuple):
    """One step's bodies; ``place`` is their row in the store, -1 where there is none."""

    place: Tensor
    radius_nm: Tensor
    quaternion: Tensor
    refractive_index: Tensor


def _random(seed: int, *key: int) -> tuple[np.random.Generator, torch.Generator]:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
    return rng, torch.Generator().manual_seed(int(rng.integers(2**62)))


class Bodies:
    """Patterns of each step's bodies, a function of seed and step alone.

    Args:
        recipe: ranges, batch and pool.
        experiment: physics and grid.
        seed: of the run.
        device: where to simulate.
        data: a set to draw from instead of simulating: intensities (N, 128, 128), which stay on the device,
            radii (N,) and orientations (N, 4).
    """

    def __init__(
        self,
        recipe: Recipe,
        experiment: Experiment,
        seed: int,
        device: torch.device,
        data: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> None:
        self.recipe, self.experiment, self.seed, self.device = recipe, experiment, seed, device
        self.simulator = Simulator(experiment, device=device)
        self.stored = None if data is None else self._given(*data)
        self.given = data is not None
        self.last = -2
        self.ready: dict[int, Patterns] = {}

    def _given(self, images: Tensor, radius: Tensor, quaternion: Tensor) -> Patterns:
        index = torch.full((len(radius),), self.experiment.refractive_index, dtype=torch.complex128)
        return Patterns(images.to(self.device), radius, quaternion, index)

    def patterns(self, step: int) -> Patterns:
        """The patterns of ``batch / variants`` bodies for one step."""
        if step not in self.ready:
            ahead = min(AHEAD, self.recipe.steps - step) if step == self.last + 1 else 1
            self.ready = self._simulated(range(step, step + max(1, ahead)))
        self.last = step
        return self.ready.pop(step)

    def _simulated(self, steps: range) -> dict[int, Patterns]:
        drawn = [self._draw(step) for step in steps]
        every = _Drawn(*(torch.cat(part) for part in zip(*drawn, strict=True)))
        if self.stored is not None:
            images = self.stored.intensity[every.place.to(self.device)]
        else:
            images = self._intensities(*every[1:])
        split = images.split([len(one.place) for one in drawn])
        return {step: Patterns(image, *one[1:]) for step, image, one in zip(steps, split, drawn, strict=True)}

    def _intensities(self, radius: Tensor, quaternion: Tensor, index: Tensor) -> Tensor:
        """One call of the simulator for all bodies of one material."""
        materials = [complex(*one) for one in torch.unique(torch.view_as_real(index), dim=0).tolist()]
        if len(materials) == 1:
            return self._intensity(radius, quaternion, materials[0])
        pixels = self.experiment.pixels
        images = torch.empty(len(radius), pixels, pixels, device=self.device)
        for own in materials:
            rows = (index == own).nonzero().squeeze(1)
            images[rows.to(self.device)] = self._intensity(radius[rows], quaternion[rows], own)
        return images

    def _intensity(self, radius: Tensor, quaternion: Tensor, index: complex) -> Tensor:
        with torch.no_grad():
            simulator = self.simulator.with_refractive_index(index)
            return simulator.intensity(radius.to(self.device), quaternion.to(self.device))

    def _draw(self, step: int) -> _Drawn:
        recipe = self.recipe
        rng, generator = _random(self.seed, 1, step, 0)
        fresh = recipe.batch // recipe.variants
        nowhere = torch.full((fresh,), -1)
        if not self.given and recipe.pool is None:
            index = self._indices(rng, fresh)
            radius = torch.as_tensor(rng.uniform(*recipe.radius_nm, fresh))
            return _Drawn(nowhere, radius, random_orientations(fresh, generator), index)
        if self.stored is None and recipe.pool is not None and recipe.pool <= CACHED_POOL:
            pool = self._pool(np.arange(recipe.pool))
            self.stored = Patterns(self._intensities(*pool), *pool)
        if self.stored is None:
            return _Drawn(nowhere, *self._pool(rng.integers(recipe.pool or 0, size=fresh)))
        place = torch.as_tensor(rng.integers(len(self.stored.radius_nm), size=fresh))
        return _Drawn(place, *(part[place] for part in self.stored[1:]))

    def _indices(self, rng: np.random.Generator, count: int) -> Tensor:
        """(count,) complex128: the experiment's index, or one of a fixed grid.

        Drawn body by body: were a batch of one material, a network would learn to read it off the batch
        norms' statistics, and miss them in single images.
        """
        recipe = self.recipe
        own = self.experiment.refractive_index
        if recipe.log_images:
            return torch.full((count,), own, dtype=torch.complex128)
        refraction, absorption = np.linspace(*recipe.refraction, 4), np.linspace(*recipe.absorption, 4)
        column, row = divmod(rng.integers(INDEX_GRID, size=count), 4)
        other = 1 - refraction[column] + 1j * absorption[row]
        return torch.as_tensor(np.where(rng.random(count) < recipe.default_index_share, own, other))

    def _pool(self, numbers: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Radii, orientations and indices of bodies by their number in the pool, the same in every step.

        So a pool of N bodies costs N simulations, whatever their materials.
        """
        radii, orientations, indices = [], [], []
        for number in numbers.tolist():
            rng, generator = _random(self.seed, 5, number)
            radii.append(rng.uniform(*self.recipe.radius_nm))
            orientations.append(random_orientations(1, generator))
            indices.append(self._indices(rng, 1))
        return torch.tensor(radii, dtype=torch.float64), torch.cat(orientations), torch.cat(indices)
