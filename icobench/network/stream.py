"""Training images: simulated patterns with the effects of a detector."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icobench.geometry.orientation import random_orientations, to_fundamental_domain
from icobench.images.augment import augment
from icobench.images.image_set import ImageSet
from icobench.images.pixels import log_image
from icobench.images.symmetry import dihedral_images, dihedral_orientations
from icobench.network.inputs import count_brightness, network_input, without_factor
from icobench.network.recipe import Recipe
from icobench.seeds import Purpose, random_generator
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = ["TrainingBatch", "TrainingStream"]

INDEX_GRID = 4
"""Refractive indices other than the experiment's are drawn from a grid of so many refractions times so many
absorptions, so that few materials occur in a batch."""

CACHED_POOL = 40_000
"""Pools up to this size are simulated once and kept (64 KiB a body), larger ones as they are needed."""

AHEAD = {"cpu": 16, "cuda": 64}
"""Consecutive steps that are simulated together, by device: larger batches are faster, most of all on a GPU,
where one call of the simulator costs a thousand launches for each material."""

HIDDEN_DEGREES = 9.0
"""Largest radius of the hidden centre of log images; the holes of the realistic chain reach 8.2 degrees."""

REALISTIC_SHARE = 0.75
"""Share of the images "realistic" under the realistic chain; a random filter changes the others."""


class TrainingBatch(NamedTuple):
    """One step's network inputs (B, 3, 128, 128), orientations in the fundamental domain (B, 4), radii."""

    inputs: Tensor
    quaternion: Tensor
    radius_nm: Tensor


Bodies = tuple[Tensor, Tensor, Tensor]
"""Radii (N,), orientations (N, 4) and refractive indices (N,), complex128."""


def _generators(seed: int, purpose: Purpose, *key: int) -> tuple[np.random.Generator, torch.Generator]:
    """Generators of NumPy and of torch for one purpose, the second seeded by the first."""
    rng = random_generator(seed, purpose, *key)
    return rng, torch.Generator().manual_seed(int(rng.integers(2**62)))


def _where(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """A generator on the images' device; another device draws other numbers from the same CPU generator."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


class TrainingStream:
    """Batches of network inputs and truths, which depend on seed and step alone.

    Args:
        recipe: which bodies to simulate, and which effects of a detector to add.
        experiment: the whole forward half space on the canonical grid.
        seed: of the run.
        device: where images are simulated and degraded.
        data: intensities to draw from instead of simulating; they are kept on the device.

    Attributes:
        until: the step before which steps are simulated ahead, the end of the training.
    """

    def __init__(
        self,
        recipe: Recipe,
        experiment: Experiment,
        seed: int,
        device: torch.device | str,
        data: ImageSet | None = None,
    ) -> None:
        self.recipe, self.experiment, self.seed = recipe, experiment, seed
        self.device = torch.device(device)
        self.simulator = Simulator(experiment, device=self.device)
        x, y = experiment.transverse(torch.float32)
        self.transverse = torch.stack((x, y)).to(self.device)
        self.sine = experiment.sin_theta(torch.float32).to(self.device)
        self.edge = torch.maximum(x.abs(), y.abs()).to(self.device)
        self.valid = experiment.valid().to(self.device)
        self.bodies = recipe.batch // recipe.variants
        self.stored: ImageSet | None = None
        if data is not None:
            index = torch.full((len(data),), experiment.refractive_index, dtype=torch.complex128)
            images, mask = data.images.to(self.device), data.mask.to(self.device)
            self.stored = replace(data, images=images, mask=mask, refractive_index=index)
        self.last_step, self.until = -2, recipe.steps
        self.ready: dict[int, ImageSet] = {}

    def batch(self, step: int) -> TrainingBatch:
        """Images and truths of one step."""
        recipe = self.recipe
        rng, generator = _generators(self.seed, Purpose.TRAINING, step, 1)
        patterns = self.patterns(step)
        assert patterns.refractive_index is not None
        # Unmirrored and mirrored versions take turns, each kind with a random order of quarter turns.
        turns, mirrored = rng.permutation(4), rng.permutation(4) + 4
        versions = np.stack((turns, mirrored), 1).flatten()[: recipe.variants].tolist()
        if recipe.variants == 1:
            versions = [0]
        intensity = torch.cat([dihedral_images(patterns.images, version) for version in versions])
        quaternion = torch.cat([dihedral_orientations(patterns.quaternion, version) for version in versions])
        radius_nm = patterns.radius_nm.repeat(recipe.variants)
        refraction = (1 - patterns.refractive_index.real).float().repeat(recipe.variants)
        make = self._log_images if recipe.log_images else self._counts
        brightness, mask = make(intensity, step, rng, generator)
        return TrainingBatch(
            network_input(brightness, mask, refraction.to(self.device)),
            to_fundamental_domain(quaternion).to(self.device),
            radius_nm.float().to(self.device),
        )

    def patterns(self, step: int) -> ImageSet:
        """Intensities of the ``batch / variants`` bodies of one step, with their truth and materials."""
        if step not in self.ready:
            ahead = min(AHEAD[self.device.type], self.until - step) if step == self.last_step + 1 else 1
            steps = range(step, step + max(1, ahead))
            parts = self._patterns(steps)
            rows = torch.arange(len(parts)).split(self.bodies)
            self.ready = {step: parts.subset(part) for step, part in zip(steps, rows, strict=True)}
        self.last_step = step
        return self.ready.pop(step)

    def _patterns(self, steps: Sequence[int]) -> ImageSet:
        """Those of several steps, one after the other."""
        pool = self.recipe.pool
        if self.stored is None and pool is not None and pool <= CACHED_POOL:
            self.stored = self._simulate(*self._pool(range(pool)))
        if self.stored is not None:
            rows = [self._draw_numbers(step, len(self.stored)) for step in steps]
            return self.stored.subset(torch.as_tensor(np.concatenate(rows)))
        drawn = [self._draw(step) for step in steps]
        return self._simulate(*(torch.cat(column) for column in zip(*drawn, strict=True)))

    def _simulate(self, radius_nm: Tensor, quaternion: Tensor, index: Tensor) -> ImageSet:
        """Patterns of bodies, in one call of the simulator for each material."""
        pixels = self.experiment.pixels
        images = torch.empty(len(index), pixels, pixels, device=self.device)
        for real, imaginary in torch.unique(torch.view_as_real(index), dim=0).tolist():
            rows = (index == complex(real, imaginary)).nonzero().squeeze(1)
            simulator = self.simulator.with_refractive_index(complex(real, imaginary))
            bodies = radius_nm[rows].to(self.device), quaternion[rows].to(self.device)
            with torch.no_grad():
                images[rows.to(self.device)] = simulator.intensity(*bodies)
        truth = self.experiment, radius_nm, quaternion
        mask = self.valid.expand(images.shape)
        return ImageSet(images, mask, "intensity", *truth, refractive_index=index)

    def _draw_numbers(self, step: int, total: int) -> np.ndarray:
        """(batch / variants,) numbers of a step's bodies in a pool or a stored set."""
        rng, _ = _generators(self.seed, Purpose.TRAINING, step, 0)
        return rng.integers(total, size=self.bodies)

    def _draw(self, step: int) -> Bodies:
        """The bodies of a step."""
        if self.recipe.pool is not None:
            return self._pool(self._draw_numbers(step, self.recipe.pool).tolist())
        rng, generator = _generators(self.seed, Purpose.TRAINING, step, 0)
        index = self._indices(rng, self.bodies)
        radius_nm = torch.as_tensor(rng.uniform(*self.recipe.radius_nm, self.bodies))
        return radius_nm, random_orientations(self.bodies, generator), index

    def _pool(self, numbers: Sequence[int]) -> Bodies:
        """Bodies by their number in the pool.

        They are the same in every step: a pool of N bodies costs N simulations, whatever their materials.
        """
        radii, orientations, indices = [], [], []
        for number in numbers:
            rng, generator = _generators(self.seed, Purpose.TRAINING_POOL, number)
            radii.append(rng.uniform(*self.recipe.radius_nm))
            orientations.append(random_orientations(1, generator))
            indices.append(self._indices(rng, 1))
        return torch.tensor(radii, dtype=torch.float64), torch.cat(orientations), torch.cat(indices)

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

    def _log_images(
        self, intensity: Tensor, step: int, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Brightness and mask of log images under the recipe's filters."""
        recipe = self.recipe
        intensity, scale = self._scaled(intensity, rng, generator)
        images = log_image(intensity, recipe.decades, scale)
        mask = self.valid.expand(images.shape)
        if recipe.background:
            spread = recipe.background * torch.rand(len(images), 1, 1, generator=generator)
            there = _where(images.device, generator)
            noise = torch.randn(images.shape, generator=there, device=images.device).abs()
            eight_bits = ((images + noise * spread.to(images)).clamp(0, 1) * 255).round() / 255
            chosen = torch.as_tensor(rng.random(len(images)) < 0.5, device=images.device)
            images = torch.where(chosen[:, None, None], eight_bits, images)
        if recipe.images == "clean":
            return images * mask, mask
        numbers = torch.arange(step * recipe.batch, step * recipe.batch + len(images))
        share = REALISTIC_SHARE if recipe.images == "realistic" else 0.0
        realistic = torch.as_tensor(rng.random(len(images)) < share)
        brightness, usable = torch.empty_like(images), torch.empty_like(mask)
        for name, chosen in (("realistic", realistic), ("random", ~realistic)):
            rows = chosen.nonzero().squeeze(1).to(images.device)
            changed = augment(images[rows] * mask[rows], name, self.seed, numbers[chosen], mask[rows])
            brightness[rows], usable[rows] = changed.images, changed.mask
        return brightness, usable

    def _scaled(
        self, intensity: Tensor, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Intensities, some of them photon counts, and (B,) the intensity that a log image shows as 1."""
        recipe, count = self.recipe, len(intensity)
        if recipe.counted:
            low, high = np.log(recipe.photons)
            photons = np.exp(rng.uniform(low, high, count))
            chosen = torch.as_tensor(rng.random(count) < recipe.counted)
            rows = chosen.nonzero().squeeze(1).to(self.device)
            mean = (intensity * self.valid)[rows]
            mean = mean * self._column(photons)[rows] / mean.sum((-2, -1), keepdim=True)
            intensity = intensity.clone()
            intensity[rows] = torch.poisson(mean, _where(mean.device, generator))
        if not recipe.hidden_peak:
            return intensity, intensity.amax((-2, -1))
        hidden = np.sin(np.radians(rng.uniform(0, HIDDEN_DEGREES, count)))
        hidden = np.where(rng.random(count) < recipe.hidden_peak, hidden, -1.0)
        return intensity, (intensity * (self.sine > self._column(hidden)) * self.valid).amax((-2, -1))

    def _column(self, values: np.ndarray) -> Tensor:
        """(B,) numbers -> (B, 1, 1) on the device."""
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)[:, None, None]

    def _counts(
        self, intensity: Tensor, step: int, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Brightness and mask of photon counts on detectors with holes and crops."""
        recipe, count = self.recipe, len(intensity)
        hardness = min(1.0, (step + 1) / max(1.0, recipe.warm_share * recipe.steps))
        hole = np.sin(np.radians(rng.uniform(*recipe.hole_degrees, count) * hardness))
        sine = rng.uniform(*recipe.sine, count)
        sine = np.where(rng.random(count) < 1 - hardness * (1 - recipe.whole_share), 1.0, sine)
        low, high = np.log(recipe.photons)
        photons = np.exp(rng.uniform(high + hardness * (low - high), high, count))

        mask = self.valid & (self.sine >= self._column(hole)) & (self.edge <= self._column(sine) + 1e-6)
        usable = intensity * mask
        polarised = rng.random(count) < recipe.polarised if recipe.polarised else np.zeros(count, dtype=bool)
        if polarised.any():
            angle = rng.uniform(0, np.pi, count)
            along = self._column(np.cos(angle) * polarised) * self.transverse[0]
            factor = 1 - (along + self._column(np.sin(angle) * polarised) * self.transverse[1]).square()
            usable = usable * factor
        mean = usable * (self._column(photons) / usable.sum((-2, -1), keepdim=True))
        counts = torch.poisson(mean, _where(mean.device, generator))
        if polarised.any():
            counts, mask = without_factor(counts, mask, factor)
        return count_brightness(counts), mask
