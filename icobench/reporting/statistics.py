"""Quantiles of errors, intervals, tests of pairs, the photon limit, and what it costs to reach a target.

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
from icobench.geometry.shapes import SHAPES
from icobench.seeds import Purpose, random_generator

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "ANSWER", "BOTH_ERRORS", "FEWEST", "SIGNIFICANT", "TARGETS", "AsAccurate", "Equivalence", "Interval",
    "as_accurate", "bootstrap", "differences", "efficiency", "equivalence", "error_quantile",
    "expected_running_time", "first_hits", "holm", "log_ratios", "median", "median_ratio", "paired_test",
    "resampled", "rms_over_bound", "success_interval",
]  # fmt: skip

RESAMPLES = 2000
LEVEL, SIGNIFICANT = 0.95, 0.05

MARGIN = 1.1
"""Methods are as accurate as each other if the mean ratio of their errors is below this, either way round."""

FEWEST = 30
"""Images without which nothing is called as accurate."""

BOTH_ERRORS = ("disorientation_deg", "radius_error_nm")
"""Columns of the two errors that a method is judged by."""

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


def log_ratios(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Logarithm of the ratios of two methods' errors (N,) on the same images.

    A missing error counts as infinite: the ratio is infinite where the first method has no answer, 0 where
    the second has none, and NaN where neither has or both errors are 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        top, bottom = (np.log(np.where(np.isnan(errors), np.inf, errors)) for errors in (first, second))
        return top - bottom


def median_ratio(change: np.ndarray) -> Interval:
    """The median of ratios with its interval, from their logarithms (N,), of which NaN is a tie."""
    return Interval(*np.exp(bootstrap(np.where(np.isnan(change), 0.0, change), median)).tolist())


def _paired(results: "DataFrame", first: str, second: str, error: str) -> np.ndarray:
    """The logarithmic ratios of two methods on every image of the results."""
    table = results.pivot(index="image", columns="method", values=error)
    return log_ratios(*table[[first, second]].to_numpy(dtype=float).T)


def paired_test(
    results: "DataFrame", first: str, second: str, error: str = BOTH_ERRORS[0]
) -> tuple[int, Interval, float]:
    """Wilcoxon's signed-rank test of whether two methods' errors differ.

    An image that one method left unanswered has the highest rank against it; one that both did is a tie.

    Returns:
        number of images, median ratio of the first method's error to the second's with its bootstrap interval
        of 95 %, and the p value of the test on its logarithm.
    """
    from scipy.stats import wilcoxon

    change = _paired(results, first, second, error)
    ranked = change[~np.isnan(change)]
    p = float(wilcoxon(ranked).pvalue) if np.any(ranked != 0) else 1.0
    return len(change), median_ratio(change), p


class Equivalence(NamedTuple):
    """Whether two methods' errors are the same within 10 %.

    Attributes:
        images: number of them.
        ratio: geometric mean of the first method's errors over the second's, and its interval of 90 %.
        p: of the hypothesis that they are not; at most 0.05 where the interval lies between 1 / 1.1 and 1.1.
    """

    images: int
    ratio: Interval
    p: float

    @property
    def shown(self) -> bool:
        """Whether the errors are shown to be the same."""
        return self.p <= SIGNIFICANT


def equivalence(results: "DataFrame", first: str, second: str, error: str = BOTH_ERRORS[0]) -> Equivalence:
    """Two one-sided t tests on the logarithms of the errors' paired ratios.

    After D. J. Schuirmann, J. Pharmacokinet. Biopharm. 15, 657 (1987): one test rejects that the first
    method's error is larger by 10 % or more, the other that the second's is, and p is the larger of the two.
    It is 1 on fewer than 30 images, and where an image was left unanswered: an infinite error has no mean.
    The mean is tested because a median would not see that a method goes astray now and then.
    """
    from scipy.stats import t

    change = _paired(results, first, second, error)
    images, p, interval = len(change), 1.0, Interval(*[math.nan] * 3)
    if images > 1 and np.isfinite(change).all():
        mean, deviation = change.mean(), max(change.std(ddof=1) / math.sqrt(images), 1e-12)
        half = float(t.ppf(LEVEL, images - 1)) * deviation
        interval = Interval(*np.exp([mean, mean - half, mean + half]).tolist())
        if images >= FEWEST:
            p = float(t.sf((math.log(MARGIN) - abs(mean)) / deviation, images - 1))
    return Equivalence(images, interval, p)


class AsAccurate(NamedTuple):
    """Whether one method is as accurate as another: the test of each error, and the p value of them all."""

    errors: dict[str, Equivalence]
    p: float

    @property
    def shown(self) -> bool:
        """Whether it is shown."""
        return self.p <= SIGNIFICANT


def as_accurate(
    results: "DataFrame", first: str, second: str, errors: Sequence[str] = BOTH_ERRORS
) -> AsAccurate:
    """Whether two methods are as accurate as each other: :func:`equivalence` in every error.

    All tests must pass, so the p value is the largest one. It is 1 where a method solves no image, however
    much the errors are alike.
    """
    tests = {error: equivalence(results, first, second, error) for error in errors}
    solving = results[results["success"]]["method"]
    p = max(test.p for test in tests.values()) if {first, second} <= set(solving) else 1.0
    return AsAccurate(tests, p)


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
    with np.errstate(divide="ignore"):
        return Interval.of_draws(
            bounds.mean() / errors.mean(), bounds[index].mean(-1) / errors[index].mean(-1)
        )


def rms_over_bound(answers: "DataFrame", error: str, bound: str) -> Interval | None:
    """Root mean square error over root mean square bound, 1 at the limit; see :func:`efficiency`."""
    used = efficiency(answers, error, bound)
    if used is None:
        return None
    with np.errstate(divide="ignore"):
        value, high, low = 1 / np.sqrt(used)
    return Interval(float(value), float(low), float(high))


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
        errors = table[list(BOTH_ERRORS)].to_numpy(dtype=float)
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
        infinite for an image without an answer, NaN for images that no method has an objective for. Answers
        that name different bodies are at an infinite angle.
    """
    import pandas as pd

    judged = results[results["objective"].notna() & results[ANSWER].notna().all(axis=1)]
    named = results.get("body", pd.Series("icosahedron", results.index)).str.partition("=")[0]
    results, judged = results.assign(shape=named), judged.assign(shape=named[judged.index])
    best = judged.loc[judged.groupby("image")["objective"].idxmin(), ["image", "shape", *ANSWER]]
    joined = results.merge(best, on="image", how="left", suffixes=("", "_best"), validate="many_to_one")
    answer, reference = (
        torch.tensor(joined[[f"{name}{end}" for name in ANSWER]].to_numpy(dtype=float))
        for end in ("", "_best")
    )
    answered, compared = torch.isfinite(answer).all(1), torch.isfinite(reference).all(1)
    angle = torch.full((len(answer),), torch.nan, dtype=torch.float64)
    both = answered & compared
    angle[both] = torch.inf  # of answers that name different bodies
    for name in dict.fromkeys(named):
        same = both & torch.tensor((joined[["shape", "shape_best"]] == name).all(axis=1).to_numpy())
        angle[same] = disorientation(answer[same, 1:], reference[same, 1:], SHAPES[name].body())
    size = (answer[:, 0] - reference[:, 0]).abs()
    angle[~answered & compared] = size[~answered & compared] = torch.inf
    agrees = solved(angle, size)
    return joined.assign(angle_deg=angle.numpy(), size_nm=size.numpy(), agrees=agrees.numpy())
