"""Goodness of fit: which misfit says that a body does not explain an image, and what photon noise causes."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import poisson
from torch import Tensor

from icobench.simulator.experiment import Experiment

__all__ = ["Misfit", "deviance_moments", "ring_averages"]

POOR_RATIO = 1.15
"""A fit is poor whose deviance per degree of freedom is beyond this multiple of the Poisson expectation.
``reports/fitters.py`` measures what it lets pass: at 1e5 photons all icosahedra and no other shape; of two
particles those where one outshines the other."""

POOR_SIGMA = 6.0
"""And beyond so many standard deviations of that expectation: the deviance of faint images scatters."""

POOR_ROOTS = 1e-3
"""For noise-free intensities: sum (sqrt n - sqrt m)^2 over sum n."""

POOR_LOG_RMS = 0.05
"""For log images: root mean square difference."""

POOR_RINGS = 0.5
"""For other objectives: the value over that of the fitted pattern's averages around the beam. At 1e5 photons
the deviance of the right body has 0.04 to 0.44, that of an orientation 20 degrees off 0.6 to 1.1."""

UNLIKE_ROOTS = 0.1
"""Sum (sqrt n - sqrt m)^2 over sum n, less what noise adds, from which an image is not even roughly that of
the fitted body, whatever the photon number."""

UNLIKE_LOG_SHARE = 0.6
"""For log images: mean square difference over the image's own variance, of which photon noise alone makes
a good part."""

UNLIKE_RINGS = 0.9
"""For other objectives, as for :data:`POOR_RINGS`."""


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


def ring_averages(intensity: Tensor, experiment: Experiment) -> Tensor:
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
