"""The summary table of a comparison, for programs, terminals and Markdown."""

import math
from typing import TYPE_CHECKING

from icobench.reporting.quantiles import error_quantile

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.console import Console

__all__ = [
    "FORMATS",
    "HEADERS",
    "number",
    "print_summary",
    "summary_cells",
    "summary_markdown",
    "summary_table",
]

ERRORS = {
    "disorientation_deg": "disorientation_{}_deg",
    "radius_error_nm": "radius_{}_nm",
    "appendix_c_mean": "appendix_c_mean_{}",
    "appendix_c_max": "appendix_c_max_{}",
}
"""Column of the results and the pattern of its two columns in the summary."""

HEADERS = (
    ("method", ""),
    ("images", ""),
    ("success", "%"),
    ("disorientation", "deg"),
    ("radius error", "nm"),
    ("appendix C mean", "%"),
    ("appendix C max", "%"),
    ("simulations", "per image"),
    ("time", "s per image"),
)
"""Header and unit of each column of the printed tables; error columns hold median / 90 % quantile."""


def summary_table(results: "DataFrame") -> "DataFrame":
    """One row per method, in order of first appearance.

    Args:
        results: one row per image and method, as in ``results.parquet``.

    Returns:
        Columns method, images, disorientation_median_deg, disorientation_90_deg,
        radius_median_nm, radius_90_nm, appendix_c_mean_median, appendix_c_mean_90,
        appendix_c_max_median, appendix_c_max_90 (fractions), success_rate (fraction),
        evaluations_mean, seconds_mean. A missing answer (NaN) counts as an infinite error.
    """
    import pandas as pd

    rows = []
    for method, own in results.groupby("method", sort=False):
        row: dict[str, object] = {"method": method, "images": len(own)}
        for column, pattern in ERRORS.items():
            values = own[column].to_numpy(dtype=float)
            row[pattern.format("median")] = float(error_quantile(values, 0.5))
            row[pattern.format("90")] = float(error_quantile(values, 0.9))
        row["success_rate"] = float(own["success"].to_numpy(dtype=float).mean())
        row["evaluations_mean"] = float(own["evaluations"].to_numpy(dtype=float).mean())
        row["seconds_mean"] = float(own["seconds"].to_numpy(dtype=float).mean())
        rows.append(row)
    names = [pattern.format(part) for pattern in ERRORS.values() for part in ("median", "90")]
    columns = ["method", "images", *names, "success_rate", "evaluations_mean", "seconds_mean"]
    return pd.DataFrame(rows, columns=columns)


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


def summary_cells(table: "DataFrame") -> list[list[str]]:
    """The text of the printed tables: one list per method, one entry per header."""
    cells = []
    for row in table.to_dict("records"):
        errors = []
        for column, pattern in ERRORS.items():
            scale = 100 if column.startswith("appendix_c") else 1
            pair = (scale * row[pattern.format(part)] for part in ("median", "90"))
            errors.append(" / ".join(number(value) for value in pair))
        cells.append(
            [
                str(row["method"]),
                str(row["images"]),
                f"{100 * row['success_rate']:.1f}",
                *errors,
                number(row["evaluations_mean"]),
                number(row["seconds_mean"]),
            ]
        )
    return cells


def print_summary(table: "DataFrame", console: "Console") -> None:
    """Print the summary, at most 120 columns wide for methods' names of ordinary length.

    Args:
        table: from :func:`summary_table`.
        console: where to.
    """
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    printed = Table(
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
    """The summary as a Markdown table; errors as median / 90 % quantile."""
    headers = [f"{name} ({unit})" if unit else name for name, unit in HEADERS]
    rules = [":--" if name == "method" else "--:" for name, _ in HEADERS]
    body = [[cell.replace("|", "\\|") for cell in row] for row in summary_cells(table)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (headers, rules, *body))


LATEX = {"\\": r"\textbackslash{}", **{mark: f"\\{mark}" for mark in "&%$#_{}"}, "~": r"\textasciitilde{}",
         "^": r"\textasciicircum{}"}  # fmt: skip


def summary_latex(table: "DataFrame") -> str:
    """The summary as a LaTeX tabular with booktabs rules; errors as median / 90 % quantile."""

    def line(cells: list[str]) -> str:
        return " & ".join("".join(LATEX.get(mark, mark) for mark in cell) for cell in cells) + r" \\" + "\n"

    headers = [f"{name} ({unit})" if unit else name for name, unit in HEADERS]
    columns = "".join("l" if name == "method" else "r" for name, _ in HEADERS)
    body = "".join(line(cells) for cells in summary_cells(table))
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(headers)}\\midrule\n{body}"
        "\\bottomrule\n\\end{tabular}\n"
    )


def summary_csv(table: "DataFrame") -> str:
    """The summary's unrounded numbers, one row per method."""
    return table.to_csv(index=False)


FORMATS = {"md": summary_markdown, "latex": summary_latex, "csv": summary_csv}
"""Text of the summary by the name of its format."""
