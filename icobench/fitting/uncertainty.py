"""Cramer-Rao bound and goodness of fit at a solution."""

from functools import lru_cache

import numpy as np
import torch
from scipy.stats import poisson
from torch import Tensor

from icobench.fitting.levenberg_marquardt import normal_equations
from icobench.fitting.objectives import Objective, PoissonDeviance

__all__ = ["cramer_rao", "expected_deviance", "poor_fit"]

POOR_DEVIANCE_RATIO = 1.5
"""A fit whose deviance exceeds the Poisson expectation by this factor is called poor."""

POOR_LOG_RMS = 0.05
"""The same for log images, as root mean square difference."""


def cramer_rao(objective: Objective, radius_nm: Tensor, quaternion: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations of radius (nm) and orientation (degrees), each (N,).

    From the Fisher information J^T diag(1 / mu) J with the intensity scale as a nuisance parameter.
    The orientation's is the root of the trace of its 3 x 3 covariance: the root mean square angle. For log
    images the residuals' own variance stands for the unknown noise.
    """
    device = objective.simulator.device
    image = torch.arange(len(radius_nm), device=device)
    matrix, _, squares = normal_equations(objective, image, radius_nm.to(device), quaternion.to(device))
    # Scaled to unit diagonal first: radians, nanometres and a logarithm differ by orders.
    size = matrix.diagonal(dim1=1, dim2=2).clamp_min(1e-300).sqrt()
    scaled = matrix / (size[:, :, None] * size[:, None, :])
    covariance = torch.linalg.pinv(scaled, hermitian=True) / (size[:, :, None] * size[:, None, :])
    if not isinstance(objective, PoissonDeviance):
        freedom = (objective.usable - 5).clamp_min(1)
        covariance = covariance * (squares / freedom)[:, None, None]
    variance = covariance.diagonal(dim1=1, dim2=2).clamp_min(0)
    turn = torch.rad2deg(variance[:, :3].sum(1).sqrt())
    return variance[:, 3].sqrt().cpu(), turn.cpu()


@lru_cache(maxsize=1)
def _deviance_table() -> tuple[np.ndarray, np.ndarray]:
    """log10 of the mean and the expected unit deviance 2 [n log(n / m) - n + m]."""
    grid = np.linspace(-4, 3, 141)
    expected = []
    for mean in 10**grid:
        n = np.arange(int(mean + 12 * np.sqrt(mean) + 20))
        with np.errstate(divide="ignore", invalid="ignore"):
            unit = 2 * (np.where(n > 0, n * np.log(n / mean), 0.0) - n + mean)
        expected.append(float((poisson.pmf(n, mean) * unit).sum()))
    return grid, np.array(expected)


def expected_deviance(mean: Tensor) -> Tensor:
    """Expected Poisson deviance of a pixel with the given mean, elementwise; 1 for bright pixels."""
    grid, expected = _deviance_table()
    logs = np.log10(np.maximum(mean.detach().cpu().double().numpy(), 1e-12))
    value = np.interp(logs, grid, expected)
    # Below the table the deviance of an almost always empty pixel: 2 m log(1 / m) + ...
    faint = logs < grid[0]
    value = np.where(faint, expected[0] * 10 ** (logs - grid[0]), value)
    return torch.as_tensor(value, dtype=torch.float64)


def poor_fit(
    objective: Objective, radius_nm: Tensor, quaternion: Tensor, image: Tensor | None = None
) -> Tensor:
    """True where the fit does not explain the image: (N,) bool. One evaluation per image.

    Args:
        objective: images, masks and counting simulator.
        radius_nm: (N,).
        quaternion: (N, 4).
        image: (N,) indices of the objective's images, all by default.
    """
    device = objective.simulator.device
    image = torch.arange(len(radius_nm)) if image is None else image
    image = image.to(device)
    if not len(image):
        return torch.zeros(0, dtype=torch.bool)
    intensity = objective.simulator.intensity(image, radius_nm.to(device), quaternion.to(device))
    value = objective.compare(image, intensity).double().cpu()
    if not isinstance(objective, PoissonDeviance):
        return value.sqrt() > POOR_LOG_RMS
    mean = objective.mean(image, intensity)
    expected = expected_deviance(mean) * objective.mask[image].cpu()
    return value > POOR_DEVIANCE_RATIO * expected.sum((-2, -1)) / objective.usable[image].cpu()
