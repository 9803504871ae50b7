"""Statistical figures, drawn by seaborn without pyplot: they need no display and share no state.

Throughout, ``results`` is the table of a run, one row per image and method, as in ``results.parquet``, and
``curves`` has one row per method, image and step of a fit, as in ``curves.parquet``.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from icobench.reporting.break_even import (
    Account,
    break_even_curve,
    not_worse,
    trained_and_competitors,
)
from icobench.reporting.error_bars import TRUSTED, own_order
from icobench.reporting.statistics import error_quantile, first_hits

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = [
    "carried_forward", "courses", "decade_labels", "empty_figure", "legend_below", "plot_break_even",
    "plot_errors", "plot_rejection", "plot_targets_reached", "styled", "svg",
]  # fmt: skip

COLOURS = (0, 1, 2, 3, 4, 9, 7)
"""Of seaborn's palette for colour-blind readers, without those that look alike or are too pale for lines."""

DASHES = ("", (5, 1.5), (1.5, 1), (5, 1, 1, 1))
MARKERS = "osD^vP"

PANELS = (
    ("disorientation_deg", "bound_orientation_deg", "disorientation (deg)", "Orientation"),
    ("radius_error_nm", "bound_radius_nm", "radius error (nm)", "Radius"),
)

ERRORS = [column for column, *_ in PANELS]

POINTS_PER_DECADE = 20
"""Of evaluations, where courses are drawn."""

LEAST_KEPT = 0.2
"""Share of the answers from which rejection is drawn; fewer images say little."""

MOST_IMAGES = 1e8
"""To break-even; more is drawn as never."""

INFINITE = 1e30
"""Stands for the infinite error of a missing answer, and for the cost of a target that is never met, because
seaborn leaves out infinite values."""

LOCK = RLock()


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of all figures; matplotlib's own settings return afterwards."""
    import matplotlib
    import seaborn

    style = {**seaborn.axes_style("whitegrid"), **seaborn.plotting_context("notebook", font_scale=0.9)}
    with LOCK, matplotlib.rc_context({**style, "axes.spines.top": False, "axes.spines.right": False}):
        yield


def empty_figure(width: float, height: float) -> "Figure":
    """A white figure of this size in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def legend_below(figure: "Figure", first: Sequence[str] = (), columns: int = 5) -> None:
    """One legend below all panels instead of theirs, every name once; those of ``first`` come first."""
    entries: dict[str, Any] = {}
    for panel in figure.axes:
        entries = dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True)) | entries
        if legend := panel.get_legend():
            legend.remove()
    names = [name for name in first if name in entries]
    names += [name for name in entries if name not in names]
    if names:
        handles = [entries[name] for name in names]
        figure.legend(handles, names, loc="outside lower center", frameon=False, ncols=columns, fontsize=10)


def decade_labels(axis: Any) -> None:
    """Plain numbers, not powers of ten, on a logarithmic axis; between decades only where there are few."""

    def between(value: float, _: Any) -> str:
        low, high = axis.get_view_interval()
        return f"{value:g}" if high < 30 * low and f"{value:e}"[0] in "235" else ""

    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter(between)


def svg(figure: "Figure") -> bytes:
    """A figure as SVG with its letters as outlines; the same figure gives the same bytes."""
    import matplotlib

    stream = io.BytesIO()
    with LOCK, matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "icobench"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _styles(methods: list[str]) -> dict[str, dict[str, Any]]:
    """The look of each method by the names of seaborn's arguments."""
    import seaborn

    colours = seaborn.color_palette("colorblind")
    looks = {"palette": [colours[place] for place in COLOURS], "dashes": DASHES, "markers": MARKERS}
    return {look: dict(zip(methods, cycle(values), strict=False)) for look, values in looks.items()}


def _without_gaps(table: "DataFrame") -> "DataFrame":
    """The table with large errors for missing ones."""
    return table.assign(**{name: table[name].fillna(INFINITE).clip(upper=INFINITE) for name in ERRORS})


def carried_forward(fits: "DataFrame", grid: np.ndarray) -> "DataFrame":
    """Each image's latest errors at every number of evaluations of an ascending grid (G,).

    ``fits`` are the curves of one method. Returns evaluations, image, step and the errors, a row for each of
    G evaluations and each image; NaN before an image's first step, :data:`INFINITE` where its latest step has
    no answer.
    """
    import pandas as pd

    images = np.unique(fits["image"])
    wanted = pd.DataFrame({"evaluations": np.repeat(grid, len(images)), "image": np.tile(images, len(grid))})
    ordered = fits.sort_values(["evaluations", "step"], kind="stable").astype({"evaluations": float})
    columns = ["evaluations", "image", "step", *ERRORS]
    return pd.merge_asof(wanted, _without_gaps(ordered)[columns], on="evaluations", by="image")


def courses(curves: "DataFrame", methods: list[str]) -> "DataFrame":
    """Errors of several methods against evaluations: rows of :func:`carried_forward` with the method.

    A course begins where every image has a value, and ends at the last evaluation of any image.
    """
    import pandas as pd

    parts = []
    for method in methods:
        fits = curves[curves["method"] == method]
        spent = fits.groupby("image")["evaluations"]
        start, stop = max(1.0, float(spent.min().max())), max(1.0, float(spent.max().max()))
        grid = np.unique(np.geomspace(start, stop, 2 + int(POINTS_PER_DECADE * math.log10(stop / start))))
        parts.append(carried_forward(fits, grid).assign(method=method))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _finite(value: float) -> float:
    """NaN, which is not drawn, for what is infinite."""
    return float(value) if value < 1e-3 * INFINITE else math.nan


def _median(errors: Any) -> float:
    return _finite(error_quantile(errors, 0.5))


def _band(errors: Any) -> tuple[float, float]:
    """The 10 and 90 % quantiles."""
    return _finite(error_quantile(errors, 0.1)), _finite(error_quantile(errors, 0.9))


def _bar(errors: Any) -> tuple[float, float]:
    """The same, up to the median where the 90 % quantile is infinite."""
    low, high = _band(errors)
    return low, _median(errors) if math.isnan(high) else high


@styled()
def plot_errors(results: "DataFrame", curves: "DataFrame", training: "DataFrame | None" = None) -> "Figure":
    """Errors of every method against the simulations that it spends on an image.

    Two panels, orientation and radius. A fitted method is a line, the median over images, in a band from the
    10 % to the 90 % quantile, from where every image has a first value; each image's last value is carried
    forward. A method without a course, such as the network, is a marker with the same quantiles as its bar.
    Dashed: median Cramer-Rao bound.

    Args:
        training: one row per image, seed and training set of a sweep over its size, with the columns
            fixed_simulations, disorientation_deg, radius_error_nm: a marker at every size, as in figure 4b of
            the paper.
    """
    import seaborn

    figure = empty_figure(10.5, 5.0)
    methods = list(dict.fromkeys(results["method"]))
    steps = curves[curves["method"] != "network"].groupby(["method", "image"]).size()
    fitted = [method for method in methods if method in steps.index and steps[method].max() > 1]
    lines = courses(curves, fitted)
    points = _without_gaps(results[~results["method"].isin(fitted)])
    points["evaluations"] = points.groupby("method")["evaluations"].transform("mean")
    points.loc[points["method"] == "network", "evaluations"] = 0.0
    if results["image"].nunique() == 1:  # seaborn then draws the values, not their quantiles
        lines, points = (table.replace(INFINITE, np.nan) for table in (lines, points))
    largest = max([2.0, *(table["evaluations"].max() for table in (results, curves) if len(table))])
    looks = _styles(methods)
    markers = {"linestyle": "", "err_style": "bars", "errorbar": _bar, "err_kws": {"capsize": 4}}
    bounds = results.drop_duplicates("image")
    for axes, (column, bound_column, label, title) in zip(figure.subplots(1, 2), PANELS, strict=True):
        shared: dict[str, Any] = {"y": column, "estimator": _median, "ax": axes}
        named = {"x": "evaluations", "hue": "method", "style": "method", "palette": looks["palette"]}
        if len(lines):
            ends = {"markers": looks["markers"], "markevery": [-1], "dashes": looks["dashes"]}
            seaborn.lineplot(lines, errorbar=_band, **ends, **named, **shared)
        if len(points):
            seaborn.lineplot(
                points, markers=looks["markers"], dashes=False, markersize=8, **markers, **named, **shared
            )
        if training is not None:
            trained = "network by size of its training set"
            look = {"marker": "X", "color": "0.15", "label": trained}
            seaborn.lineplot(_without_gaps(training), x="fixed_simulations", **look, **markers, **shared)
            largest = max(largest, float(training["fixed_simulations"].max()))
        if (bound := float(bounds[bound_column].median())) > 0:
            axes.axhline(bound, color="0.25", linestyle="--", label="Cramér-Rao bound (median)")
        # Linear between 0 and 1, so that methods without simulations are on the axis.
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_xlim(-0.4 if len(points) and points["evaluations"].min() < 1 else 0.8, 1.6 * largest)
        axes.set_yscale("log", nonpositive="clip")
        decade_labels(axes.xaxis)
        decade_labels(axes.yaxis)
        axes.set(xlabel="simulated images per reconstructed image", ylabel=label, title=title)
    legend_below(figure, methods)
    return figure


@styled()
def plot_targets_reached(results: "DataFrame", curves: "DataFrame") -> "Figure":
    """Share of pairs of image and target that are solved within a budget, of simulations and of seconds.

    The targets are :data:`~icobench.reporting.statistics.TARGETS`, from 10 degrees and 3 nm down to
    0.1 degrees and 0.1 nm. Within a fit time passes as simulations do; without simulations the answer
    comes at the end.
    """
    import seaborn

    figure = empty_figure(10.5, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    looks = _styles(list(dict.fromkeys(results["method"])))
    for method, dashes in looks["dashes"].items():
        hits, total = first_hits(curves, results, method)
        times = results[results["method"] == method].sort_values("image")["seconds"].to_numpy(dtype=float)
        share = np.divide(hits, total[:, None], out=np.ones_like(hits), where=total[:, None] > 0)
        seconds = np.where(np.isinf(hits), np.inf, share * times[:, None])
        for axes, spent in zip(panels, (hits, seconds), strict=True):
            # One more value without weight, so that the line goes on to the right end.
            seaborn.ecdfplot(
                x=np.append(np.fmin(spent, INFINITE), INFINITE),
                weights=np.append(np.ones(spent.size), 0.0), stat="percent", label=method, ax=axes,
                color=looks["palette"][method], linestyle=(0, dashes) if dashes else "-",
            )  # fmt: skip
    seconds = results["seconds"].to_numpy(dtype=float)
    panels[0].set_xscale("symlog", linthresh=1, linscale=0.4)
    panels[0].set_xlim(-0.1, 1.3 * max(2.0, float(results["evaluations"].max())))
    panels[1].set_xscale("log")
    panels[1].set_xlim(max(1e-5, 0.1 * float(np.nanmin(seconds))), 1.3 * max(1e-4, float(np.nanmax(seconds))))
    for axes in panels:
        decade_labels(axes.xaxis)
    panels[0].set(ylim=(0, 101), ylabel="image-target pairs solved (%)", xlabel="simulated images per image")
    panels[1].set_xlabel("seconds per image")
    legend_below(figure)
    return figure


@styled()
def plot_rejection(runs: "dict[str, DataFrame]") -> "Figure":
    """What is left wrong if only the answers are kept that each method trusts most; a row per test set.

    Left the share that is not solved, right the 90 % quantile of the larger error, both of
    :func:`~icobench.reporting.error_bars.own_order`. A point stands where all answers are kept whose status
    announces no trouble, and no others.

    Args:
        runs: results by name of the test set.
    """
    figure = empty_figure(10.5, 0.9 + 2.5 * len(runs))
    methods = list(dict.fromkeys(method for results in runs.values() for method in results["method"]))
    looks = _styles(methods)
    rows = figure.subplots(len(runs), 2, squeeze=False, sharex=True)
    for (left, right), (name, results) in zip(rows, runs.items(), strict=True):
        for method, answers in results.groupby("method", sort=False):
            kept, unsolved, error = own_order(answers)
            drawn = kept >= LEAST_KEPT
            trusted = np.isclose(kept, answers["status"].isin(TRUSTED).mean()) & drawn & (kept < 1)
            colour, dashes = looks["palette"][method], looks["dashes"][method]
            line = {"color": colour, "linestyle": (0, dashes) if dashes else "-", "label": method}
            for axes, values in ((left, 100 * unsolved), (right, np.where(np.isinf(error), np.nan, error))):
                axes.plot(100 * kept[drawn], values[drawn], **line)
                axes.plot(100 * kept[trusted], values[trusted], "o", color=colour, markersize=5)
        right.axhline(1.0, color="0.25", linestyle=":", linewidth=1.2)
        top = max(5.0, 1.05 * left.dataLim.y1)
        left.set(xlim=(101, 100 * LEAST_KEPT - 1), ylim=(-0.03 * top, top), ylabel="not solved (%)")
        right.set(yscale="log", ylabel="larger error (deg or nm)")
        decade_labels(right.yaxis)
        for axes in (left, right):
            axes.set_title(name)
    for axes in rows[-1]:
        axes.set_xlabel("answers kept (%)")
    rows[0, 1].plot([], [], ":", color="0.25", label="limit of solved")
    legend_below(figure, methods)
    return figure


@styled()
def plot_break_even(
    results: "DataFrame", accounts: list[Account], marks: dict[str, float]
) -> "Figure | None":
    """Images from which each method with a network is cheaper, a panel for each competitor.

    A line ends where there is no break-even; bands are intervals of 95 %.

    Args:
        results: of a run.
        accounts: of its methods, all or some.
        marks: seconds of one simulation by what takes them, drawn as vertical lines.

    Returns:
        None if there is no method with a network or no competitor.
    """
    import seaborn
    from matplotlib.ticker import EngFormatter

    trained, competitors = trained_and_competitors(accounts)
    if not trained or not competitors:
        return None
    figure = empty_figure(10.5, 5.2)
    figure.set_layout_engine("constrained", wspace=0.05)
    colours, duration = seaborn.color_palette("colorblind"), EngFormatter("s")
    cost = np.geomspace(1e-5, 10.0, 121)
    panels = figure.subplots(1, len(competitors), sharey=True, squeeze=False)[0]
    for axes, competitor in zip(panels, competitors, strict=True):
        for place, network in zip(cycle(COLOURS), trained, strict=False):
            value, low, high = np.clip(break_even_curve(network, competitor, cost), 1.0, MOST_IMAGES)
            value[value == MOST_IMAGES] = low[low == MOST_IMAGES] = np.nan
            dashes = "-" if not_worse(results, network.method, competitor.method) else "--"
            axes.plot(cost, value, dashes, color=colours[place], label=network.method)
            axes.fill_between(cost, low, high, color=colours[place], alpha=0.2, linewidth=0)
        for name, seconds in marks.items():
            axes.axvline(seconds, color="0.35", linestyle=":", linewidth=1.2)
            axes.text(
                1.04 * seconds, 0.99, f"{name}: {duration(float(f'{seconds:.3g}'))}", rotation=90, va="top",
                fontsize=8.5, color="0.25", transform=axes.get_xaxis_transform(),
            )  # fmt: skip
        axes.set(xscale="log", xlim=cost[[0, -1]], title=f"against {competitor.method}")
        axes.set_xlabel("cost of one simulation (core-seconds, or seconds of a GPU)")
        axes.xaxis.set_major_formatter(duration)
    panels[0].plot([], [], "--", color="0.4", label="dashed: not shown to be as accurate")
    panels[0].set(ylabel="images to break-even", yscale="log", ylim=(0.8, 1.3 * MOST_IMAGES))
    decade_labels(panels[0].yaxis)
    legend_below(figure, columns=6)
    return figure
