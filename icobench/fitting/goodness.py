"""Goodness of fit: does a body of this kind explain the image at all?"""

from functools import lru_cache

import numpy as np
import torch
from scipy.stats import poisson
from torch import Tensor

from icobench.fitting.nuisance import Nuisance
from icobench.fitting.objectives import LogImageError, Objective, PoissonDeviance, SquareRootError

__all__ = ["deviance_moments", "misfit", "poor_fit", "unlike"]

POOR_RATIO = 1.15
"""A fit is poor whose deviance per degree of freedom is beyond this multiple of the Poisson expectation.
``reports/fitters.py`` measures what it lets pass: at 1e5 photons all icosahedra and no other shape; of two
particles those where one outshines the other."""

POOR_SIGMA = 6.0
"""And beyond so many standard deviations of that expectation: faint images scatter."""

POOR_ROOTS = 1e-3
"""For noise-free intensities: sum (sqrt n - sqrt m)^2 over sum n."""

POOR_LOG_RMS = 0.05
"""For log images: root mean square difference."""

UNLIKE_ROOTS = 0.1
"""Sum (sqrt n - sqrt m)^2 over sum n, less what noise adds, from which an image is not even roughly that of
the fitted body, whatever the photon number."""

UNLIKE_LOG_SHARE = 0.6
"""For log images: mean square difference over the image's own variance, of which photon noise alone makes
a good part."""


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


def deviance_moments(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the Poisson deviance of a pixel with the given mean, elementwise.

    1 and 2 for bright pixels (chi square with one degree of freedom), 2 m log(1 / m) and less for faint ones.
    """
    grid, *tables = _deviance_table()
    logs = np.log10(np.maximum(mean.detach().cpu().double().numpy(), 1e-12))
    faint = 10 ** np.minimum(logs - grid[0], 0)
    first, second = (torch.as_tensor(np.interp(logs, grid, table) * faint) for table in tables)
    return first, second


def _judged(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    image: Tensor | None = None,
    nuisance: Nuisance | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Ratio, poor and unlike, (N,) each: as :func:`misfit` and :func:`unlike` say."""
    device = objective.simulator.device
    image = torch.arange(len(radius_nm)) if image is None else image
    image = image.to(device)
    if not len(image):
        nothing = torch.zeros(0, dtype=torch.bool)
        return torch.zeros(0, dtype=torch.float64), nothing, nothing
    if nuisance is not None:
        nuisance = Nuisance(nuisance.names, nuisance.values.to(device))
    intensity = objective.model(image, radius_nm.to(device), quaternion.to(device), nuisance)
    value = objective.compare(image, intensity).double().cpu()
    total = objective.images[image].double().sum((-2, -1)).cpu().clamp_min(1e-30)
    if isinstance(objective, PoissonDeviance):
        mask = objective.mask[image].cpu()
        expected, variance = deviance_moments(objective.mean(image, intensity))
        expected, variance = ((part * mask).sum((-2, -1)) for part in (expected, variance))
        fitted = 5 + (0 if nuisance is None else nuisance.values.shape[1])
        expected = (expected - fitted).clamp_min(1)
        deviance = value * objective.usable[image].cpu()
        ratio = deviance / expected
        fine = (ratio <= POOR_RATIO) | (deviance - expected <= POOR_SIGMA * variance.sqrt())
        # A deviance is four times the squares of roots.
        alike = (deviance - expected) / (4 * total) <= UNLIKE_ROOTS
    elif isinstance(objective, SquareRootError):
        ratio = value * objective.usable[image].cpu() / (4 * total)
        fine, alike = ratio <= POOR_ROOTS, ratio <= UNLIKE_ROOTS
    elif isinstance(objective, LogImageError):
        ratio = value.sqrt()
        fine = ratio <= POOR_LOG_RMS
        alike = value <= UNLIKE_LOG_SHARE * _variance(objective, image)
    else:
        raise TypeError(f"no goodness of fit for {type(objective).__name__}")
    return ratio, ~(fine & ratio.isfinite()), ~(alike & ratio.isfinite())


def _variance(objective: Objective, image: Tensor) -> Tensor:
    """Of an image's usable pixels: (N,)."""
    mask, pixels = objective.mask[image], objective.images[image].double()
    usable = objective.usable[image]
    mean = pixels.sum((-2, -1)) / usable
    return (((pixels - mean[:, None, None]) * mask).square().sum((-2, -1)) / usable).cpu()


def misfit(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    image: Tensor | None = None,
    nuisance: Nuisance | None = None,
) -> tuple[Tensor, Tensor]:
    """How much worse a fit is than noise alone: ratio (N,) and whether that is poor (N,) bool.

    The ratio is, for the Poisson deviance, that over its expectation at the fitted means, less a degree
    of freedom for every fitted parameter; for square roots sum (sqrt n - sqrt m)^2 / sum n; for log images
    the root mean square difference. Not finite means poor. One evaluation per image.

    Args:
        objective: images, masks and counting simulator.
        radius_nm: (N,).
        quaternion: (N, 4).
        image: (N,) indices of the objective's images, all by default.
        nuisance: (N, P) fitted along.
    """
    return _judged(objective, radius_nm, quaternion, image, nuisance)[:2]


def poor_fit(
    objective: Objective,
    radius_nm: Tensor,
    quaternion: Tensor,
    image: Tensor | None = None,
    nuisance: Nuisance | None = None,
) -> Tensor:
    """True where the fit does not explain the image: (N,) bool; arguments as for :func:`misfit`."""
    return misfit(objective, radius_nm, quaternion, image, nuisance)[1]


def unlike(objective: Objective, radius_nm: Tensor, quaternion: Tensor) -> Tensor:
    """True where an image is not even roughly that of the fitted body: (N,) bool.

    Another simulator's images of the same body are poor fits, but alike. Arguments as for :func:`misfit`.
    """
    return _judged(objective, radius_nm, quaternion)[2]
