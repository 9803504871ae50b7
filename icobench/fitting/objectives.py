"""Objectives: how far a simulated image is from a measured one, and whether a fit explains the image.

All are invariant to the unknown scale of the intensity and leave masked pixels out.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import poisson
from torch import Tensor

from icobench.fitting.counter import CountingSimulator, inner_pixels
from icobench.fitting.nuisance import Nuisance
from icobench.images.image_set import ImageSet
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

__all__ = [
    "LogImageError", "Misfit", "Objective", "PoissonDeviance", "SquareRootError", "deviance_moments",
    "objective_for",
]  # fmt: skip

CHUNK = 512
"""Simulated images held at once."""

DECADES = 6.0
"""Dynamic range of log images."""

FAINT = 1e-3
"""Means below this count as this much in Pearson residuals, or a single stray photon would dominate a fit."""

POOR_RATIO, POOR_SIGMA = 1.15, 6.0
"""A fit to photon counts is poor whose deviance per degree of freedom is beyond this multiple of the Poisson
expectation, and beyond so many of its standard deviations: the deviance of faint images scatters.
``reports/fitters.py`` measures what that lets pass: at 1e5 photons all icosahedra and no other shape; of two
particles those where one outshines the other."""

POOR_ROOTS, UNLIKE_ROOTS = 1e-3, 0.1
"""Sum (sqrt n - sqrt m)^2 over sum n from which a fit to noise-free intensities is poor; and, less what noise
adds, from which an image is not even roughly that of the fitted body, whatever the photon number."""

POOR_LOG_RMS, UNLIKE_LOG_SHARE = 0.05, 0.6
"""For log images: root mean square difference; and mean square difference over the image's own variance, of
which photon noise alone makes a good part."""

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
    """

    ratio: Tensor
    poor: Tensor
    unlike: Tensor


@lru_cache(maxsize=1)
def _deviance_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log10 of the mean; mean and variance of the unit deviance 2 [n log(n / m) - n + m]."""
    grid = np.linspace(-4, 3, 141)
    expected, variance = [], []
    for mean in 10**grid:
        n = np.arange(int(mean + 12 * np.sqrt(mean) + 20))
        with np.errstate(divide="ignore", invalid="ignore"):
            unit = 2 * (np.where(n > 0, n * np.log(n / mean), 0.0) - n + mean)
        share = poisson.pmf(n, mean)
        expected.append(float((share * unit).sum()))
        variance.append(float((share * unit**2).sum()) - expected[-1] ** 2)
    return grid, np.array(expected), np.array(variance)


def _ring_averages(intensity: Tensor, experiment: Experiment) -> Tensor:
    """Intensities (B, H, W) averaged over rings around the beam that are about a pixel wide, same shape."""
    valid = experiment.valid()
    sine = experiment.sin_theta() * valid
    ring = (sine / sine.max() * (len(sine) // 2)).long().flatten().to(intensity.device)
    weight = valid.flatten().to(intensity)
    sums = intensity.new_zeros(len(intensity), len(sine)).index_add(1, ring, intensity.flatten(1) * weight)
    pixels = weight.new_zeros(len(sine)).index_add(0, ring, weight).clamp_min(1)
    return (sums / pixels)[:, ring].reshape(intensity.shape)


def deviance_moments(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the Poisson deviance of a pixel with the given mean, elementwise.

    1 and 2 for bright pixels (chi square with one degree of freedom), 2 m log(1 / m) and less for faint ones.
    """
    grid, *tables = _deviance_table()
    logs = np.log10(np.maximum(mean.detach().cpu().double().numpy(), 1e-12))
    faint = 10 ** np.minimum(logs - grid[0], 0)
    first, second = (torch.as_tensor(np.interp(logs, grid, table) * faint) for table in tables)
    return first, second


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
        noise_known: whether residuals have a variance of 1 where the model is right, so that error bars
            follow from the derivatives alone; otherwise the residuals' own variance is taken.
    """

    images: Tensor
    mask: Tensor
    simulator: CountingSimulator

    noise_known = False

    def __post_init__(self) -> None:
        device = self.simulator.device
        self.mask = self.mask.to(device) & self.simulator.simulator.valid
        self.images = torch.where(self.mask, self.images.to(device, torch.float32), 0.0)
        self.usable = self.mask.sum((-2, -1))

    def pretend(self, image: Tensor, intensity: Tensor) -> "Objective":
        """The same objective with intensities (B, H, W) as the images with indices ``image``, at their sums.

        The default is for images that are linear in the intensity.
        """
        images, usable = self.images.clone(), intensity * self.mask[image]
        scale = self.images[image].sum((-2, -1)) / usable.sum((-2, -1)).clamp_min(1e-30)
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
        nuisance = nuisance or Nuisance.none(len(image))
        values = []
        for rows in torch.arange(len(image), device=image.device).split(CHUNK):
            intensity = self.model(image[rows], radius_nm[rows], quaternion[rows], nuisance.take(rows))
            values.append(self.compare(image[rows], intensity))
        return torch.cat(values)

    def model(self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance) -> Tensor:
        """Simulated intensities (B, H, W), background included; one evaluation each."""
        intensity = self.simulator.intensity(image, radius_nm, quaternion, nuisance)
        if (background := nuisance.of("background")) is None:
            return intensity
        return intensity + background[:, :, None].to(intensity) * self._mean(image, intensity)

    def model_jacobian(
        self, image: Tensor, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance
    ) -> tuple[Tensor, Tensor]:
        """The same with derivatives (B, T, H, W): rotation, radius, then the columns of the nuisance."""
        intensity, slopes = self.simulator.intensity_jacobian(
            image, radius_nm, quaternion, nuisance.simulated, nuisance
        )
        if (background := nuisance.of("background")) is None:
            return intensity, slopes
        background = background[:, :, None].to(intensity)
        level = self._mean(image, intensity)
        slope_means = self._mean(image.repeat_interleave(slopes.shape[1]), slopes.flatten(0, 1))
        slopes = slopes + background[..., None] * slope_means.unflatten(0, slopes.shape[:2])
        by_background = level.expand_as(intensity).unsqueeze(1)
        return intensity + background * level, torch.cat((slopes[:, :4], by_background, slopes[:, 4:]), 1)

    def _mean(self, image: Tensor, values: Tensor) -> Tensor:
        """Mean over usable pixels: (B, 1, 1)."""
        mask = self.mask[image]
        return ((values * mask).sum((-2, -1)) / self.usable[image].clamp_min(1))[:, None, None]

    def _total(self, image: Tensor) -> Tensor:
        """Sum over usable pixels of the measured images: (B,) float64 on the CPU."""
        return self.images[image].double().sum((-2, -1)).cpu().clamp_min(1e-30)

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
        image = torch.arange(len(radius_nm)) if image is None else image
        nuisance = nuisance or Nuisance.none(len(image))
        intensity = self.model(image, radius_nm, quaternion, nuisance)
        value = self.compare(image, intensity).double().cpu()
        ratio, poor, unlike = self.misfit_of(image, intensity, value, 5 + nuisance.values.shape[1])
        return Misfit(ratio, poor | ~ratio.isfinite(), unlike | ~ratio.isfinite())

    def misfit_of(self, image: Tensor, intensity: Tensor, value: Tensor, parameters: int) -> Misfit:
        """How far simulated intensities are from explaining images: the decision behind :meth:`misfit`.

        By default the value is compared with that of the intensities' averages over rings around the beam.

        Args:
            image, intensity: as for :meth:`compare`.
            value: (B,) float64, what it gave, on the CPU.
            parameters: how many were fitted to each image, the scale included.
        """
        rings = _ring_averages(intensity, self.simulator.experiment)
        ratio = value / self.compare(image, rings).double().cpu()
        return Misfit(ratio, ratio > POOR_RINGS, ratio > UNLIKE_RINGS)

    def likelihood_gap(self, better: Tensor, worse: Tensor, image: Tensor) -> Tensor:
        """Twice the log likelihood by which one value (B,) of the objective is better than another: (B,).

        By default the variance of the better one's residuals stands for the unknown noise.
        """
        return self.usable[image].cpu() * (worse / better.clamp_min(1e-30) - 1)


class PoissonDeviance(Objective):
    """Deviance per usable pixel, 2 sum [n log(n / m) - n + m] / pixels, for photon counts n.

    The scale is profiled out: the best-fitting mean m has the same sum as n.
    """

    noise_known = True

    def _expected(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        """Expected counts at the best-fitting scale, 0 where masked (B, H, W), and that scale (B, 1, 1)."""
        usable = intensity * self.mask[image]
        scale = self.images[image].sum((-2, -1)) / usable.sum((-2, -1)).clamp_min(1e-30)
        return usable * scale[:, None, None], scale[:, None, None]

    def compare(self, image: Tensor, intensity: Tensor) -> Tensor:
        counts, (mean, _) = self.images[image], self._expected(image, intensity)
        # The sums of n and m agree, so only the logarithm is left.
        ratio = counts / mean.clamp_min(1e-20)
        return 2 * torch.special.xlogy(counts, ratio).sum((-2, -1)) / self.usable[image]

    def residuals(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        """Pearson residuals (m - n) / sqrt(m): Gauss-Newton on them is Fisher scoring."""
        mean, scale = self._expected(image, intensity)
        weight = mean.clamp_min(FAINT).rsqrt() * self.mask[image]
        return (mean - self.images[image]) * weight, weight * scale

    def coarse(self) -> Objective:
        return SquareRootError(self.images, self.mask, self.simulator)

    def misfit_of(self, image: Tensor, intensity: Tensor, value: Tensor, parameters: int) -> Misfit:
        """The ratio is that of the deviance to its expectation at the fitted means, less a degree of freedom
        for every fitted parameter."""
        moments = deviance_moments(self._expected(image, intensity)[0])
        expected, variance = ((moment * self.mask[image].cpu()).sum((-2, -1)) for moment in moments)
        expected = (expected - parameters).clamp_min(1)
        deviance = value * self.usable[image].cpu()
        ratio, excess = deviance / expected, deviance - expected
        poor = (ratio > POOR_RATIO) & (excess > POOR_SIGMA * variance.sqrt())
        # A deviance is about 4 sum (sqrt n - sqrt m)^2.
        return Misfit(ratio, poor, excess / (4 * self._total(image)) > UNLIKE_ROOTS)

    def likelihood_gap(self, better: Tensor, worse: Tensor, image: Tensor) -> Tensor:
        """Differences of the deviance are twice those of the log likelihood."""
        return self.usable[image].cpu() * (worse - better)


class SquareRootError(Objective):
    """Mean squared difference of square roots, 4 sum (sqrt(n) - sqrt(m))^2 / pixels.

    The square root makes the spread of bright Poisson counts 1/2 whatever their mean (Bartlett, J. R. Stat.
    Soc. Suppl. 3, 68, 1936), so that no pixel dominates and fits converge from farther away than those of the
    deviance; but faint counts bias them. The scale is profiled out: sqrt(scale) = sum sqrt(n I) / sum I.
    """

    def compare(self, image: Tensor, intensity: Tensor) -> Tensor:
        residual, _ = self.residuals(image, intensity)
        return residual.square().sum((-2, -1)) / self.usable[image]

    def residuals(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        # An image that was shifted by interpolation may dip below 0.
        usable = (intensity * self.mask[image]).clamp_min(0)
        roots = (self.images[image] * usable).sqrt().sum((-2, -1))
        scale = (roots / usable.sum((-2, -1)).clamp_min(1e-30)).square()[:, None, None]
        mean = usable * scale
        # The slope of a root has no bound where the model is dark, so means below FAINT count as FAINT.
        weight = mean.clamp_min(FAINT).rsqrt() * self.mask[image]
        return 2 * (mean.sqrt() - self.images[image].sqrt()), weight * scale

    def misfit_of(self, image: Tensor, intensity: Tensor, value: Tensor, parameters: int) -> Misfit:
        """The ratio is sum (sqrt n - sqrt m)^2 / sum n."""
        ratio = value * self.usable[image].cpu() / (4 * self._total(image))
        return Misfit(ratio, ratio > POOR_ROOTS, ratio > UNLIKE_ROOTS)


class LogImageError(Objective):
    """Mean squared difference of log images over usable pixels, for 8-bit log images of six decades.

    The scale is profiled out as the mean difference of the logarithms over pixels that neither image clips.
    """

    def pretend(self, image: Tensor, intensity: Tensor) -> Objective:
        _, level, mask = self._logs(image, intensity)
        images = self.images.clone()
        images[image] = level.clamp(0, 1) * mask
        return replace(self, images=images)

    def _logs(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        measured, mask = self.images[image], self.mask[image]
        tiny = torch.finfo(intensity.dtype).tiny
        logs = torch.log10(intensity.clamp_min(tiny)) / DECADES
        # Start from equal brightest usable pixels, then average over the pixels that both images show.
        brightest = logs.masked_fill(~mask, -torch.inf).amax((-2, -1))
        shift = measured.masked_fill(~mask, 0).amax((-2, -1)) - brightest
        for _ in range(3):
            level = logs + shift[:, None, None]
            seen = mask & (measured > 0) & (measured < 1) & (level > 0) & (level < 1)
            count = seen.sum((-2, -1)).clamp_min(1)
            gap = torch.where(seen, measured - logs, torch.zeros_like(logs)).sum((-2, -1)) / count
            shift = torch.where(seen.any(-1).any(-1), gap, shift)
        return measured, logs + shift[:, None, None], mask

    def compare(self, image: Tensor, intensity: Tensor) -> Tensor:
        measured, level, mask = self._logs(image, intensity)
        difference = (level.clamp(0, 1) - measured) * mask
        return difference.square().sum((-2, -1)) / self.usable[image]

    def residuals(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        measured, level, mask = self._logs(image, intensity)
        inside = mask & (level > 0) & (level < 1)
        slope = 1 / (DECADES * math.log(10) * intensity.clamp_min(1e-30))
        return (level.clamp(0, 1) - measured) * mask, slope * inside

    def misfit_of(self, image: Tensor, intensity: Tensor, value: Tensor, parameters: int) -> Misfit:
        """The ratio is the root mean square difference; unlike is relative to the image's own variance."""
        pixels, usable = self.images[image].double(), self.usable[image]
        deviation = (pixels - (pixels.sum((-2, -1)) / usable)[:, None, None]) * self.mask[image]
        variance = (deviation.square().sum((-2, -1)) / usable).cpu()
        ratio = value.sqrt()
        return Misfit(ratio, ratio > POOR_LOG_RMS, value > UNLIKE_LOG_SHARE * variance)


OBJECTIVES = {"counts": PoissonDeviance, "intensity": SquareRootError, "log": LogImageError}
"""By the kind of the images, see :data:`~icobench.images.image_set.KINDS`."""


def objective_for(images: ImageSet, simulator: Simulator, nuisance: tuple[str, ...] = ()) -> Objective:
    """The objective for a kind of images, with a counter at zero.

    Args:
        images: N images, their masks and their kind.
        simulator: of the experiment and the body that are believed in.
        nuisance: names of the nuisance parameters that will be fitted. Where the centre is among them, pixels
            near the edge of the grid or of the half space are left out: a moving beam brings in what lies
            beyond it.
    """
    mask = images.mask
    if "centre" in nuisance:
        mask = mask & inner_pixels(simulator.experiment).to(mask.device)
    return OBJECTIVES[images.kind](images.images, mask, CountingSimulator(simulator, len(images)))
