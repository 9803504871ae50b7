"""Quantiles of errors, intervals, paired tests and efficiency.

Everything is paired by image: all methods saw the same images, and images differ more than methods do.
Throughout, ``results`` is the table of a run, one row per image and method, as in ``results.parquet``, and
``seed`` is that of the bootstrap.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from icobench.seeds import Purpose, random_generator

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "Interval", "bootstrap", "efficiency", "error_quantile", "holm", "median", "paired_tests", "resampled",
    "success_interval", "wide",
]  # fmt: skip

RESAMPLES = 2000
LEVEL = 0.95

Statistic = Callable[[np.ndarray], np.ndarray]
"""From (R, N) or (N,) values to (R,) or a number, along the last axis."""

median: Statistic = partial(np.median, axis=-1)


class Interval(NamedTuple):
    """An estimate and its interval.

    Attributes:
        value: of the sample itself.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of_draws(cls, value: float, draws: np.ndarray, level: float = LEVEL) -> "Interval":
        """The percentile interval of bootstrap draws (R,), ends included."""
        # An order statistic: an interpolated one would be NaN beside infinity.
        ordered, last = np.sort(draws), len(draws) - 1
        low, high = (float(ordered[round(part * last)]) for part in ((1 - level) / 2, (1 + level) / 2))
        return cls(float(value), low, high)


def error_quantile(values: np.ndarray, fraction: float) -> np.ndarray:
    """Linearly interpolated quantile along the first axis: (N, ...) -> (...).

    A missing answer (NaN) counts as infinitely wrong, so that a failed image cannot improve the quantile,
    which may then be infinite. NaN for N = 0.
    """
    values = np.asarray(values, dtype=float)
    if len(values) == 0:
        return np.full(values.shape[1:], np.nan)
    ordered = np.sort(np.where(np.isnan(values), np.inf, values), axis=0)
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    lower, upper = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
    if position == below:
        return lower
    with np.errstate(invalid="ignore"):
        return np.where(lower == upper, lower, lower + (upper - lower) * (position - below))


def success_interval(successes: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a success rate (E. B. Wilson, JASA 22, 209, 1927), as fractions."""
    from scipy.stats import binomtest

    if images == 0:
        return 0.0, 1.0
    interval = binomtest(int(successes), images).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def resampled(count: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Indices (R, N) of N images drawn with replacement, the same for every statistic of one seed."""
    return random_generator(seed, Purpose.BOOTSTRAP).integers(count, size=(resamples, count))


def bootstrap(values: np.ndarray, statistic: Statistic, seed: int = 0, level: float = LEVEL) -> Interval:
    """Percentile bootstrap over images (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

    Infinite values, errors of images without an answer, are allowed: an interval may end at infinity.

    Args:
        values: (N,), one per image.
        statistic: along the last axis.
        seed: of the resampling.
        level: of the interval.

    Raises:
        ValueError: no values.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        raise ValueError("no images to take an interval over")
    with np.errstate(invalid="ignore"):
        draws = statistic(values[resampled(len(values), seed)])
        return Interval.of_draws(float(statistic(values)), draws, level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Step-down adjusted p values, in the given order (S. Holm, Scand. J. Stat. 6, 65, 1979)."""
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values, kind="stable")
    raised = np.minimum(1.0, p_values[order] * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(raised)
    return adjusted.tolist()


def wide(results: "DataFrame", column: str) -> "DataFrame":
    """One row per image, one column per method in order of appearance; a missing answer is infinite."""
    methods = list(dict.fromkeys(results["method"]))
    table = results.pivot(index="image", columns="method", values=column)[methods].astype(float)
    return table.fillna(np.inf)


def paired_tests(
    results: "DataFrame", pairs: Sequence[tuple[str, str]], column: str = "disorientation_deg", seed: int = 0
) -> "DataFrame":
    """Wilcoxon signed-rank tests of the errors' logarithms, with Holm's correction over the pairs.

    Args:
        results, seed: see above.
        pairs: methods to compare, first against second.
        column: which error.

    Returns:
        first, second, images, ratio (median over images of first error / second error), ratio_low,
        ratio_high, p, p_holm. Images without both answers are left out.

    Raises:
        KeyError: a method that is not among the results.
    """
    import pandas as pd
    from scipy.stats import wilcoxon

    table = wide(results, column)
    rows = []
    for first, second in pairs:
        errors = table[[first, second]].to_numpy()
        errors = errors[np.isfinite(errors).all(1)]
        logarithms = np.log(np.maximum(errors, 1e-12))
        change = logarithms[:, 0] - logarithms[:, 1]
        ratio = np.exp(bootstrap(change, median, seed)) if len(change) else np.full(3, np.nan)
        p = float(wilcoxon(change).pvalue) if np.any(change != 0) else 1.0
        rows.append((first, second, len(errors), *ratio, p))
    columns = ["first", "second", "images", "ratio", "ratio_low", "ratio_high", "p"]
    tests = pd.DataFrame(rows, columns=columns)
    return tests.assign(p_holm=holm(tests["p"].tolist()))


def efficiency(results: "DataFrame", seed: int = 0) -> "DataFrame":
    """Mean squared Cramer-Rao bound over mean squared error: 1 for a method that uses all information.

    Returns:
        method, quantity ("orientation" or "radius"), efficiency, low, high; no rows where there is no bound.
    """
    import pandas as pd

    rows = []
    for method, answers in results.groupby("method", sort=False):
        for quantity, error, bound in (
            ("orientation", "disorientation_deg", "bound_orientation_deg"),
            ("radius", "radius_error_nm", "bound_radius_nm"),
        ):
            bounded = answers[answers[bound].notna()]
            if not len(bounded):
                continue
            errors = bounded[error].fillna(np.inf).to_numpy(dtype=float) ** 2
            bounds = bounded[bound].to_numpy(dtype=float) ** 2
            index = resampled(len(bounded), seed)
            draws = bounds[index].mean(-1) / errors[index].mean(-1)
            rows.append((method, quantity, *Interval.of_draws(bounds.mean() / errors.mean(), draws)))
    return pd.DataFrame(rows, columns=["method", "quantity", "efficiency", "low", "high"])
