"""Quantiles of errors, intervals, paired tests, efficiency, and what it costs to reach a target.

Everything is paired by image: all methods saw the same images, and images differ more than methods do.
Throughout, ``results`` is the table of a run, one row per image and method, as in ``results.parquet``,
and ``curves`` has one row per method, image and step of a fit.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from icobench.answer import solved
from icobench.geometry.orientation import disorientation
from icobench.seeds import Purpose, random_generator

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "ANSWER", "TARGETS", "Interval", "bootstrap", "differences", "efficiency", "error_quantile",
    "expected_running_time", "first_hits", "holm", "median", "paired_test", "resampled", "success_interval",
]  # fmt: skip

RESAMPLES = 2000
LEVEL = 0.95

TARGETS = tuple((angle, radius) for angle in (10.0, 3.0, 1.0, 0.3, 0.1) for radius in (3.0, 1.0, 0.3, 0.1))
"""Degrees and nanometres; both errors must be at most these."""

ANSWER = ["radius_nm", "q_w", "q_x", "q_y", "q_z"]
"""Columns of an answer."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""From (R, N) or (N,) values to (R,) or a number, along the last axis."""

median: Statistic = partial(np.median, axis=-1)


class Interval(NamedTuple):
    """The estimate from the sample itself, and the ends of its interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of_draws(cls, value: float, draws: np.ndarray) -> "Interval":
        """The percentile interval of bootstrap draws (R,), ends included."""
        # An order statistic: an interpolated one would be NaN beside infinity.
        ordered, last = np.sort(draws), len(draws) - 1
        low, high = (float(ordered[round(part * last)]) for part in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return cls(float(value), low, high)


def error_quantile(values: np.ndarray, fraction: float) -> Any:
    """Linearly interpolated quantile along the last axis: (..., N) -> (...), a number for (N,).

    A missing answer (NaN) counts as infinitely wrong, so that a failed image cannot improve the quantile,
    which may then be infinite. NaN for N = 0.
    """
    values = np.asarray(values, dtype=float)
    if values.shape[-1] == 0:
        return np.full(values.shape[:-1], np.nan)[()]
    ordered = np.sort(np.where(np.isnan(values), np.inf, values), axis=-1)
    position = fraction * (ordered.shape[-1] - 1)
    lower, upper = ordered[..., math.floor(position)], ordered[..., math.ceil(position)]
    with np.errstate(invalid="ignore"):
        return np.where(lower == upper, lower, lower + (upper - lower) * (position % 1))[()]


def success_interval(successes: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a success rate (E. B. Wilson, JASA 22, 209, 1927), as fractions."""
    from scipy.stats import binomtest

    interval = binomtest(int(successes), int(images)).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def resampled(count: int, seed: int = 0) -> np.ndarray:
    """Indices (R, N) of N images drawn with replacement, the same for every statistic of one seed."""
    return random_generator(seed, Purpose.BOOTSTRAP).integers(count, size=(RESAMPLES, count))


def bootstrap(values: np.ndarray, statistic: Statistic, seed: int = 0) -> Interval:
    """Percentile bootstrap over images (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).

    Infinite values (N,), errors of images without an answer, are allowed: an interval may end at infinity.

    Raises:
        ValueError: no values.
    """
    values = np.asarray(values, dtype=float)
    if not len(values):
        raise ValueError("no images to take an interval over")
    with np.errstate(invalid="ignore"):
        draws = statistic(values[resampled(len(values), seed)])
        return Interval.of_draws(float(statistic(values)), draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Step-down adjusted p values, in the given order (S. Holm, Scand. J. Stat. 6, 65, 1979)."""
    import pandas as pd

    ordered = pd.Series(p_values, dtype=float).sort_values(kind="stable")
    raised = ordered * np.arange(len(ordered), 0, -1)
    return raised.clip(upper=1.0).cummax().sort_index().tolist()


def paired_test(results: "DataFrame", first: str, second: str) -> tuple[int, Interval, float]:
    """Wilcoxon's signed-rank test of two methods' disorientations on the images that both answered.

    Returns:
        number of these images, median ratio of the first method's error to the second's, and the p value of
        the test on its logarithm.
    """
    from scipy.stats import wilcoxon

    table = results.pivot(index="image", columns="method", values="disorientation_deg")
    errors = table[[first, second]].to_numpy(dtype=float)
    logarithms = np.log(np.maximum(errors[np.isfinite(errors).all(1)], 1e-12))
    change = logarithms[:, 0] - logarithms[:, 1]
    ratio = np.exp(bootstrap(change, median)) if len(change) else np.full(3, np.nan)
    p = float(wilcoxon(change).pvalue) if np.any(change != 0) else 1.0
    return len(change), Interval(*ratio), p


def efficiency(answers: "DataFrame", error: str, bound: str) -> Interval | None:
    """Mean squared Cramer-Rao bound over mean squared error: 1 for a method that uses all information.

    ``answers`` are the results of one method, ``error`` and ``bound`` columns. None where there is no bound.
    """
    bounded = answers[answers[bound].notna()]
    if not len(bounded):
        return None
    errors = bounded[error].fillna(np.inf).to_numpy(dtype=float) ** 2
    bounds = bounded[bound].to_numpy(dtype=float) ** 2
    index = resampled(len(bounded))
    draws = bounds[index].mean(-1) / errors[index].mean(-1)
    return Interval.of_draws(bounds.mean() / errors.mean(), draws)


def first_hits(
    curves: "DataFrame", results: "DataFrame", method: str, targets: tuple = TARGETS
) -> tuple[np.ndarray, np.ndarray]:
    """When a method first met each target, and what it spent in all.

    After the COCO platform (Hansen et al., Optim. Methods Softw. 36, 114, 2021): a pair of image and target
    is solved when an estimate first meets the target. The final answer is reached at the image's whole cost.

    Returns:
        evaluations (images, targets), infinite where a target was never met; total evaluations (images,).
    """
    answers = results[results["method"] == method].sort_values("image")
    total = answers["evaluations"].to_numpy(dtype=float)
    limits = np.array(targets)
    rows = {image: row for row, image in enumerate(answers["image"])}
    hits = np.full((len(answers), len(limits)), np.inf)
    steps = curves[(curves["method"] == method) & curves["image"].isin(rows)]
    for table in (steps, answers):
        errors = table[["disorientation_deg", "radius_error_nm"]].to_numpy(dtype=float)
        met = (errors[:, None] <= limits).all(-1)
        spent = table["evaluations"].to_numpy(dtype=float)[:, None]
        np.minimum.at(hits, table["image"].map(rows).to_numpy(dtype=int), np.where(met, spent, np.inf))
    return hits, total


def expected_running_time(hits: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Expected evaluations to a target if runs are repeated until one meets it: (targets,).

    All evaluations spent, up to the hit or to the end, over the number of images solved; infinite
    where none was (Price, CEC 1997; Auger and Hansen, CEC 2005). Arguments are from :func:`first_hits`.
    """
    met = np.isfinite(hits)
    spent = np.where(met, hits, total[:, None]).sum(0)
    images_solved = met.sum(0)
    return np.where(images_solved > 0, spent / np.maximum(images_solved, 1), np.inf)


def differences(results: "DataFrame") -> "DataFrame":
    """The results with each answer's distance from the image's answer with the lowest objective.

    Returns:
        the same rows with ``angle_deg``, ``size_nm`` and ``agrees`` (within 1 degree and 1 nm); distances are
        infinite for an image without an answer, NaN for images that no method has an objective for.
    """
    judged = results[results["objective"].notna() & results[ANSWER].notna().all(axis=1)]
    best = judged.loc[judged.groupby("image")["objective"].idxmin(), ["image", *ANSWER]]
    joined = results.merge(best, on="image", how="left", suffixes=("", "_best"), validate="many_to_one")
    answer, reference = (
        torch.tensor(joined[[f"{name}{end}" for name in ANSWER]].to_numpy(dtype=float))
        for end in ("", "_best")
    )
    answered, compared = torch.isfinite(answer).all(1), torch.isfinite(reference).all(1)
    angle = torch.full((len(answer),), torch.nan, dtype=torch.float64)
    both = answered & compared
    angle[both] = disorientation(answer[both, 1:], reference[both, 1:])
    size = (answer[:, 0] - reference[:, 0]).abs()
    angle[~answered & compared] = size[~answered & compared] = torch.inf
    agrees = solved(angle, size)
    return joined.assign(angle_deg=angle.numpy(), size_nm=size.numpy(), agrees=agrees.numpy())
