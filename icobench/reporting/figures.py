"""Figures of a comparison, drawn without pyplot: they need no display and share no state."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from icobench.reporting.courses import evaluation_grid, median_course
from icobench.reporting.quantiles import error_quantile
from icobench.reporting.running_time import first_hits, solved_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from torch import Tensor

__all__ = ["GALLERY_COLUMNS", "error_against_evaluations", "gallery", "targets_reached"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F6A00")
"""Okabe and Ito's colours, safe for colour-blind readers, less the ones too pale for lines."""
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (5, 1, 1, 1)))
MARKERS = "osD^vP"
GREY = "0.6"
TEXT, SMALL = 11, 9

ZERO = 0.6
"""Where 0 evaluations stands on the logarithmic axis."""

GALLERY_COLUMNS = 6

PANELS = (
    ("disorientation_deg", "bound_orientation_deg", "disorientation (deg)", "Orientation"),
    ("radius_error_nm", "bound_radius_nm", "radius error (nm)", "Radius"),
)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _marker(axes: "Axes", x: float, values: np.ndarray, style: dict[str, Any], label: str) -> None:
    low, median, high = (float(error_quantile(values, f)) for f in (0.1, 0.5, 0.9))
    if not math.isfinite(median):
        return
    top = high if math.isfinite(high) else median
    axes.errorbar(
        [x], [median], yerr=[[median - low], [top - median]], fmt=style["marker"], color=style["color"],
        markersize=7, capsize=4, elinewidth=1.5, linestyle="none", label=label, zorder=4,
    )  # fmt: skip


def _course(
    axes: "Axes", fits: "DataFrame", column: str, grid: np.ndarray, style: dict[str, Any], label: str
) -> None:
    course = median_course(fits, column, grid)
    low, median, high = (
        np.where(np.isfinite(part), part, np.nan) for part in (course.low, course.median, course.high)
    )
    color = style["color"]
    axes.fill_between(course.evaluations, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(course.evaluations, median, color=color, linestyle=style["linestyle"], linewidth=2, label=label)
    axes.plot(course.evaluations[-1:], median[-1:], style["marker"], color=color, markersize=6)


def _evaluation_axis(axes: "Axes", largest: float, with_zero: bool) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter

    decades = math.ceil(math.log10(max(largest, 2)) - 1e-9)
    ticks = [10.0**power for power in range(decades + 1)]
    left = 0.85
    if with_zero:
        ticks.insert(0, ZERO)
        left = 0.45
        axes.axvspan(left, 0.77, color="0.94", linewidth=0, zorder=0)
    axes.set_xlim(left, 1.6 * max(largest, 2))
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "0" if x < 1 else f"{x:,.0f}"))
    axes.xaxis.set_minor_locator(
        FixedLocator([digit * 10.0**power for power in range(decades) for digit in range(2, 10)])
    )
    axes.set_xlabel("simulated images per reconstructed image", fontsize=TEXT)


def _trained(axes: "Axes", training: "DataFrame", column: str) -> None:
    """A marker for every size of the training set, where it stands if a single image has to pay for it."""
    style = {"marker": "x", "color": "0.15"}
    label = "network by size of its training set"
    for size, own in training.groupby("fixed_simulations"):
        _marker(axes, float(size), own[column].to_numpy(dtype=float), style, label)
        label = "_nolegend_"


def error_against_evaluations(
    results: "DataFrame", curves: "DataFrame", training: "DataFrame | None" = None
) -> "Figure":
    """Errors of every method against the simulations that it spends on an image.

    Two panels, orientation and radius. A fitted method is a line, the median over images, in a
    band from the 10 % to the 90 % quantile, from where every image has a first value; each image's
    last value is carried forward. A method without a course, as the network, is a marker with
    the same quantiles as its bar, at "0" if it simulates nothing. Dashed: median Cramer-Rao
    bound.

    Args:
        results: one row per image and method, as in ``results.parquet``.
        curves: one row per method, image and step, as in ``curves.parquet``.
        training: one row per image, seed and training set of a sweep over its size, with the columns
            fixed_simulations, disorientation_deg, radius_error_nm: markers where the size is on the axis, as
            in figure 4b of the paper.
    """
    from matplotlib.ticker import FuncFormatter

    figure = _figure(10.5, 5.0)
    panels = figure.subplots(1, 2)
    methods = list(dict.fromkeys(results["method"]))
    courses = {method: curves[curves["method"] == method] for method in methods}
    fitted = {m for m in methods if m != "network" and courses[m].groupby("image").size().gt(1).any()}
    grid = evaluation_grid(curves)
    largest = max(float(results["evaluations"].max()), float(grid[-1]))
    if training is not None:
        largest = max(largest, float(training["fixed_simulations"].max()))
    bounds = results.drop_duplicates("image")
    for axes, (column, bound_column, label, title) in zip(panels, PANELS, strict=True):
        axes.set_xscale("log")
        axes.set_yscale("log", nonpositive="clip")
        at_zero = 0
        for index, method in enumerate(methods):
            style = {
                "color": PALETTE[index % len(PALETTE)],
                "linestyle": LINES[index % len(LINES)],
                "marker": MARKERS[index % len(MARKERS)],
            }
            if method in fitted:
                _course(axes, courses[method], column, grid, style, method)
                continue
            own = results[results["method"] == method]
            spent = float(own["evaluations"].mean())
            if method == "network" or spent < 1:
                x = ZERO * 1.08**at_zero
                at_zero += 1
            else:
                x = spent
            _marker(axes, x, own[column].to_numpy(dtype=float), style, method)
        if training is not None:
            _trained(axes, training, column)
        bound = float(bounds[bound_column].median())
        if bound > 0:
            axes.axhline(
                bound, color="0.25", linestyle="--", linewidth=1.3, label="Cramér-Rao bound (median)"
            )
        _evaluation_axis(axes, largest, at_zero > 0)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
        axes.set_ylabel(label, fontsize=TEXT)
        axes.set_title(title, fontsize=TEXT + 1)
        axes.grid(True, which="major", color="0.88", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=SMALL + 1)
    handles = dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
    names = [method for method in methods if method in handles]
    names += [name for name in handles if name not in names]
    if names:
        figure.legend(
            [handles[name] for name in names], names, loc="outside lower center", frameon=False,
            ncols=min(5, len(names)), fontsize=SMALL + 1,
        )  # fmt: skip
    return figure


def targets_reached(results: "DataFrame", curves: "DataFrame") -> "Figure":
    """Share of pairs of image and target that are solved within a budget, of simulations and of seconds.

    The targets are :data:`~icobench.reporting.running_time.TARGETS`, from 10 degrees and 3 nm down to
    0.1 degrees and 0.1 nm. Within a fit time passes as simulations do; without simulations the answer
    comes at the end.

    Args:
        results: one row per image and method, as in ``results.parquet``.
        curves: one row per method, image and step, as in ``curves.parquet``.
    """
    figure = _figure(10.5, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    methods = list(dict.fromkeys(results["method"]))
    largest = max(2.0, float(results["evaluations"].max()))
    times = results["seconds"].to_numpy(dtype=float)
    shortest, longest = max(1e-5, 0.1 * float(np.nanmin(times))), max(1e-4, float(np.nanmax(times)))
    for index, method in enumerate(methods):
        style = {"color": PALETTE[index % len(PALETTE)], "linestyle": LINES[index % len(LINES)]}
        hits, total = first_hits(curves, results, method)
        own = results[results["method"] == method].sort_values("image")
        share = np.divide(hits, total[:, None], out=np.ones_like(hits), where=total[:, None] > 0)
        seconds = np.where(np.isinf(hits), np.inf, share * own["seconds"].to_numpy(dtype=float)[:, None])
        for axes, spent, low, high in (
            (panels[0], np.maximum(hits, ZERO), ZERO, largest),
            (panels[1], seconds, shortest, longest),
        ):
            grid = np.geomspace(low, 1.3 * high, 200)
            axes.step(grid, 100 * solved_share(spent, grid), where="post", linewidth=2, label=method, **style)
    for axes, label in zip(panels, ("simulated images per image", "seconds per image"), strict=True):
        axes.set_xscale("log")
        axes.set_ylim(0, 100)
        axes.set_xlabel(label, fontsize=TEXT)
        axes.grid(True, which="major", color="0.88", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=SMALL + 1)
    panels[0].set_ylabel("image-target pairs solved (%)", fontsize=TEXT)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", frameon=False,
        ncols=min(5, len(methods)), fontsize=SMALL + 1,
    )  # fmt: skip
    return figure


def _decades(intensity: Any, scale: Any, mask: np.ndarray, decades: float) -> np.ma.MaskedArray:
    """log10 of the intensity over ``scale``, clipped to ``decades``: (H, W), masked where not usable."""
    import torch

    from icobench.images.log_image import log_image

    image = log_image(torch.as_tensor(intensity), decades, scale).numpy()
    return np.ma.array(decades * (image - 1), mask=~mask)


def _images(
    target: Any, reconstruction: Any, mask: Any, decades: float
) -> tuple[np.ma.MaskedArray, np.ma.MaskedArray]:
    import torch

    usable = np.asarray(mask, dtype=bool)
    target = torch.as_tensor(target).double()
    reconstruction = torch.as_tensor(reconstruction).double()
    scale = (target * torch.as_tensor(usable)).amax()
    return _decades(target, scale, usable, decades), _decades(reconstruction, scale, usable, decades)


def _show(axes: "Axes", image: np.ndarray, **options: Any) -> Any:
    axes.set_facecolor(GREY)
    axes.tick_params(labelsize=SMALL - 1)
    return axes.imshow(image, origin="lower", interpolation="nearest", **options)


def _colormap(name: str) -> Any:
    import matplotlib

    return matplotlib.colormaps[name].with_extremes(bad=GREY)


def _colour_bar(figure: "Figure", shown: Any, axes: Any, label: str, **options: Any) -> None:
    bar = figure.colorbar(shown, ax=axes, **options)
    bar.set_label(label, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL - 1)


def gallery(
    targets: "Tensor | np.ndarray | Sequence",
    reconstructions: "Tensor | np.ndarray | Sequence",
    masks: "Tensor | np.ndarray | Sequence",
    titles: Sequence[str],
    decades: float = 6.0,
) -> "Figure":
    """Targets above reconstructions above their difference, one column per image (the first six).

    Args:
        targets: (N, H, W) intensities or counts.
        reconstructions: (N, H, W) in the unit of the targets.
        masks: (N, H, W) True where usable; other pixels are grey.
        titles: N titles.
        decades: dynamic range below each target's maximum; what lies below is shown as its end.
    """
    count = min(len(targets), GALLERY_COLUMNS)
    if not 0 < count <= min(len(reconstructions), len(masks), len(titles)):
        raise ValueError(
            f"expected as many targets, reconstructions, masks and titles, at least one, got {len(targets)}, "
            f"{len(reconstructions)}, {len(masks)}, {len(titles)}"
        )
    figure = _figure(2.1 * count + 1.6, 7.2)
    grid = figure.subplots(3, count, squeeze=False, sharex=True, sharey=True)
    for column in range(count):
        pair = _images(targets[column], reconstructions[column], masks[column], decades)
        for row, image in enumerate(pair):
            shown = _show(grid[row, column], image, cmap=_colormap("viridis"), vmin=-decades, vmax=0)
        change = _show(grid[2, column], pair[1] - pair[0], cmap=_colormap("PuOr"), vmin=-1, vmax=1)
        grid[0, column].set_title(titles[column], fontsize=SMALL, parse_math=False)
        grid[2, column].set_xlabel("x (pixel)", fontsize=SMALL)
    for row, name in enumerate(("target", "reconstruction", "difference")):
        grid[row, 0].set_ylabel(f"{name}\ny (pixel)", fontsize=SMALL)
    _colour_bar(figure, shown, grid[:2], "log10 (intensity / target's maximum)", shrink=0.8)
    _colour_bar(figure, change, grid[2:], "log10 (reconstruction / target)", extend="both")
    return figure
