"""Training images: simulated patterns with the effects of a detector."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icobench.geometry.orientation import to_fundamental_domain
from icobench.images.augment import augment
from icobench.images.image_set import ImageSet
from icobench.images.pixels import log_image
from icobench.images.symmetry import dihedral_images, dihedral_orientations
from icobench.network.bodies import Bodies, generator_pair
from icobench.network.inputs import count_brightness, network_input
from icobench.network.recipe import Recipe
from icobench.seeds import Purpose
from icobench.simulator.experiment import Experiment

__all__ = ["TrainingBatch", "TrainingStream"]

HIDDEN_DEGREES = 9.0
"""Largest radius of the hidden centre of log images; the holes of the realistic chain reach 8.2 degrees."""

REALISTIC_SHARE = 0.75
"""Share of the images "realistic" under the realistic chain; a random filter changes the others."""


class TrainingBatch(NamedTuple):
    """One step's images.

    Attributes:
        inputs: (B, 3, 128, 128) of :func:`~icobench.network.inputs.network_input`.
        quaternion: (B, 4) in the fundamental domain.
        radius_nm: (B,) float32.
    """

    inputs: Tensor
    quaternion: Tensor
    radius_nm: Tensor


class TrainingStream:
    """Batches of network inputs and truths, which depend on seed and step alone.

    Args:
        recipe: which bodies to simulate, and which effects of a detector to add.
        experiment: the whole forward half space on the canonical grid.
        seed: of the run.
        device: where images are simulated and degraded.
        data: intensities to draw from instead of simulating.
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
        self.bodies = Bodies(recipe, experiment, seed, self.device, data)
        sines = experiment.sines(dtype=torch.float32)
        self.sine = (sines[:, None] ** 2 + sines**2).sqrt().to(self.device)
        self.edge = torch.maximum(sines.abs()[:, None], sines.abs()).to(self.device)
        self.valid = experiment.valid().to(self.device)

    def batch(self, step: int) -> TrainingBatch:
        """Images and truths of one step."""
        recipe = self.recipe
        rng, generator = generator_pair(self.seed, Purpose.TRAINING, step, 1)
        patterns = self.bodies.patterns(step)
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
        if recipe.log_images:
            brightness, mask = self._log_images(intensity, step, rng, generator)
        else:
            hardness = min(1.0, (step + 1) / max(1.0, recipe.warm_share * recipe.steps))
            brightness, mask = self._counts(intensity, hardness, rng, generator)
        return TrainingBatch(
            network_input(brightness, mask, refraction.to(self.device)),
            to_fundamental_domain(quaternion).to(self.device),
            radius_nm.float().to(self.device),
        )

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
            noise = torch.randn(images.shape, generator=generator).abs() * spread
            eight_bits = ((images + noise.to(images)).clamp(0, 1) * 255).round() / 255
            chosen = torch.as_tensor(rng.random(len(images)) < 0.5, device=images.device)
            images = torch.where(chosen[:, None, None], eight_bits, images)
        if recipe.images == "clean":
            return images * mask, mask
        numbers = torch.arange(step * recipe.batch, step * recipe.batch + len(images))
        share = REALISTIC_SHARE if recipe.images == "realistic" else 0.0
        realistic = torch.as_tensor(rng.random(len(images)) < share)
        brightness, usable = torch.empty_like(images), torch.empty_like(mask)
        for filter_name, chosen in (("realistic", realistic), ("random", ~realistic)):
            rows = chosen.nonzero().squeeze(1).to(images.device)
            augmented = augment(
                images[rows] * mask[rows], filter_name, self.seed, numbers[chosen], mask[rows]
            )
            brightness[rows], usable[rows] = augmented.images, augmented.mask
        return brightness, usable

    def _scaled(
        self, intensity: Tensor, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Intensities, some of them photon counts, and (B,) the intensity that a log image shows as 1."""
        recipe, count = self.recipe, len(intensity)
        scale = intensity.amax((-2, -1))
        if recipe.counted:
            low, high = np.log(recipe.photons)
            photons = np.exp(rng.uniform(low, high, count))
            chosen = torch.as_tensor(rng.random(count) < recipe.counted)
            rows = chosen.nonzero().squeeze(1).to(self.device)
            mean = (intensity * self.valid)[rows]
            mean = mean * self._column(photons)[rows] / mean.sum((-2, -1), keepdim=True)
            intensity = intensity.clone()
            intensity[rows] = torch.poisson(mean.cpu(), generator=generator).to(intensity)
            scale = intensity.amax((-2, -1))
        if recipe.hidden_peak:
            hidden = np.sin(np.radians(rng.uniform(0, HIDDEN_DEGREES, count)))
            hidden = np.where(rng.random(count) < recipe.hidden_peak, hidden, -1.0)
            scale = (intensity * (self.sine > self._column(hidden)) * self.valid).amax((-2, -1))
        return intensity, scale

    def _column(self, values: np.ndarray) -> Tensor:
        """(B,) numbers -> (B, 1, 1) on the device."""
        return torch.as_tensor(values, dtype=torch.float32, device=self.device)[:, None, None]

    def _counts(
        self, intensity: Tensor, hardness: float, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Brightness and mask of photon counts on detectors with holes and crops."""
        recipe, count = self.recipe, len(intensity)
        hole = np.sin(np.radians(rng.uniform(*recipe.hole_degrees, count) * hardness))
        sine = rng.uniform(*recipe.sine, count)
        sine = np.where(rng.random(count) < 1 - hardness * (1 - recipe.whole_share), 1.0, sine)
        low, high = np.log(recipe.photons)
        photons = np.exp(rng.uniform(high + hardness * (low - high), high, count))

        mask = self.valid & (self.sine >= self._column(hole)) & (self.edge <= self._column(sine) + 1e-6)
        usable = intensity * mask
        mean = usable * (self._column(photons) / usable.sum((-2, -1), keepdim=True))
        counts = torch.poisson(mean.cpu(), generator=generator).to(self.device)
        return count_brightness(counts), mask
