"""Whether a method knows how good its answers are: coverage and width of error bars, their score, rejection.

``answers`` are the rows of one method in ``results``, the table of a run as in
:mod:`icobench.reporting.statistics`. An answer without error bar counts in no coverage and no score.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from icobench.answer import (
    AMBIGUOUS,
    NOT_CONVERGED,
    OK,
    OUTSIDE,
    POOR,
    RESCUED,
    SOLVED_DEG,
    SOLVED_NM,
    UNTRAINED,
)
from icobench.reporting.statistics import BOTH_ERRORS, error_quantile, success_interval
from icobench.reporting.tables import Table, number

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

__all__ = [
    "LEVELS", "QUANTITIES", "TRUSTED", "Quantity", "Rejection", "abstention", "abstention_cells", "coverage",
    "error_bar_cells", "error_bars", "own_order", "perfect_order", "print_error_bars", "scores",
]  # fmt: skip

LEVELS = (0.68, 0.95)
"""Of the intervals whose coverage is measured."""

TRUSTED = (OK, RESCUED)
"""Statuses of answers that a method stands by; all others announce trouble."""

ORDER = (OK, RESCUED, NOT_CONVERGED, AMBIGUOUS, UNTRAINED, POOR, OUTSIDE)
"""Statuses from the most to the least trusted; failed images and unknown words come last."""

FRACTION = 0.9
"""Of the answers that are kept: their error is that of this quantile."""


class Quantity(NamedTuple):
    """A quantity with an error of D equal normal components, whose bar is the root mean square error.

    The radius has one component, a rotation vector three. Squared errors over squared bars, times D, are then
    chi square with D degrees of freedom.

    Attributes:
        name: of the quantity.
        error, bar, bound: columns of the results: true error, error bar and Cramer-Rao bound, in one unit.
        components: D.
    """

    name: str
    error: str
    bar: str
    bound: str
    components: int


QUANTITIES = (
    Quantity("orientation", "disorientation_deg", "orientation_std_deg", "bound_orientation_deg", 3),
    Quantity("radius", "radius_error_nm", "radius_std_nm", "bound_radius_nm", 1),
)


def coverage(answers: "DataFrame", quantity: Quantity, level: float) -> tuple[int, int]:
    """How many answers have an error bar, and of how many the interval of this level holds the truth."""
    from scipy.stats import chi2

    told = answers[answers[quantity.bar].notna()]
    reach = math.sqrt(chi2.ppf(level, quantity.components) / quantity.components)
    return len(told), int((told[quantity.error] <= reach * told[quantity.bar]).sum())


def scores(answers: "DataFrame", quantity: Quantity) -> np.ndarray:
    """Negative logarithm of the density that error bars give to the truth, (N,) of the answers with a bar.

    In nats; densities are per nm for the radius, and per cubic degree of a rotation vector. Infinite where a
    bar is 0 or an answer is missing.
    """
    told = answers[answers[quantity.bar].notna()]
    error, bar = (told[name].to_numpy(dtype=float) for name in (quantity.error, quantity.bar))
    with np.errstate(all="ignore"):
        score = _score(bar, quantity.components, (error / bar) ** 2)
    return np.where((bar > 0) & ~np.isnan(error), score, np.inf)


def _score(bar: Any, components: int, squares: Any) -> Any:
    """The score of errors with these squares, in units of the bar's square."""
    return components / 2 * (np.log(2 * np.pi * bar**2 / components) + squares)


def _groups(results: "DataFrame") -> Iterator[tuple[str, str, "DataFrame"]]:
    """Method, "all" or "ok", and answers; those that are ok apart where some are and others are not."""
    for method, answers in results.groupby("method", sort=False):
        yield str(method), "all", answers
        trusted = answers[answers["status"].isin(TRUSTED)]
        if 0 < len(trusted) < len(answers):
            yield str(method), "ok", trusted


def error_bars(results: "DataFrame") -> "DataFrame":
    """Coverage, width and score of every method's error bars, orientation and radius apart.

    Returns:
        A row per method, quantity and kind of answers: "all", and "ok" where some, not all, announce trouble.
        Columns method, answers, quantity, images, with_bars; within_68, within_68_low, within_68_high, and
        the same for 95: the coverage and its interval of 95 %, fractions; bar_over_bound: median;
        score_mean, score_median; score_at_bound: the mean score of normal errors of the bound's size with the
        bound as bar. NaN without bars or bound.
    """
    import pandas as pd

    rows = []
    for method, kind, answers in _groups(results):
        for quantity in QUANTITIES:
            told = answers[answers[quantity.bar].notna()]
            row: dict[str, Any] = {
                "method": method, "answers": kind, "quantity": quantity.name,
                "images": len(answers), "with_bars": len(told),
            }  # fmt: skip
            for level in LEVELS:
                images, covered = coverage(answers, quantity, level)
                low, high = success_interval(covered, images) if images else (math.nan, math.nan)
                name = f"within_{100 * level:.0f}"
                row |= {name: covered / images if images else math.nan}
                row |= {f"{name}_low": low, f"{name}_high": high}
            score = scores(answers, quantity)
            bound = told[quantity.bound].dropna().to_numpy(dtype=float)
            at_bound = _score(bound, quantity.components, 1.0)
            row |= {
                "bar_over_bound": float((told[quantity.bar] / told[quantity.bound]).median()),
                "score_mean": float(score.mean()) if len(score) else math.nan,
                "score_median": float(np.median(score)) if len(score) else math.nan,
                "score_at_bound": float(at_bound.mean()) if len(bound) else math.nan,
            }
            rows.append(row)
    return pd.DataFrame(rows)


class Rejection(NamedTuple):
    """What is left wrong if only the first answers of some order are kept.

    Attributes:
        kept: (N,) share of the answers that is kept, from 1/N to 1.
        unsolved: (N,) share of the kept answers that are not solved.
        error: (N,) 90 % quantile of their larger error, see :func:`larger_error`.
    """

    kept: np.ndarray
    unsolved: np.ndarray
    error: np.ndarray


def larger_error(answers: "DataFrame") -> np.ndarray:
    """The larger of both errors in degrees and nm, over what counts as solved; infinite without answer."""
    errors = answers[list(BOTH_ERRORS)].to_numpy(dtype=float) / (SOLVED_DEG, SOLVED_NM)
    return np.where(np.isnan(errors), np.inf, errors).max(axis=1)


def _rejection(answers: "DataFrame", *keys: np.ndarray) -> Rejection:
    """Answers ordered by keys (N,), the first first; those with the same keys stay or go together."""
    order = np.lexsort(keys[::-1])
    ordered = np.array(keys)[:, order]
    ends = np.flatnonzero(np.append((ordered[:, 1:] != ordered[:, :-1]).any(axis=0), True))
    count, error = np.arange(1, len(order) + 1), larger_error(answers)[order]
    place = np.searchsorted(ends, count - 1)
    quantiles = np.array([error_quantile(error[: end + 1], FRACTION) for end in ends])
    unsolved = np.cumsum(~answers["success"].to_numpy(dtype=bool)[order]) / count
    return Rejection(count / len(order), unsolved[ends][place], quantiles[place])


def own_order(answers: "DataFrame") -> Rejection:
    """In the order of the method's trust in its answers: by status, then by the larger of both bars."""
    rank = answers["status"].map({status: place for place, status in enumerate(ORDER)})
    bars = answers[[quantity.bar for quantity in QUANTITIES]].to_numpy(dtype=float) / (SOLVED_DEG, SOLVED_NM)
    bars = np.where(np.isnan(bars), -np.inf, bars).max(axis=1)
    # Answers without any bar follow those with one.
    return _rejection(
        answers, rank.fillna(len(ORDER)).to_numpy(dtype=float), np.where(np.isinf(bars), np.inf, bars)
    )


def perfect_order(answers: "DataFrame") -> Rejection:
    """In the order of the true errors: no order leaves fewer or smaller ones."""
    return _rejection(answers, larger_error(answers), np.arange(len(answers)))


def abstention(results: "DataFrame") -> "DataFrame":
    """What every method's statuses and error bars say of the errors to come.

    The area under a curve of :class:`Rejection` is its mean over all shares kept (AURC of selective
    classification; Geifman, Uziel and El-Yaniv, ICLR 2019).

    Returns:
        A row per method with the columns method, images; ok, poor_fit, ambiguous, other_trouble: shares of
        the statuses; unsolved, unsolved_ok, unsolved_trouble: shares that are not solved of all answers, of
        those that are ok and of the others; unsolved_area, error_area in the method's own order, and the same
        with _perfect in the order of the true errors and _random without any.
    """
    import pandas as pd

    rows = []
    for method, answers in results.groupby("method", sort=False):
        status, unsolved = answers["status"], ~answers["success"].astype(bool)
        ok = status.isin(TRUSTED)
        named = {"poor_fit": (status == POOR).mean(), "ambiguous": (status == AMBIGUOUS).mean()}
        row: dict[str, Any] = {
            "method": str(method), "images": len(answers), "ok": ok.mean(), **named,
            "other_trouble": (~ok & ~status.isin((POOR, AMBIGUOUS))).mean(),
            "unsolved": unsolved.mean(), "unsolved_ok": unsolved[ok].mean(),
            "unsolved_trouble": unsolved[~ok].mean(),
        }  # fmt: skip
        own, perfect = own_order(answers), perfect_order(answers)
        for name in ("unsolved", "error"):
            values = getattr(own, name)
            row[f"{name}_area"] = values.mean()
            row[f"{name}_area_perfect"] = getattr(perfect, name).mean()
            row[f"{name}_area_random"] = values[-1]
        rows.append(row)
    return pd.DataFrame(rows)


def _percent(fraction: float, digits: int = 1) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.{digits}f}"


def _covered(row: dict[str, Any], level: float) -> str:
    """A coverage with its interval, in %."""
    name = f"within_{100 * level:.0f}"
    shares = [100 * row[key] for key in (name, f"{name}_low", f"{name}_high")]
    return "{:.0f} ({:.0f} to {:.0f})".format(*shares) if row["with_bars"] else "-"


def error_bar_cells(table: "DataFrame") -> Table:
    """The text of :func:`error_bars`."""
    headers = [
        ("method", ""), ("error bar of", ""), ("answers", ""), ("with error bar", "of images"),
        ("68 % interval holds", "%, 95 %"), ("95 % interval holds", "%, 95 %"), ("bar over bound", "median"),
        ("score", "mean"), ("score", "median"), ("score at the bound", "mean"),
    ]  # fmt: skip
    rows = [
        [
            row["method"], row["quantity"], row["answers"], f"{row['with_bars']} of {row['images']}",
            *(_covered(row, level) for level in LEVELS), number(row["bar_over_bound"]),
            *(number(row[name]) for name in ("score_mean", "score_median", "score_at_bound")),
        ]
        for row in table.to_dict("records")
    ]  # fmt: skip
    return headers, rows


def abstention_cells(table: "DataFrame") -> Table:
    """The text of :func:`abstention`."""
    headers = [
        ("method", ""), ("images", ""), ("ok", "%"), (POOR, "%"), (AMBIGUOUS, "%"), ("other trouble", "%"),
        ("not solved", "% of all"), ("not solved", "% of ok"), ("not solved", "% of trouble"),
        ("area, not solved", "%, perfect to random"), ("area, error", "perfect to random"),
    ]  # fmt: skip
    shares = (
        "ok", "poor_fit", "ambiguous", "other_trouble", "unsolved", "unsolved_ok", "unsolved_trouble",
    )  # fmt: skip
    rows = []
    for row in table.to_dict("records"):
        areas = []
        for name, text in (("unsolved_area", _percent), ("error_area", number)):
            own, perfect, random = (text(row[f"{name}{order}"]) for order in ("", "_perfect", "_random"))
            areas.append(f"{own} ({perfect} to {random})")
        rows.append([row["method"], str(row["images"]), *(_percent(row[name]) for name in shares), *areas])
    return headers, rows


def print_error_bars(results: "DataFrame", console: "Console") -> None:
    """Print the most of both tables in one, a line per method and kind of answers, up to 120 columns wide."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    printed = RichTable(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="orientation / radius; bar over bound: median; score: mean in nats above that at the bound,\n"
        "lower is better; abstains: with a status that announces trouble; ok: without these answers",
        caption_justify="left",
    )
    headers = (
        "method", "answers", "with\nerror bar", "68 % interval\nholds (%)", "95 % interval\nholds (%)",
        "bar over\nbound", "score\nover bound", "abstains\n(%)", "not solved\n(%)",
    )  # fmt: skip
    for name in headers:
        printed.add_column(name, justify="left" if name == "method" else "right", vertical="bottom")
    shares = {
        (method, kind): (1 - answers["status"].isin(TRUSTED).mean(), 1 - answers["success"].mean())
        for method, kind, answers in _groups(results)
    }
    for (method, kind), rows in error_bars(results).groupby(["method", "answers"], sort=False):
        told = " / ".join(map(str, dict.fromkeys(rows["with_bars"])))
        columns = [
            *([_percent(share, 0) for share in rows[f"within_{100 * level:.0f}"]] for level in LEVELS),
            map(number, rows["bar_over_bound"]), map(number, rows["score_mean"] - rows["score_at_bound"]),
        ]  # fmt: skip
        cells = [f"{told} of {rows['images'].iloc[0]}", *map(" / ".join, columns)]
        printed.add_row(*map(escape, (method, kind, *cells, *map(_percent, shares[method, kind]))))
    console.print(printed)
