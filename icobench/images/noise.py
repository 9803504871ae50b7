"""How noisy stored numbers are: detector units per photon, and read-out noise.

A pixel whose mean is m units has a variance of sigma^2 + g m, with g the gain in units per photon and sigma
the read-out noise. Where a model is off by a share of the mean, residuals have c m^2 on top: the three are
told apart by how they grow with m.
"""

import numpy as np

__all__ = ["neighbour_noise", "noise_of", "readout_noise"]

BINS = 24
"""Of the means, each with as many pixels."""

ITERATIONS = 6
"""Of the weights, which depend on the result."""

KERNEL = np.array([1.0, -3.0, 3.0, -1.0])
"""Third differences of neighbours: fringes wider than some five pixels vanish."""

NORMAL_MAD = 0.6744897501960817
"""Median of the absolute value of a standard normal variable."""


def noise_of(mean: np.ndarray, square: np.ndarray) -> tuple[float, float]:
    """Gain and read-out noise of pixels (n,) with these means and squared residuals, in stored units.

    Reweighted least squares on the averages of bins of like means, with no negative term.

    Example:
        >>> mean = np.random.default_rng(0).uniform(0, 50, 20_000)
        >>> values = 4.0 * np.random.default_rng(1).poisson(mean)
        >>> gain, readout = noise_of(4 * mean, (values - 4 * mean) ** 2)
        >>> round(gain, 1), readout < 2
        (4.0, True)
    """
    from scipy.optimize import nnls

    order = np.argsort(mean)
    bins = [part for part in np.array_split(order, BINS) if part.size]
    pixels = np.array([part.size for part in bins], dtype=float)
    level = np.maximum([mean[part].mean() for part in bins], 1e-30)
    measured = np.array([square[part].mean() for part in bins])
    terms = np.stack((np.ones_like(level), level, level**2), 1)
    gain = float(square.sum() / max(mean.sum(), 1e-30))
    readout_square, expected = 0.0, gain * level
    for _ in range(ITERATIONS):
        expected = np.maximum(expected, 1e-30)
        # The square of a Poisson residual scatters by 2 + g / m times its mean, where few photons are.
        weight = np.sqrt(pixels / (2 + gain * level / expected * gain / level)) / expected
        size = np.maximum((terms * weight[:, None]).max(0), 1e-30)
        solution, _ = nnls(terms * weight[:, None] / size, measured * weight)
        readout_square, gain, _ = (float(value) for value in solution / size)
        expected = terms @ (solution / size)
    return gain, float(np.sqrt(readout_square))


def neighbour_noise(image: np.ndarray, usable: np.ndarray) -> tuple[float, float]:
    """Gain and read-out noise of one image (H, W), from differences of neighbouring usable pixels."""
    values = image.astype(np.float64)
    means, squares = [], []
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(values, 4, axis)
        inside = np.lib.stride_tricks.sliding_window_view(usable, 4, axis).all(-1)
        chosen = windows[inside]
        means.append(chosen.mean(-1))
        squares.append((chosen @ KERNEL) ** 2 / (KERNEL**2).sum())
    mean, square = np.concatenate(means), np.concatenate(squares)
    if mean.size <= BINS:
        return 0.0, 0.0
    gain, readout = noise_of(mean, square)
    if gain == 0 and mean.mean() > 0:  # few photons in noise: what their hits add to it
        gain = max(0.0, float((square.mean() - readout_noise(values[usable]) ** 2) / mean.mean()))
    return gain, readout


def readout_noise(values: np.ndarray) -> float:
    """Standard deviation of the read-out noise in stored units, from the negative pixels among (n,).

    Pixels without a photon are as often below as above 0; 0 where none is negative.
    """
    negative = values[values < 0]
    return float(np.median(-negative) / NORMAL_MAD) if negative.size else 0.0
