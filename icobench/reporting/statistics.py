"""What a comparison's numbers are worth: bootstrap intervals, paired tests, efficiency.

Everything is paired by image: methods saw the same images, and images differ more than methods do.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Interval", "bootstrap", "efficiency", "holm", "paired_tests", "resampled", "wide"]

RESAMPLES = 2000
LEVEL = 0.95

Statistic = Callable[[np.ndarray], np.ndarray]
"""From (R, N) or (N,) values to (R,) or a number, along the last axis."""


class Interval(NamedTuple):
    """An estimate and its bootstrap interval.

    Attributes:
        value: of the sample itself.
        low, high: ends of the interval.
    """

    value: float
    low: float
    high: float


def resampled(count: int, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Indices (R, N) of N images drawn with replacement, the same for every statistic of one seed."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(9,))).integers(
        count, size=(resamples, count)
    )


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
        drawn = np.sort(statistic(values[resampled(len(values), seed)]))
        estimate = float(statistic(values))
    # An order statistic: an interpolated one would be NaN beside infinity.
    last = len(drawn) - 1
    low, high = (drawn[round(part * last)] for part in ((1 - level) / 2, (1 + level) / 2))
    return Interval(estimate, float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """Step-down adjusted p values, in the given order (S. Holm, Scand. J. Stat. 6, 65, 1979)."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(order))
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = largest
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
        results: one row per image and method.
        pairs: methods to compare, first against second.
        column: which error.
        seed: of the bootstrap.

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
        both = table[[first, second]].to_numpy()
        both = both[np.isfinite(both).all(1)]
        logs = np.log(np.maximum(both, 1e-12))
        change = logs[:, 0] - logs[:, 1]
        p, ratio = 1.0, Interval(np.nan, np.nan, np.nan)
        if len(change):
            ratio = Interval(*np.exp(bootstrap(change, lambda x: np.median(x, axis=-1), seed)))
        if np.any(change != 0):
            p = float(wilcoxon(change).pvalue)
        rows.append(
            {
                "first": first, "second": second, "images": len(both), "ratio": ratio.value,
                "ratio_low": ratio.low, "ratio_high": ratio.high, "p": p,
            }
        )  # fmt: skip
    found = pd.DataFrame(rows, columns=["first", "second", "images", "ratio", "ratio_low", "ratio_high", "p"])
    found["p_holm"] = holm(found["p"].tolist())
    return found


def efficiency(results: "DataFrame", seed: int = 0) -> "DataFrame":
    """Root mean square Cramer-Rao bound over root mean square error, squared: 1 is all the photons tell.

    Args:
        results: one row per image and method, with the bounds.
        seed: of the bootstrap.

    Returns:
        method, quantity ("orientation" or "radius"), efficiency, low, high; nothing for images without
        a bound.
    """
    import pandas as pd

    rows = []
    for method, own in results.groupby("method", sort=False):
        for quantity, error, bound in (
            ("orientation", "disorientation_deg", "bound_orientation_deg"),
            ("radius", "radius_error_nm", "bound_radius_nm"),
        ):
            known = own[own[bound].notna()]
            if not len(known):
                continue
            errors = known[error].fillna(np.inf).to_numpy(dtype=float) ** 2
            bounds = known[bound].to_numpy(dtype=float) ** 2

            def ratio(
                index: np.ndarray, errors: np.ndarray = errors, bounds: np.ndarray = bounds
            ) -> np.ndarray:
                place = index.astype(int)
                return bounds[place].mean(-1) / errors[place].mean(-1)

            found = bootstrap(np.arange(len(known)), ratio, seed)
            rows.append(
                {
                    "method": method,
                    "quantity": quantity,
                    "efficiency": found.value,
                    "low": found.low,
                    "high": found.high,
                }
            )
    return pd.DataFrame(rows, columns=["method", "quantity", "efficiency", "low", "high"])
