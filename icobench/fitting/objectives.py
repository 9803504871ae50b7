"""Objectives: how far a simulated image is from a measured one.

All are invariant to the unknown scale of the intensity and leave masked pixels out.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from icobench.fitting.counter import CountingSimulator
from icobench.fitting.nuisance import Nuisance

__all__ = ["LogImageError", "Objective", "PoissonDeviance", "SquareRootError"]

CHUNK = 512
"""Simulated images held at once."""

FAINT = 1e-3
"""Means below this count as this much in Pearson residuals, lest one stray photon rules."""


@dataclass
class Objective:
    """A set of images with their masks, compared with simulations through a counter.

    Attributes:
        images: (N, H, W), float; photon counts or log images, 0 where masked.
        mask: (N, H, W) bool, True where usable.
        simulator: counts every evaluation, per image.
    """

    images: Tensor
    mask: Tensor
    simulator: CountingSimulator

    def __post_init__(self) -> None:
        device = self.simulator.device
        self.mask = self.mask.to(device) & self.simulator.simulator.valid
        images = self.images.to(device=device, dtype=torch.float32)
        self.images = torch.where(self.mask, images, torch.zeros_like(images))
        self.usable = self.mask.sum((-2, -1))

    def value(
        self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance | None = None
    ) -> Tensor:
        """Objective (B,) of the images with indices ``image`` (B,) at the given parameters."""
        values = [
            self.compare(image[piece], self.model(image[piece], radius_nm[piece], quaternion[piece], own))
            for piece in torch.arange(len(image), device=image.device).split(CHUNK)
            for own in [None if nuisance is None else nuisance.take(piece)]
        ]
        return torch.cat(values) if values else radius_nm.new_zeros(0)

    def model(
        self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance | None = None
    ) -> Tensor:
        """Simulated intensities (B, H, W), background included; one evaluation each."""
        intensity = self.simulator.intensity(image, radius_nm, quaternion, nuisance)
        share = None if nuisance is None else nuisance.of("background")
        if share is None:
            return intensity
        return intensity + share[:, :, None].to(intensity) * self._mean(image, intensity)

    def model_jacobian(
        self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance | None = None
    ) -> tuple[Tensor, Tensor]:
        """The same with derivatives (B, T, H, W): rotation, radius, then the columns of the nuisance."""
        if nuisance is None:
            return self.simulator.intensity_jacobian(image, radius_nm, quaternion)
        intensity, slopes = self.simulator.intensity_jacobian(
            image, radius_nm, quaternion, nuisance.simulated, nuisance
        )
        share = nuisance.of("background")
        if share is None:
            return intensity, slopes
        level = self._mean(image, intensity)
        share = share[:, :, None].to(intensity)
        per_row = self._mean(image.repeat_interleave(slopes.shape[1]), slopes.flatten(0, 1))
        slopes = slopes + share[..., None] * per_row.unflatten(0, slopes.shape[:2])
        flat = level.expand_as(intensity).unsqueeze(1)
        return intensity + share * level, torch.cat((slopes[:, :4], flat, slopes[:, 4:]), 1)

    def _mean(self, image: Tensor, values: Tensor) -> Tensor:
        """Mean over usable pixels: (B, 1, 1)."""
        mask = self.mask[image]
        return ((values * mask).sum((-2, -1)) / self.usable[image].clamp_min(1))[:, None, None]

    def restricted(self, inner: Tensor) -> "Objective":
        """The same images on fewer pixels: (H, W) or (N, H, W) True where still usable."""
        return type(self)(self.images, self.mask & inner.to(self.mask.device), self.simulator)

    def compare(self, image: Tensor, intensity: Tensor) -> Tensor:
        """Objective of simulated intensities (B, H, W) against images ``image`` (B,)."""
        raise NotImplementedError

    def residuals(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals r (B, H, W) and dr / d intensity with the scale held (B, H, W)."""
        raise NotImplementedError


class PoissonDeviance(Objective):
    """Deviance per usable pixel, 2 sum [n log(n / m) - n + m] / pixels, for photon counts n.

    The scale is profiled out: the best-fitting mean m has the same sum as n.
    """

    def _scale(self, image: Tensor, usable: Tensor) -> Tensor:
        return self.images[image].sum((-2, -1)) / usable.sum((-2, -1)).clamp_min(1e-30)

    def mean(self, image: Tensor, intensity: Tensor) -> Tensor:
        """Expected counts at the best-fitting scale, 0 where masked: (B, H, W)."""
        usable = intensity * self.mask[image]
        return usable * self._scale(image, usable)[:, None, None]

    def compare(self, image: Tensor, intensity: Tensor) -> Tensor:
        counts, mean = self.images[image], self.mean(image, intensity)
        # The sums of n and m agree, so only the logarithm is left.
        ratio = counts / mean.clamp_min(1e-20)
        return 2 * torch.special.xlogy(counts, ratio).sum((-2, -1)) / self.usable[image]

    def residuals(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        """Pearson residuals (m - n) / sqrt(m): Gauss-Newton on them is Fisher scoring."""
        usable = intensity * self.mask[image]
        scale = self._scale(image, usable)[:, None, None]
        mean = usable * scale
        weight = mean.clamp_min(FAINT).rsqrt() * self.mask[image]
        return (mean - self.images[image]) * weight, weight * scale


class SquareRootError(Objective):
    """Mean squared difference of square roots, 4 sum (sqrt(n) - sqrt(m))^2 / pixels.

    The square root makes the spread of bright Poisson counts 1/2 whatever their mean (Bartlett, J. R. Stat.
    Soc. Suppl. 3, 68, 1936), so that no pixel rules and fits converge from farther away than on the deviance;
    but faint counts are biased. The scale is profiled out: sqrt(scale) = sum sqrt(n I) / sum I.
    """

    def _scale(self, image: Tensor, usable: Tensor) -> Tensor:
        roots = (self.images[image] * usable).sqrt().sum((-2, -1))
        return (roots / usable.sum((-2, -1)).clamp_min(1e-30)).square()

    def compare(self, image: Tensor, intensity: Tensor) -> Tensor:
        residual, _ = self.residuals(image, intensity)
        return residual.square().sum((-2, -1)) / self.usable[image]

    def residuals(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        usable = intensity * self.mask[image]
        scale = self._scale(image, usable)[:, None, None]
        mean = usable * scale
        # Where the model is dark its root has no finite slope; a step of the model below the faintest level
        # that matters is no step.
        weight = mean.clamp_min(FAINT).rsqrt() * self.mask[image]
        return 2 * (mean.sqrt() - self.images[image].sqrt()), weight * scale


class LogImageError(Objective):
    """Mean squared difference of log images over usable pixels, for 8-bit log images.

    The scale is profiled out as the mean difference of the logarithms over pixels that neither image clips.

    Attributes:
        decades: dynamic range of the images.
    """

    decades: float = 6.0

    def _logs(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        measured, mask = self.images[image], self.mask[image]
        tiny = torch.finfo(intensity.dtype).tiny
        own = torch.log10(intensity.clamp_min(tiny)) / self.decades
        # Start from equal brightest usable pixels, then average over what both images show.
        shift = measured.masked_fill(~mask, 0).amax((-2, -1)) - own.masked_fill(~mask, -torch.inf).amax(
            (-2, -1)
        )
        for _ in range(3):
            level = own + shift[:, None, None]
            seen = mask & (measured > 0) & (measured < 1) & (level > 0) & (level < 1)
            count = seen.sum((-2, -1)).clamp_min(1)
            gap = torch.where(seen, measured - own, torch.zeros_like(own)).sum((-2, -1)) / count
            shift = torch.where(seen.any(-1).any(-1), gap, shift)
        return measured, own + shift[:, None, None], mask

    def compare(self, image: Tensor, intensity: Tensor) -> Tensor:
        measured, level, mask = self._logs(image, intensity)
        miss = (level.clamp(0, 1) - measured) * mask
        return miss.square().sum((-2, -1)) / self.usable[image]

    def residuals(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        measured, level, mask = self._logs(image, intensity)
        inside = mask & (level > 0) & (level < 1)
        slope = 1 / (self.decades * math.log(10) * intensity.clamp_min(1e-30))
        return (level.clamp(0, 1) - measured) * mask, slope * inside
