"""Quantiles of errors, and intervals of success rates."""

import math

import numpy as np

__all__ = ["error_quantile", "success_interval"]


def error_quantile(values: np.ndarray, fraction: float) -> np.ndarray:
    """Linearly interpolated quantile along the first axis: (N, ...) -> (...).

    A method that gave no answer (NaN) counts as infinitely wrong, so a failed image cannot improve
    the figure; the quantile may then be infinite. NaN for N = 0.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        return np.full(values.shape[1:], np.nan)
    ordered = np.sort(np.where(np.isnan(values), np.inf, values), axis=0)
    position = fraction * (len(ordered) - 1)
    low = math.floor(position)
    lower, upper = ordered[low], ordered[min(low + 1, len(ordered) - 1)]
    if position == low:
        return lower
    with np.errstate(invalid="ignore"):
        return np.where(lower == upper, lower, lower + (upper - lower) * (position - low))


def success_interval(successes: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a success rate (E. B. Wilson, JASA 22, 209, 1927), as fractions."""
    if images == 0:
        return 0.0, 1.0
    z = 1.959964
    rate = successes / images
    middle = rate + z**2 / (2 * images)
    spread = z * math.sqrt(rate * (1 - rate) / images + (z / (2 * images)) ** 2)
    scale = 1 + z**2 / images
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
