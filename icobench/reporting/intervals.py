"""How sure the summary's figures are: bootstrap intervals over images."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from icobench.reporting.page import Headers
from icobench.reporting.quantiles import error_quantile, success_interval
from icobench.reporting.statistics import Interval, bootstrap
from icobench.reporting.tables import number

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["interval_table", "interval_text"]


def interval_text(found: Interval) -> str:
    """Value and ends."""
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


def _quantile(values: np.ndarray, fraction: float) -> np.ndarray:
    return error_quantile(np.moveaxis(values, -1, 0), fraction)


def interval_table(results: "DataFrame", seed: int = 0) -> tuple[Headers, list[list[str]]]:
    """Share of solved images, medians and 90 % quantiles of both errors, each with its interval of 95 %.

    Args:
        results: one row per image and method, as in ``results.parquet``.
        seed: of the bootstrap.
    """
    headers: Headers = [("method", ""), ("solved", "%")]
    headers += [
        (f"{name}, {part}", unit)
        for name, unit in (("disorientation", "deg"), ("radius error", "nm"))
        for part in ("median", "90 %")
    ]
    rows = []
    for method, own in results.groupby("method", sort=False):
        images, solved = len(own), int(own["success"].sum())
        low, high = success_interval(solved, images)
        cells = [str(method), f"{100 * solved / images:.1f} ({100 * low:.1f} to {100 * high:.1f})"]
        for column in ("disorientation_deg", "radius_error_nm"):
            values = own[column].fillna(np.inf).to_numpy(dtype=float)
            for fraction in (0.5, 0.9):
                cells.append(interval_text(bootstrap(values, partial(_quantile, fraction=fraction), seed)))
        rows.append(cells)
    return headers, rows
