"""The tables of a comparison: the summary in several formats, intervals, tests, efficiency, running times.

``results`` and ``curves`` as in :mod:`icobench.reporting.statistics`.
"""

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from icobench.reporting.statistics import (
    BOTH_ERRORS,
    FEWEST,
    SIGNIFICANT,
    Interval,
    bootstrap,
    differences,
    efficiency,
    equivalence,
    error_quantile,
    expected_running_time,
    first_hits,
    holm,
    paired_test,
    success_interval,
)

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

__all__ = [
    "FORMATS", "HEADERS", "PAIRS", "Headers", "Table", "agreement_table", "efficiency_table",
    "interval_table", "interval_text", "markdown_table", "number", "paired_table", "print_summary",
    "running_time_table", "summary_cells", "summary_markdown", "summary_table",
]  # fmt: skip

Headers = list[tuple[str, str]]
"""Name and unit of each column."""

Table = tuple[Headers, list[list[str]]]
"""Headers, and rows of text."""

ERRORS = {
    "disorientation_deg": "disorientation_{}_deg",
    "radius_error_nm": "radius_{}_nm",
    "appendix_c_mean": "appendix_c_mean_{}",
    "appendix_c_max": "appendix_c_max_{}",
}
"""Column of the results and the pattern of its two columns in the summary."""

HEADERS: Headers = [
    ("method", ""), ("images", ""), ("success", "%"), ("disorientation", "deg"), ("radius error", "nm"),
    ("appendix C mean", "%"), ("appendix C max", "%"), ("simulations", "per image"), ("time", "s per image"),
]  # fmt: skip
"""Header and unit of each column of the printed summary; error columns hold median / 90 % quantile."""

PAIRS = (
    ("network", "simplex"), ("paper-network", "simplex"), ("paper-network", "network"),
    ("network+lm", "dictionary+lm"), ("network+simplex", "simplex"), ("paper-network+lm", "network+lm"),
    ("simplex-race", "simplex"),
)  # fmt: skip
"""The pairs of methods that are tested against each other, whatever the results are."""

TARGETS_SHOWN = ((3.0, 3.0), (1.0, 1.0), (0.3, 0.3), (0.1, 0.1))
"""Degrees and nanometres."""


def number(value: float) -> str:
    """Three significant digits, two below 0.1, no exponent above 0.0001; thousands are grouped."""
    value = float(value)
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if abs(value) < 1e-4:
        return f"{value:.0e}" if value else "0"
    # Rounding may carry into a new digit (9.999), so the digits are counted afterwards.
    rounded = float(f"{value:.3g}" if abs(value) >= 0.1 else f"{value:.2g}")
    digits = (2 if abs(rounded) >= 0.1 else 1) - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(digits, 0)}f}"


def interval_text(interval: Interval) -> str:
    """Value and ends."""
    return f"{number(interval.value)} ({number(interval.low)} to {number(interval.high)})"


def markdown_table(headers: Headers, rows: list[list[str]]) -> str:
    """A Markdown table; the names of methods stand left, everything else right."""
    titles = [f"{name} ({unit})" if unit else name for name, unit in headers]
    rules = [":--" if name == "method" else "--:" for name, _ in headers]
    body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in (titles, rules, *body))


def summary_table(results: "DataFrame") -> "DataFrame":
    """One row per method, in order of first appearance.

    Returns:
        Columns method, images, disorientation_median_deg, disorientation_90_deg, radius_median_nm,
        radius_90_nm, appendix_c_mean_median, appendix_c_mean_90, appendix_c_max_median, appendix_c_max_90
        (fractions), success_rate (fraction), evaluations_mean, seconds_mean. A missing answer (NaN) counts
        as an infinite error. Appendix C is NaN for methods that were judged without it, as on
        other bodies than icosahedra.
    """
    columns: dict[str, tuple[str, Any]] = {"images": ("image", "size")}
    for column, pattern in ERRORS.items():
        columns[pattern.format("median")] = column, partial(error_quantile, fraction=0.5)
        columns[pattern.format("90")] = column, partial(error_quantile, fraction=0.9)
    for name, column in (
        ("success_rate", "success"), ("evaluations_mean", "evaluations"), ("seconds_mean", "seconds"),
    ):  # fmt: skip
        columns[name] = column, lambda values: values.to_numpy(dtype=float).mean()
    table = results.groupby("method", sort=False).agg(**columns).reset_index()
    judged = results["disorientation_deg"].notna() & results["appendix_c_mean"].isna()
    lacking = judged.groupby(results["method"], sort=False).any().to_numpy()
    table.loc[lacking, table.columns.str.startswith("appendix_c")] = math.nan
    return table


def summary_cells(table: "DataFrame") -> list[list[str]]:
    """The text of the printed summary: one list per method, one entry for each of :data:`HEADERS`."""
    cells = []
    for row in table.to_dict("records"):
        errors = []
        for column, pattern in ERRORS.items():
            scale = 100 if column.startswith("appendix_c") else 1
            errors.append(" / ".join(number(scale * row[pattern.format(part)]) for part in ("median", "90")))
        costs = number(row["evaluations_mean"]), number(row["seconds_mean"])
        success = f"{100 * row['success_rate']:.1f}"
        cells.append([str(row["method"]), str(row["images"]), success, *errors, *costs])
    return cells


def print_summary(table: "DataFrame", console: "Console") -> None:
    """Print the summary, at most 120 columns wide for methods' names of ordinary length."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    printed = RichTable(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="errors: median / 90 % quantile; success: within 1 deg and 1 nm",
        caption_justify="left",
    )
    for name, unit in HEADERS:
        words = name.replace("appendix C ", "appendix C\n").replace("radius ", "radius\n")
        header = f"{words}\n({unit})".replace("(s per ", "(s per\n") if unit else words
        printed.add_column(header, justify="left" if name == "method" else "right", vertical="bottom")
    for row in summary_cells(table):
        printed.add_row(*(escape(cell) for cell in row))
    console.print(printed)


def summary_markdown(table: "DataFrame") -> str:
    """The summary as a Markdown table."""
    return markdown_table(HEADERS, summary_cells(table))


def summary_latex(table: "DataFrame") -> str:
    """The summary as a LaTeX tabular with booktabs rules; errors as median / 90 % quantile."""
    import pandas as pd

    titles = [f"{name} ({unit})" if unit else name for name, unit in HEADERS]
    cells = pd.DataFrame(summary_cells(table), columns=titles)
    return cells.to_latex(index=False, escape=True, column_format="l" + "r" * (len(titles) - 1))


FORMATS = {"md": summary_markdown, "latex": summary_latex, "csv": lambda table: table.to_csv(index=False)}
"""Text of the summary by the name of its format; CSV has the unrounded numbers."""


def _over_seeds(answers: "DataFrame", column: str, statistic: Any) -> str:
    """The lowest and the highest value of a statistic of the seeds."""
    values = [statistic(run[column].to_numpy(dtype=float)) for _, run in answers.groupby("run", sort=False)]
    return f"{number(min(values))} to {number(max(values))}"


def interval_table(results: "DataFrame") -> Table:
    """Share of solved images, medians and 90 % quantiles of both errors, each with its interval of 95 %.

    Where several seeds are pooled, their lowest and highest share and medians too.
    """
    headers = [
        ("method", ""), ("solved", "%"), ("disorientation, median", "deg"), ("disorientation, 90 %", "deg"),
        ("radius error, median", "nm"), ("radius error, 90 %", "nm"),
    ]  # fmt: skip
    pooled = "run" in results and results["run"].nunique() > 1
    if pooled:
        headers += [(f"seeds: {name}", unit) for name, unit in (headers[1], headers[2], headers[4])]
    middle = partial(error_quantile, fraction=0.5)
    rows = []
    for method, answers in results.groupby("method", sort=False):
        images, successes = len(answers), int(answers["success"].sum())
        low, high = success_interval(successes, images)
        cells = [str(method), f"{100 * successes / images:.1f} ({100 * low:.1f} to {100 * high:.1f})"]
        for column in BOTH_ERRORS:
            errors = answers[column].fillna(np.inf).to_numpy(dtype=float)
            for fraction in (0.5, 0.9):
                quantile = partial(error_quantile, fraction=fraction)
                cells.append(interval_text(bootstrap(errors, quantile)))
        if pooled:
            cells.append(_over_seeds(answers, "success", lambda solved: 100 * solved.mean()))
            cells += [_over_seeds(answers, column, middle) for column in BOTH_ERRORS]
        rows.append(cells)
    return headers, rows


def paired_table(results: "DataFrame") -> Table:
    """Those of :data:`PAIRS` that took part: whether their errors differ, and whether they are the same."""
    headers = [
        ("method", ""), ("against", ""), ("error", ""), ("images", ""), ("ratio", "median, 95 %"),
        ("differ", "p, Holm"), ("mean ratio", "geometric, 90 %"), ("same within 10 %", "p, Holm"),
    ]  # fmt: skip
    present = set(results["method"])
    asked = [(*pair, error) for pair in PAIRS if present.issuperset(pair) for error in BOTH_ERRORS]
    tests = [(paired_test(results, *pair), equivalence(results, *pair)) for pair in asked]
    differ, same = holm([test[2] for test, _ in tests]), holm([equal.p for _, equal in tests])
    rows = []
    for pair, ((images, ratio, _), equal), p, p_same in zip(asked, tests, differ, same, strict=True):
        shown = f"{'yes' if p_same <= SIGNIFICANT else 'no'}, {p_same:.2g}"
        error = pair[2].rsplit("_", 1)[0].replace("_", " ")
        texts = str(images), interval_text(ratio), f"{p:.2g}", interval_text(equal.ratio)
        rows.append([*pair[:2], error, *texts, shown if images >= FEWEST else "too few images"])
    return headers, rows


def efficiency_table(results: "DataFrame") -> Table:
    """How much of the information in the photons each method uses; no rows without a bound."""
    headers = [("method", ""), ("orientation", "95 %"), ("radius", "95 %")]
    quantities = ("disorientation_deg", "bound_orientation_deg"), ("radius_error_nm", "bound_radius_nm")
    rows = []
    for method, answers in results.groupby("method", sort=False):
        intervals = [efficiency(answers, *columns) for columns in quantities]
        if any(intervals):
            cells = (interval_text(interval) if interval else "-" for interval in intervals)
            rows.append([str(method), *cells])
    return headers, rows


def running_time_table(results: "DataFrame", curves: "DataFrame") -> Table:
    """Expected simulations to a target if a method is repeated until one run meets it."""
    headers = [("method", ""), *((f"{angle:g} deg, {radius:g} nm", "") for angle, radius in TARGETS_SHOWN)]
    rows = []
    for method in dict.fromkeys(results["method"]):
        hits, total = first_hits(curves, results, method, TARGETS_SHOWN)
        rows.append([str(method), *map(number, expected_running_time(hits, total))])
    return headers, rows


def agreement_table(results: "DataFrame") -> Table:
    """Per method: status, objective, agreement with the best answer, cost."""
    headers = [
        ("method", ""), ("images", ""), ("status ok", "%"), ("objective", "median"),
        ("the best answer", "%"), ("differs by", "deg"), ("differs by", "nm"), ("simulations", "per image"),
        ("time", "s per image"),
    ]  # fmt: skip
    rows = []
    for method, answers in differences(results).groupby("method", sort=False):
        distances = (
            " / ".join(number(error_quantile(answers[name].to_numpy(), part)) for part in (0.5, 0.9))
            for name in ("angle_deg", "size_nm")
        )
        rows.append(
            [
                str(method), str(len(answers)), f"{100 * answers['status'].str.startswith('ok').mean():.1f}",
                number(answers["objective"].median()), f"{100 * answers['agrees'].mean():.1f}", *distances,
                number(answers["evaluations"].mean()), number(answers["seconds"].mean()),
            ]
        )  # fmt: skip
    return headers, rows
