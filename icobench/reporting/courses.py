"""Errors against evaluations: courses of many fits on one grid."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icobench.reporting.quantiles import error_quantile

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Course", "carried_forward", "evaluation_grid", "median_course"]


@dataclass(frozen=True)
class Course:
    """Errors of one method's images against evaluations.

    Attributes:
        evaluations: (G,) evaluations per image, ascending.
        low, median, high: (G,) 10 %, 50 % and 90 % quantile over images.
    """

    evaluations: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray


def evaluation_grid(curves: "DataFrame", per_decade: int = 60) -> np.ndarray:
    """Evaluations from 1 to the largest of the run, evenly spaced on a logarithmic axis: (G,)."""
    largest = max(1.0, float(curves["evaluations"].max())) if len(curves) else 1.0
    return np.geomspace(1, largest, max(2, int(per_decade * np.log10(largest)) + 1))


def carried_forward(fits: "DataFrame", column: str, grid: np.ndarray) -> np.ndarray:
    """Each image's latest value at every number of evaluations.

    Args:
        fits: rows of one method in ``curves.parquet``.
        column: which value.
        grid: (G,) evaluations.

    Returns:
        (images, G) in order of the image numbers; NaN before an image's first value. A step
        without an answer (NaN) counts as infinitely wrong.
    """
    rows = []
    ordered = fits.sort_values(["image", "evaluations", "step"], kind="stable")
    for _, own in ordered.groupby("image", sort=True):
        values = own[column].to_numpy(dtype=float)
        values = np.where(np.isnan(values), np.inf, values)
        latest = np.searchsorted(own["evaluations"].to_numpy(dtype=float), grid, side="right") - 1
        rows.append(np.where(latest >= 0, values[np.maximum(latest, 0)], np.nan))
    return np.array(rows).reshape(len(rows), len(grid))


def median_course(fits: "DataFrame", column: str, grid: np.ndarray) -> Course:
    """Quantiles over images, from where every image has a value to the last evaluation of any.

    Args:
        fits: rows of one method in ``curves.parquet``.
        column: which value.
        grid: (G,) evaluations at least 1; the course's own first and last evaluations are added.
    """
    spent = fits.groupby("image")["evaluations"]
    start, stop = max(1.0, float(spent.min().max())), max(1.0, float(spent.max().max()))
    own = np.unique(np.concatenate((grid[(grid > start) & (grid < stop)], (start, stop))))
    values = carried_forward(fits, column, own)
    return Course(own, *(error_quantile(values, fraction) for fraction in (0.1, 0.5, 0.9)))
