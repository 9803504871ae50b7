"""Tables and figures of sweeps, from stored points alone."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icobench.errors import InputError
from icobench.reporting.figures import PALETTE, SMALL, TEXT, _figure
from icobench.reporting.quantiles import error_quantile
from icobench.reporting.tables import number
from icobench.runs.sweep import AXES, read_points
from icobench.storage import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["sweep_figure", "sweep_markdown", "sweep_table", "write_sweep"]

ERRORS = {
    "disorientation": ("disorientation_deg", "bound_orientation_deg", "disorientation (deg)"),
    "radius": ("radius_error_nm", "bound_radius_nm", "radius error (nm)"),
    "appendix_c_mean": ("appendix_c_mean", "", "appendix C mean"),
    "appendix_c_max": ("appendix_c_max", "", "appendix C max"),
}


def sweep_table(points: "DataFrame") -> "DataFrame":
    """One row per point and repetition.

    Args:
        points: of :func:`~icobench.runs.sweep.read_points`.

    Returns:
        Columns axis, method, point, repetition, images, simulations_before (training set or dictionary),
        simulations_per_image, success_rate, median and 90 % quantile of every error, median bounds where
        there are any, seconds.
    """
    import pandas as pd

    rows = []
    for (point, repetition), own in points.groupby(["point", "repetition"]):
        row = {
            "axis": own["axis"].iloc[0], "method": own["method"].iloc[0], "point": point,
            "repetition": repetition, "images": len(own),
            "simulations_before": int(own["fixed_simulations"].iloc[0]),
            "simulations_per_image": float(own["evaluations"].mean()),
            "success_rate": float(own["success"].mean()),
        }  # fmt: skip
        for name, (column, bound, _) in ERRORS.items():
            values = own[column].to_numpy(dtype=float)
            row[f"{name}_median"] = float(error_quantile(values, 0.5))
            row[f"{name}_90"] = float(error_quantile(values, 0.9))
            if bound in own:
                row[f"{name}_bound_median"] = float(own[bound].median())
        row["seconds"] = float(own["seconds"].iloc[0])
        rows.append(row)
    return pd.DataFrame(rows)


def _span(values: "DataFrame", scale: float = 1.0) -> str:
    low, middle, high = (number(scale * one) for one in (values.min(), values.mean(), values.max()))
    return middle if len(values) == 1 or low == high else f"{middle} ({low} to {high})"


def sweep_markdown(table: "DataFrame") -> str:
    """Points as a Markdown table: means over the repetitions, lowest and highest in brackets.

    Args:
        table: of :func:`sweep_table`.
    """
    axis = table["axis"].iloc[0]
    heads = [
        AXES[axis].label, "repetitions", "simulations per image", "success (%)",
        "disorientation (deg), median", "90 %", "radius error (nm), median", "90 %",
        "appendix C mean (%), median",
    ]  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|" + "--:|" * len(heads)]
    for point, own in table.groupby("point"):
        cells = [
            f"{point:,}", str(len(own)), number(own["simulations_per_image"].mean()),
            _span(own["success_rate"], 100), _span(own["disorientation_median"]),
            _span(own["disorientation_90"]), _span(own["radius_median"]), _span(own["radius_90"]),
            _span(own["appendix_c_mean_median"], 100),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _decade_axis(axes: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def sweep_figure(table: "DataFrame") -> "Figure":
    """Orientation, radius and success against the axis: a dot for every repetition, lines through the means.

    Solid: median over the test images; dashed: 90 % quantile; dotted: median Cramer-Rao bound.

    Args:
        table: of :func:`sweep_table`.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = _figure(12.5, 4.6)
    panels = figure.subplots(1, 3)
    means = table.drop(columns=["axis", "method"]).groupby("point").mean()
    places = means.index.to_numpy(dtype=float)
    for axes, name in zip(panels, ("disorientation", "radius"), strict=False):
        for column, line, label in (("median", "-", "median"), ("90", "--", "90 % quantile")):
            values = table[f"{name}_{column}"].to_numpy(dtype=float)
            finite = np.isfinite(values)
            axes.plot(table["point"][finite], values[finite], "o", color=PALETTE[0], alpha=0.5, markersize=4)
            axes.plot(places, means[f"{name}_{column}"], line, color=PALETTE[0], label=label)
        if f"{name}_bound_median" in means:
            axes.plot(
                places, means[f"{name}_bound_median"], ":", color="0.25", label="Cramér-Rao bound (median)"
            )
        _decade_axis(axes)
        axes.set_ylabel(ERRORS[name][2], fontsize=TEXT)
    handles, labels = panels[0].get_legend_handles_labels()
    panels[2].legend(handles, labels, fontsize=SMALL, frameon=False)
    panels[2].plot(
        table["point"], 100 * table["success_rate"], "o", color=PALETTE[1], alpha=0.5, markersize=4
    )
    panels[2].plot(places, 100 * means["success_rate"], "-", color=PALETTE[1])
    panels[2].set_ylabel("within 1 deg and 1 nm (%)", fontsize=TEXT)
    panels[2].set_ylim(-3, 103)
    for axes in panels:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{value:,.0f}" if value < 1e6 else f"{value:.0e}")
        )
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(axis="x", labelsize=SMALL, rotation=45)
        axes.set_xlabel(AXES[table["axis"].iloc[0]].label, fontsize=TEXT)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    images, repetitions = int(table["images"].iloc[0]), int(table["repetition"].max()) + 1
    figure.suptitle(
        f"{table['method'].iloc[0]}: {images} test images, {repetitions} repetitions", fontsize=TEXT
    )
    return figure


def write_sweep(folder: Path) -> "DataFrame":
    """Write ``sweep.csv``, ``sweep.md`` and ``sweep.png`` from a folder's stored points; the table.

    Raises:
        InputError: no such sweep, or no point in it.
    """
    points = read_points(folder)
    if not len(points):
        raise InputError(f"{folder}: no point is stored yet")
    table = sweep_table(points)
    with atomic_path(folder / "sweep.csv") as temporary:
        table.to_csv(temporary, index=False)
    with atomic_path(folder / "sweep.md") as temporary:
        temporary.write_text(sweep_markdown(table))
    with atomic_path(folder / "sweep.png") as temporary:
        sweep_figure(table).savefig(temporary, format="png")
    return table
