"""Stored sweeps: reading them, their tables and figures."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.answer import solved
from icobench.errors import InputError
from icobench.reporting.figures import decade_labels, empty_figure, styled
from icobench.reporting.page import write_file
from icobench.reporting.statistics import error_quantile
from icobench.reporting.tables import Headers, markdown_table, number
from icobench.storage import atomic_path, read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

__all__ = [
    "read_described", "read_point", "read_points", "sweep_figure", "sweep_markdown", "sweep_table",
    "write_sweep",
]  # fmt: skip

AXIS_LABELS = {
    "dataset": "simulated training images",
    "dictionary": "images in the dictionary",
    "starts": "random starts of the simplex",
    "iterations": "iterations of each start of the simplex",
    "photons": "photons in the image",
}

POINT_COLUMNS = {
    "point", "repetition", "fixed_simulations", "fixed_seconds", "seconds", "evaluations",
    "disorientation_deg", "radius_error_nm", "appendix_c_mean", "appendix_c_max",
}  # fmt: skip
"""What every stored point has."""

ERRORS = {
    "disorientation": ("disorientation_deg", "bound_orientation_deg"),
    "radius": ("radius_error_nm", "bound_radius_nm"),
    "appendix_c_mean": ("appendix_c_mean", ""),
    "appendix_c_max": ("appendix_c_max", ""),
}
"""Columns of the errors and of their bounds by the names that the table gives them."""

LINES = {
    "median": ("median", (None, None)),
    "90": ("90 % quantile", (5, 1.5)),
    "bound_median": ("Cramér-Rao bound (median)", (1.5, 1)),
}
"""What the figure draws: end of the table's column, label and dashes."""


def read_described(folder: Path | str) -> dict[str, Any]:
    """The description of a stored sweep: identity, points, seeds and where it comes from.

    Raises:
        InputError: no sweep, or damaged.
    """
    folder = Path(folder)
    path = folder / "sweep.json"
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file, not a sweep' if folder.exists() else 'no such folder'}")
    if not path.exists():
        raise InputError(f"{folder}: no sweep (it has no sweep.json)")
    described = read_json(path)
    identity, points, seeds = (described.get(name) for name in ("identity", "points", "seeds"))
    numbers = isinstance(points, list) and all(isinstance(value, int) for value in [*points, seeds])
    if not numbers or not isinstance(identity, dict) or "axis" not in identity:
        raise InputError(f"{path}: damaged; remove it and run the sweep again")
    return described


def read_point(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """A stored point: axis, method, and in ``result`` a list for each column, or one value for all images.

    Raises:
        InputError: of another sweep, or damaged.
    """
    stored = read_json(path)
    if stored.get("identity") != identity:
        raise InputError(f"{path}: a point of another sweep; remove it")
    result: Any = stored.get("result")
    complete = isinstance(result, dict) and result.keys() >= POINT_COLUMNS
    lengths = {len(values) for values in result.values() if isinstance(values, list)} if complete else set()
    if len(lengths) != 1 or not {"method", "axis"} <= stored.keys():
        raise InputError(f"{path}: damaged; remove it and run the sweep again")
    return stored


def read_points(folder: Path | str) -> "DataFrame":
    """All stored points of a sweep: one row for each point, repetition and test image.

    Columns: axis, method, point, repetition, image, fixed_simulations, fixed_seconds, fixed_core_seconds
    (not in older sweeps), seconds (of the whole point), evaluations, the errors, success, and where there is
    photon noise the Cramer-Rao bounds. Empty where no point is stored yet.

    Raises:
        InputError: no such sweep, damaged files, or points of another sweep among them.
    """
    import pandas as pd

    identity = read_described(folder)["identity"]
    frames = []
    for path in sorted((Path(folder) / "points").glob("*.json")):
        stored = read_point(path, identity)
        frame = pd.DataFrame(stored["result"])
        for name in ("axis", "method"):
            frame.insert(0, name, stored[name])
        frame.insert(2, "image", range(len(frame)))
        frames.append(frame)
    if not frames:
        return pd.DataFrame()
    table = pd.concat(frames, ignore_index=True)
    table["success"] = solved(table["disorientation_deg"], table["radius_error_nm"])
    return table.sort_values(["point", "repetition", "image"], ignore_index=True)


def sweep_table(points: "DataFrame") -> "DataFrame":
    """One row per point and repetition of :func:`read_points`.

    Returns:
        Columns axis, method, point, repetition, images, simulations_before (training set or dictionary),
        simulations_per_image, success_rate, median and 90 % quantile of every error, median bounds where
        there are any, seconds.
    """
    columns: dict[str, tuple[str, Any]] = {
        "images": ("image", "size"),
        "simulations_before": ("fixed_simulations", lambda values: int(values.iloc[0])),
        "simulations_per_image": ("evaluations", lambda values: values.mean()),
        "success_rate": ("success", lambda values: values.mean()),
    }
    for name, (column, bound) in ERRORS.items():
        columns[f"{name}_median"] = column, partial(error_quantile, fraction=0.5)
        columns[f"{name}_90"] = column, partial(error_quantile, fraction=0.9)
        if bound in points:
            columns[f"{name}_bound_median"] = bound, "median"
    columns["seconds"] = "seconds", "first"
    return points.groupby(["axis", "method", "point", "repetition"]).agg(**columns).reset_index()


def _span(values: "Series", scale: float = 1.0) -> str:
    """Mean, with the lowest and the highest value in brackets."""
    low, mean, high = (number(scale * value) for value in (values.min(), values.mean(), values.max()))
    return mean if len(values) == 1 or low == high else f"{mean} ({low} to {high})"


def sweep_markdown(table: "DataFrame") -> str:
    """The table in Markdown: means over the repetitions, lowest and highest in brackets."""
    headers: Headers = [
        (AXIS_LABELS[table["axis"].iloc[0]], ""), ("repetitions", ""), ("simulations per image", ""),
        ("success", "%"), ("disorientation (deg), median", ""), ("90 %", ""),
        ("radius error (nm), median", ""), ("90 %", ""), ("appendix C mean (%), median", ""),
    ]  # fmt: skip
    spans = (
        ("success_rate", 100), ("disorientation_median", 1), ("disorientation_90", 1), ("radius_median", 1),
        ("radius_90", 1), ("appendix_c_mean_median", 100),
    )  # fmt: skip
    rows = []
    for point, repetitions in table.groupby("point"):
        simulations = number(repetitions["simulations_per_image"].mean())
        cells = [_span(repetitions[column], scale) for column, scale in spans]
        rows.append([f"{point:,}", str(len(repetitions)), simulations, *cells])
    return markdown_table(headers, rows)


@styled()
def sweep_figure(table: "DataFrame") -> "Figure":
    """Orientation, radius and success against the axis: a dot for every repetition, lines through the means.

    Solid: median over the test images; dashed: 90 % quantile; dotted: median Cramer-Rao bound. The table is
    that of :func:`sweep_table`.
    """
    import seaborn

    figure = empty_figure(12.5, 4.6)
    panels = figure.subplots(1, 3)
    colours = seaborn.color_palette("colorblind", 2)
    table = table.assign(success_median=100 * table["success_rate"])
    # Infinite means, of points where images have no answer, are left out of the lines.
    means = table.groupby("point", as_index=False).mean(numeric_only=True)
    for axes, name, label in zip(
        panels,
        ("disorientation", "radius", "success"),
        ("disorientation (deg)", "radius error (nm)", "within 1 deg and 1 nm (%)"),
        strict=True,
    ):
        colour = colours[1] if name == "success" else colours[0]
        for end, (line, dashes) in LINES.items():
            column, is_bound = f"{name}_{end}", end == "bound_median"
            if column not in table:
                continue
            shared = {"x": "point", "y": column, "ax": axes, "legend": False}
            look = {"color": "0.25" if is_bound else colour, "dashes": dashes, "label": line}
            seaborn.lineplot(means, errorbar=None, **look, **shared)
            if not is_bound:
                seaborn.scatterplot(table, color=colour, alpha=0.5, **shared)
        axes.set_xscale("log")
        axes.set_xticks(means["point"], [f"{x:,.0f}" if x < 1e6 else f"{x:.0e}" for x in means["point"]])
        axes.set_xticks([], minor=True)
        axes.tick_params(axis="x", rotation=45)
        axes.set(xlabel=AXIS_LABELS[table["axis"].iloc[0]], ylabel=label)
    for axes in panels[:2]:
        axes.set_yscale("log")
        decade_labels(axes.yaxis)
    panels[2].set_ylim(-3, 103)
    panels[2].legend(*panels[0].get_legend_handles_labels(), frameon=False)
    images, repetitions = int(table["images"].iloc[0]), int(table["repetition"].max()) + 1
    figure.suptitle(
        f"{table['method'].iloc[0]}: {images} test images, {repetitions} repetitions", fontsize=11
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
    write_file(folder / "sweep.csv", table.to_csv(index=False).encode())
    write_file(folder / "sweep.md", sweep_markdown(table).encode())
    with atomic_path(folder / "sweep.png") as temporary:
        sweep_figure(table).savefig(temporary, format="png")
    return table
