"""The average of an intensity over a pixel's area, from its values at the centres of pixels."""

import numpy as np
import torch
from torch import Tensor, nn

from icobench.simulator.experiment import Experiment

__all__ = ["PixelAverage"]

REACH = 3
"""Pixels to either side that the average is taken from."""

BAND = 2.4
"""Radians per pixel of the finest fringes. The intensity of a body of radius R has 2 k R times the pitch,
2.33 for 160 nm on the default grid."""


def _kernel() -> np.ndarray:
    """Symmetric weights (2 REACH + 1,) that multiply cos(w x) by sin(w / 2) / (w / 2), for w up to BAND."""
    frequency = np.linspace(0, BAND, 400)
    columns = np.cos(np.outer(frequency, np.arange(REACH + 1))) * ([1] + [2] * REACH)
    # The mean of a constant is kept: the first row counts as much as all others.
    columns[0] *= 1e3
    wanted = np.sinc(frequency / (2 * np.pi))
    wanted[0] *= 1e3
    half = np.linalg.lstsq(columns, wanted, rcond=None)[0]
    return np.concatenate((half[:0:-1], half))


class PixelAverage(nn.Module):
    """Averages (..., H, H) of values (..., H, H); pixels that lack a valid neighbour keep their values."""

    matrix: Tensor
    inner: Tensor

    def __init__(self, experiment: Experiment, dtype: torch.dtype) -> None:
        super().__init__()
        matrix, kernel = np.eye(experiment.pixels), _kernel()
        for row in range(REACH, experiment.pixels - REACH):
            matrix[row, row - REACH : row + REACH + 1] = kernel
        self.register_buffer("matrix", torch.as_tensor(matrix, dtype=dtype), persistent=False)
        self.register_buffer("inner", experiment.inner(REACH), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        return torch.where(self.inner, self.matrix @ values @ self.matrix.T, values)
