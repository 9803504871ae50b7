"""The average of an intensity over a pixel's area, from its values at the centres of pixels."""

import numpy as np
import torch
from torch import Tensor

__all__ = ["average_over_pixels", "averaged_pixels", "averaging_matrix"]

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


def averaging_matrix(pixels: int, dtype: torch.dtype) -> Tensor:
    """Averages along one axis: (pixels, pixels); the identity at the edges, where neighbours are missing."""
    matrix = np.eye(pixels)
    for row in range(REACH, pixels - REACH):
        matrix[row, row - REACH : row + REACH + 1] = _kernel()
    return torch.as_tensor(matrix, dtype=dtype)


def averaged_pixels(valid: Tensor) -> Tensor:
    """Pixels around which all values that enter are there and valid: (H, H) bool from (H, H) bool."""
    missing = torch.nn.functional.pad((~valid).float(), (REACH,) * 4, value=1.0)
    return torch.nn.functional.max_pool2d(missing[None], 2 * REACH + 1, stride=1)[0] == 0


def average_over_pixels(values: Tensor, matrix: Tensor, inner: Tensor) -> Tensor:
    """Averages (..., H, H) of values (..., H, H).

    Args:
        values: at the pixels' centres.
        matrix: (H, H) from :func:`averaging_matrix`.
        inner: (H, H) from :func:`averaged_pixels`; other pixels keep their values.
    """
    return torch.where(inner, matrix @ values @ matrix.T, values)
