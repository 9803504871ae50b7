"""The objectives for photon counts, counts with read-out noise, intensities and log images."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from scipy.special import gammaln, xlogy
from torch import Tensor

from icobench.fitting.counter import CountingSimulator, inner_pixels
from icobench.fitting.nuisance import DECADES, Nuisance
from icobench.fitting.objective import Misfit, Objective
from icobench.images.image_set import ImageSet
from icobench.simulator.simulator import Simulator

__all__ = [
    "LogImageError", "Misfit", "NoisyDeviance", "Objective", "PoissonDeviance", "SquareRootError",
    "deviance_moments", "objective_for",
]  # fmt: skip

FAINT = 1e-3
"""Means below this count as this much in Pearson residuals, or a single stray photon would dominate a fit."""

SCALE_STEPS = 3
"""Newton steps to the best scale where it has no closed form."""

LEAST_NOISE = 1e-6
"""Variances of read-out noise below this, in photons squared, count as this much."""

POOR_RATIO, POOR_SIGMA = 1.15, 6.0
"""A fit to photon counts is poor whose deviance per degree of freedom is beyond this multiple of the Poisson
expectation, and beyond so many of its standard deviations: the deviance of faint images scatters.
``reports/fitters.py`` measures what that lets pass: at 1e5 photons all icosahedra and no other shape; of two
particles those where one outshines the other."""

BY_CHANCE = 2.0
"""Standard deviations by which a deviance may be beyond its expectation."""

POOR_ROOTS, UNLIKE_ROOTS = 1e-3, 0.1
"""Sum (sqrt n - sqrt m)^2 over sum n from which a fit to noise-free intensities is poor; and, less what noise
adds, from which an image is not even roughly that of the fitted body, whatever the photon number."""

POOR_LOG_RMS, UNLIKE_LOG_SHARE = 0.05, 0.6
"""For log images: root mean square difference; and mean square difference over the image's own variance, of
which photon noise alone makes a good part."""


TABLE_FROM, TABLE_STEP, TABLE_LENGTH = -4.0, 0.05, 141
"""Decades of the mean at which the moments of the deviance are tabulated."""


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _deviance_table(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Moments of the unit deviance 2 [n log(n / m) - n + m], and their steps to the next mean.

    (2, 2, :data:`TABLE_LENGTH` - 1): of mean and variance, values and steps.
    """
    expected, variance = [], []
    for mean in 10 ** (TABLE_FROM + TABLE_STEP * np.arange(TABLE_LENGTH)):
        n = np.arange(int(mean + 12 * np.sqrt(mean) + 20))
        unit = 2 * (xlogy(n, n / mean) - n + mean)
        share = np.exp(xlogy(n, mean) - mean - gammaln(n + 1))
        expected.append(float((share * unit).sum()))
        variance.append(float((share * unit**2).sum()) - expected[-1] ** 2)
    moments = np.array([expected, variance])
    return torch.as_tensor(np.stack((moments[:, :-1], np.diff(moments)), 1)).to(device, dtype)


def deviance_moments(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the Poisson deviance of a pixel with the given mean, elementwise.

    1 and 2 for bright pixels (chi square with one degree of freedom), 2 m log(1 / m) and less for faint ones.
    """
    means = mean.flatten()
    place = (means.clamp_min(1e-12).log10() - TABLE_FROM) / TABLE_STEP
    low = place.nan_to_num().clamp(0, TABLE_LENGTH - 2).int()
    share = (place - low).clamp_(0, 1)
    # Below the table both are proportional to the mean.
    faint = (means * 10**-TABLE_FROM).clamp(0, 1)
    first, second = (
        torch.addcmul(values.index_select(0, low), steps.index_select(0, low), share).mul_(faint)
        for values, steps in _deviance_table(mean.device, mean.dtype)
    )
    return first.view_as(mean), second.view_as(mean)


class PoissonDeviance(Objective):
    """Deviance per usable pixel, 2 sum [n log(n / m) - n + m] / pixels, for photon counts n.

    The scale is profiled out: the best-fitting mean m has the same sum as n.
    """

    noise_known = True

    def _expected(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        """Expected counts at the best-fitting scale, 0 where masked (B, H, W), and that scale (B, 1, 1)."""
        usable = intensity * self.mask[image]
        scale = self.totals[image] / usable.sum((-2, -1)).clamp_min(1e-30)
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

    def pairs(self, radius_nm: Tensor, quaternion: Tensor, nuisance: Nuisance) -> tuple[Tensor, Tensor]:
        """Expected and measured counts, 0 where masked, at fits to all images: (N, H, W) on the CPU."""
        image = torch.arange(len(radius_nm), device=self.images.device)
        mean, _ = self._expected(image, self.model(image, radius_nm, quaternion, nuisance))
        return mean.cpu(), self.images.cpu()

    def coarse(self) -> Objective:
        return SquareRootError(self.images, self.mask, self.simulator)

    def misfit_of(self, image: Tensor, intensity: Tensor, value: Tensor, parameters: int) -> Misfit:
        """The ratio is that of the deviance to its expectation at the fitted means, less a degree of freedom
        for every fitted parameter."""
        moments = deviance_moments(self._expected(image, intensity)[0])
        mask = self.mask[image]
        expected, variance = ((moment * mask).sum((-2, -1)).double() for moment in moments)
        expected = (expected - parameters).clamp_min(1)
        deviance = value * self.usable[image]
        ratio, excess = deviance / expected, deviance - expected
        poor = (ratio > POOR_RATIO) & (excess > POOR_SIGMA * variance.sqrt())
        # A deviance is about 4 sum (sqrt n - sqrt m)^2.
        unlike = excess / (4 * self._total(image)) > UNLIKE_ROOTS
        return Misfit(ratio, poor, unlike, (excess - BY_CHANCE * variance.sqrt()).clamp_min(0))

    def likelihood_gap(self, better: Tensor, worse: Tensor, image: Tensor) -> Tensor:
        """Differences of the deviance are twice those of the log likelihood."""
        return self.usable[image].cpu() * (worse - better)


@dataclass
class NoisyDeviance(PoissonDeviance):
    """The same for photon counts n with Gaussian read-out noise of variance s, which may be negative.

    The sum of both is close to a Poisson variable shifted by s: n + s has the mean and the variance m + s.
    Its deviance has the derivative 2 (m - n) / (m + s), the best that mean and variance alone give
    (Wedderburn, Biometrika 61, 439, 1974), for any n. The scale has no closed form, and is profiled by Newton
    steps.

    Attributes:
        readout: (N, H, W) variance in photons squared.
    """

    readout: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.readout = torch.where(self.mask, self.readout.to(self.images), 0.0)

    def _expected(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = super()._expected(image, intensity)
        counts, noise, mask = self.images[image], self.readout[image], self.mask[image]
        # In units of the first guess, sums of weighted pixels; the score is linear in counts.
        factor = torch.ones_like(scale)
        for _ in range(SCALE_STEPS):
            weight = torch.where(mask, mean / (factor * mean + noise).clamp_min(1e-12), 0.0)
            score = ((counts - factor * mean) * weight).sum((-2, -1), keepdim=True)
            information = (mean * weight).sum((-2, -1), keepdim=True).clamp_min(1e-30)
            factor = (factor + score / information).clamp(0.2, 5)
        return mean * factor, scale * factor

    def compare(self, image: Tensor, intensity: Tensor) -> Tensor:
        mean, _ = self._expected(image, intensity)
        noise = self.readout[image].clamp_min(LEAST_NOISE)
        counts, shifted = self.images[image], self.images[image] + noise
        expected = mean + noise
        # Where n + s is negative there is no mean that fits best: its deviance is counted from m = 0.
        reference = torch.where(shifted > 0, shifted, noise)
        unit = torch.where(shifted > 0, mean - counts, mean) - shifted * (expected / reference).log()
        return 2 * (unit * self.mask[image]).sum((-2, -1)) / self.usable[image]

    def residuals(self, image: Tensor, intensity: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self._expected(image, intensity)
        weight = (mean + self.readout[image]).clamp_min(FAINT).rsqrt() * self.mask[image]
        return (mean - self.images[image]) * weight, weight * scale

    def misfit_of(self, image: Tensor, intensity: Tensor, value: Tensor, parameters: int) -> Misfit:
        """The ratio is Pearson's chi square over the degrees of freedom."""
        mean, _ = self._expected(image, intensity)
        mask, noise = self.mask[image], self.readout[image]
        variance = (mean + noise).clamp_min(FAINT)
        square = ((self.images[image] - mean).square() / variance * mask).double().sum((-2, -1))
        # The fourth moment of a Poisson variable of mean m exceeds a normal one's by m.
        scatter = ((2 + mean / variance.square()) * mask).double().sum((-2, -1))
        freedom = (self.usable[image].double() - parameters).clamp_min(1)
        excess = square - freedom
        poor = (square / freedom > POOR_RATIO) & (excess > POOR_SIGMA * scatter.sqrt())
        squares = ((self.images[image] - mean).square() - variance) / (mean + noise).clamp_min(0.25)
        unlike = (squares * mask).double().sum((-2, -1)) / (4 * self._total(image)) > UNLIKE_ROOTS
        return Misfit(square / freedom, poor, unlike, (excess - BY_CHANCE * scatter.sqrt()).clamp_min(0))


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
        measured = self.images[image].clamp_min(0)  # read-out noise may lead below 0
        roots = (measured * usable).sqrt().sum((-2, -1))
        scale = (roots / usable.sum((-2, -1)).clamp_min(1e-30)).square()[:, None, None]
        mean = usable * scale
        # The slope of a root has no bound where the model is dark, so means below FAINT count as FAINT.
        weight = mean.clamp_min(FAINT).rsqrt() * self.mask[image]
        return 2 * (mean.sqrt() - measured.sqrt()), weight * scale

    def misfit_of(self, image: Tensor, intensity: Tensor, value: Tensor, parameters: int) -> Misfit:
        """The ratio is sum (sqrt n - sqrt m)^2 / sum n."""
        ratio = value * self.usable[image] / (4 * self._total(image))
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
        shown, gaps = mask & (measured > 0) & (measured < 1), measured - logs
        for _ in range(3):
            level = logs + shift[:, None, None]
            seen = shown & (level > 0) & (level < 1)
            count = seen.sum((-2, -1))
            gap = torch.where(seen, gaps, 0.0).sum((-2, -1)) / count.clamp_min(1)
            shift = torch.where(count > 0, gap, shift)
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
        variance = deviation.square().sum((-2, -1)) / usable
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
    counter = CountingSimulator(simulator, len(images))
    if images.kind == "counts" and images.readout is not None:
        return NoisyDeviance(images.images, mask, counter, images.readout)
    return OBJECTIVES[images.kind](images.images, mask, counter)
