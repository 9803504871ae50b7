"""What an objective is: how far a simulated image is from a measured one, and whether a fit explains it.

All are invariant to the unknown scale of the intensity and leave masked pixels out; there is one for each
kind of image in :mod:`icobench.fitting.objectives`.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.devices import joined
from icobench.fitting.counter import CountingSimulator
from icobench.fitting.nuisance import DECADES, Nuisance
from icobench.simulator.experiment import Experiment

__all__ = ["CHUNK", "Misfit", "Objective", "held_at_once", "pieces"]

CHUNK, GPU_CHUNK = 512, 2048
"""Simulated images held at once, on a CPU and, of 128 x 128 pixels, on a GPU: there an array has 134 MB in
float32 and 270 MB in float64, and an objective needs up to ten."""

COMPARED = 32
"""Images compared at once on a CPU."""

POOR_RINGS, UNLIKE_RINGS = 0.5, 0.9
"""For other objectives: the value over that of the fitted pattern's averages around the beam. At 1e5 photons
the deviance of the right body has 0.04 to 0.44, that of an orientation 20 degrees off 0.6 to 1.1."""


class Misfit(NamedTuple):
    """How far fits of N images are from explaining them.

    Attributes:
        ratio: (N,) float64, how much worse the fit is than noise alone; its scale is the objective's.
        poor: (N,) bool, True where the body does not explain the image.
        unlike: (N,) bool, True where the image is not even roughly that of the body. Another simulator's
            image of the same body is a poor fit, but not unlike.
        excess: (N,) float64, deviance beyond what noise explains, 0 where the noise is not known.
    """

    ratio: Tensor
    poor: Tensor
    unlike: Tensor
    excess: Tensor | float = 0.0


def held_at_once(simulator: CountingSimulator, on_cpu: int, on_gpu: int) -> int:
    """Images: on a GPU as many as take the memory of ``on_gpu`` images of 128 x 128 pixels."""
    if simulator.device.type == "cpu":
        return on_cpu
    return max(1, on_gpu * 128**2 // simulator.experiment.pixels**2)


def pieces(count: int, size: int) -> list[slice]:
    """Rows 0 to ``count``, ``size`` at a time; one piece at least."""
    return [slice(start, start + size) for start in range(0, max(1, count), size)]


def _ring_averages(intensity: Tensor, experiment: Experiment) -> Tensor:
    """Intensities (B, H, W) averaged over rings around the beam that are about a pixel wide, same shape."""
    valid = experiment.valid()
    sine = experiment.sin_theta() * valid
    ring = (sine / sine.max() * (len(sine) // 2)).long().flatten().to(intensity.device)
    weight = valid.flatten().to(intensity)
    sums = intensity.new_zeros(len(intensity), len(sine)).index_add(1, ring, intensity.flatten(1) * weight)
    pixels = weight.new_zeros(len(sine)).index_add(0, ring, weight).clamp_min(1)
    return (sums / pixels)[:, ring].reshape(intensity.shape)


@dataclass
class Objective:
    """Images with their masks, compared with simulations through a counter.

    A subclass needs :meth:`compare`, and :meth:`residuals` for fits by least squares; the other methods have
    defaults that suit any objective which is 0 for a perfect fit.

    Attributes:
        images: (N, H, W), float; photon counts or log images, 0 where masked.
        mask: (N, H, W) bool, True where usable.
        simulator: counts every evaluation, per image.
        usable: (N,) number of usable pixels.
        totals: (N,) sums of the images.
        noise_known: whether residuals have a variance of 1 where the model is right, so that error bars
            follow from the derivatives alone; otherwise the residuals' own variance is taken.
    """

    images: Tensor
    mask: Tensor
    simulator: CountingSimulator

    noise_known = False

    def __post_init__(self) -> None:
        device = self.simulator.device
        self.mask = self.mask.to(device, non_blocking=True) & self.simulator.simulator.valid
        images = self.images.to(device, non_blocking=True).to(torch.float32)
        self.images = torch.where(self.mask, images, 0.0)
        self.usable = self.mask.sum((-2, -1))
        self.totals = self.images.sum((-2, -1))

    def pretend(self, image: Tensor, intensity: Tensor) -> "Objective":
        """The same objective with intensities (B, H, W) as the images with indices ``image``, at their sums.

        The default is for images that are linear in the intensity.
        """
        images, usable = self.images.clone(), intensity * self.mask[image]
        scale = self.totals[image] / usable.sum((-2, -1)).clamp_min(1e-30)
        images[image] = usable * scale[:, None, None]
        return replace(self, images=images)

    def compare(self, image: Tensor, intensity: Tensor) -> Tensor:
        """Objective (B,) of simulated intensities (B, H, W) against images with indices ``image`` (B,)."""
        raise NotImplementedError

    def residuals(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals r (B, H, W) and dr / d intensity with the scale held (B, H, W)."""
        raise NotImplementedError

    def value(
        self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance | None = None
    ) -> Tensor:
        """Objective (B,) of the images with indices ``image`` (B,) at the given parameters."""
        device = self.simulator.device
        nuisance = (nuisance or Nuisance.none(len(image))).to(device)
        image, radius_nm, quaternion = (
            part.to(device, non_blocking=True) for part in (image, radius_nm, quaternion)
        )
        values = []
        for rows in pieces(len(image), self.chunk):
            intensity = self.model(image[rows], radius_nm[rows], quaternion[rows], nuisance.take(rows))
            values += [
                self.compare(image[rows][few], intensity[few])
                for few in pieces(len(intensity), self.compared)
            ]
        return joined(values)

    @property
    def chunk(self) -> int:
        """Simulated images held at once."""
        return held_at_once(self.simulator, CHUNK, GPU_CHUNK)

    @property
    def compared(self) -> int:
        """Images compared at once: on a CPU so few that its caches hold what is between."""
        return held_at_once(self.simulator, COMPARED, GPU_CHUNK)

    def model(self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance) -> Tensor:
        """Simulated intensities (B, H, W), background included; one evaluation each."""
        intensity = self.simulator.intensity(image, radius_nm, quaternion, nuisance)
        if (background := nuisance.of("background")) is not None:
            intensity = intensity + background[:, :, None].to(intensity) * self._mean(image, intensity)
        if (exponent := nuisance.exponent) is not None:
            level = self._mean(image, intensity).clamp_min(1e-30)
            intensity = level * (intensity / level).clamp_min(1e-30) ** exponent[:, None].to(intensity)
        return intensity

    def model_jacobian(
        self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance
    ) -> tuple[Tensor, Tensor]:
        """The same with derivatives (B, T, H, W): rotation, radius, then the columns of the nuisance."""
        intensity, slopes = self.simulator.intensity_jacobian(
            image, radius_nm, quaternion, nuisance.simulated, nuisance
        )
        if (background := nuisance.of("background")) is not None:
            background = background[:, :, None].to(intensity)
            level = self._mean(image, intensity)
            slope_means = self._slope_means(image, slopes)
            slopes = slopes + background[..., None] * slope_means
            by_background = level.expand_as(intensity).unsqueeze(1)
            intensity = intensity + background * level
            slopes = torch.cat((slopes[:, :4], by_background, slopes[:, 4:]), 1)
        if (exponent := nuisance.exponent) is None:
            return intensity, slopes
        power = exponent[:, None].to(intensity)
        level = self._mean(image, intensity).clamp_min(1e-30)
        relative = (intensity / level).clamp_min(1e-30)
        bent = level * relative**power
        slope_means = self._slope_means(image, slopes)
        change = slopes * (power * relative ** (power - 1))[:, None]
        change = change + slope_means * ((1 - power) * relative**power)[:, None]
        by_exponent = bent * relative.log() * nuisance.exponent_slope[:, None].to(intensity)
        return bent, torch.cat((change, by_exponent.unsqueeze(1)), 1)

    def _slope_means(self, image: Tensor, slopes: Tensor) -> Tensor:
        """Means over usable pixels of derivatives (B, T, H, W): (B, T, 1, 1)."""
        means = self._mean(image.repeat_interleave(slopes.shape[1]), slopes.flatten(0, 1))
        return means.unflatten(0, slopes.shape[:2])

    def _mean(self, image: Tensor, values: Tensor) -> Tensor:
        """Mean over usable pixels: (B, 1, 1)."""
        mask = self.mask[image]
        return ((values * mask).sum((-2, -1)) / self.usable[image].clamp_min(1))[:, None, None]

    def _total(self, image: Tensor) -> Tensor:
        """Sum over usable pixels of the measured images: (B,) float64."""
        return self.totals[image].double().clamp_min(1e-30)

    def coarse(self) -> "Objective | None":
        """Another objective of the same images whose fits converge from farther away, if there is one."""
        return None

    def misfit(
        self,
        radius_nm: Tensor,
        quaternion: Tensor,
        image: Tensor | None = None,
        nuisance: Nuisance | None = None,
    ) -> Misfit:
        """How much worse fits (N,) are than noise alone; one evaluation per image. Not finite means poor.

        The indices ``image`` (N,) are those of all images by default.
        """
        return self.explained(radius_nm, quaternion, image, nuisance)[1]

    def explained(
        self,
        radius_nm: Tensor,
        quaternion: Tensor,
        image: Tensor | None = None,
        nuisance: Nuisance | None = None,
    ) -> tuple[Tensor, Misfit]:
        """Values (N,) float64 of fits along with their misfit, all on the CPU; as :meth:`misfit`."""
        image = torch.arange(len(radius_nm)) if image is None else image
        device = self.simulator.device
        nuisance = (nuisance or Nuisance.none(len(image))).to(device)
        image, radius_nm, quaternion = (
            part.to(device, non_blocking=True) for part in (image, radius_nm, quaternion)
        )
        values, misfits = [], []
        for rows in pieces(len(image), self.chunk):
            fitted = nuisance.take(rows)
            intensities = self.model(image[rows], radius_nm[rows], quaternion[rows], fitted)
            for few in pieces(len(intensities), self.compared):
                some, intensity = image[rows][few], intensities[few]
                value = self.compare(some, intensity).double()
                values.append(value)
                if (decades := fitted.of("decades")) is not None:
                    # Differences of images that were read as if they had six decades.
                    value = value * (decades[few, 0] / DECADES).square()
                misfit = self.misfit_of(some, intensity, value, 5 + fitted.values.shape[1])
                misfits.append(misfit._replace(excess=misfit.excess + torch.zeros_like(value)))
        ratio, poor, unlike, excess = (joined(parts).cpu() for parts in zip(*misfits, strict=True))
        unknown = ~ratio.isfinite()
        return joined(values).cpu(), Misfit(ratio, poor | unknown, unlike | unknown, excess)

    def misfit_of(self, image: Tensor, intensity: Tensor, value: Tensor, parameters: int) -> Misfit:
        """How far simulated intensities are from explaining images: the decision behind :meth:`misfit`.

        By default the value is compared with that of the intensities' averages over rings around the beam.

        Args:
            image, intensity: as for :meth:`compare`.
            value: (B,) float64, what it gave.
            parameters: how many were fitted to each image, the scale included.
        """
        rings = _ring_averages(intensity, self.simulator.experiment)
        ratio = value / self.compare(image, rings).double()
        return Misfit(ratio, ratio > POOR_RINGS, ratio > UNLIKE_RINGS)

    def likelihood_gap(self, better: Tensor, worse: Tensor, image: Tensor) -> Tensor:
        """Twice the log likelihood by which one value (B,) of the objective is better than another: (B,).

        By default the variance of the better one's residuals stands for the unknown noise.
        """
        return self.usable[image].cpu() * (worse / better.clamp_min(1e-30) - 1)
