"""Images beside what was reconstructed from them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icobench.geometry.shapes import SHAPES
from icobench.images.image_set import ImageSet
from icobench.images.pixels import expected_counts, intensity_from_log, log_image
from icobench.reporting.figures import empty_figure, styled
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from icobench.images.image_source import ImageSource

__all__ = ["GALLERY_COLUMNS", "as_intensities", "gallery", "shown_decades", "write_preview"]

GALLERY_COLUMNS = 6
GREY = "0.6"
SMALL = 9


def as_intensities(images: ImageSet) -> torch.Tensor:
    """(N, H, W) counts or intensities; log images as intensities relative to their maximum."""
    pixels = torch.as_tensor(images.images)
    return intensity_from_log(pixels) if images.kind == "log" else pixels


def shown_decades(kind: str, brightest: float) -> float:
    """Decades below the maximum that are worth showing: photon counts end at one photon."""
    return min(max(math.log10(max(brightest, 1.0)), 1.0), 6.0) if kind == "counts" else 6.0


def _decades(intensity: Any, scale: Any, mask: np.ndarray, decades: float) -> np.ma.MaskedArray:
    """log10 of the intensity over ``scale``, clipped to ``decades``: (H, W), masked where not usable."""
    image = log_image(torch.as_tensor(intensity).double(), decades, scale).numpy()
    return np.ma.array(decades * (image - 1), mask=~mask)


def _show(axes: "Axes", image: np.ndarray, colours: str, **limits: Any) -> Any:
    import matplotlib

    axes.set_facecolor(GREY)
    axes.grid(False)
    axes.tick_params(labelsize=SMALL - 1)
    colour_map = matplotlib.colormaps[colours].with_extremes(bad=GREY)
    return axes.imshow(image, origin="lower", interpolation="nearest", cmap=colour_map, **limits)


def _colour_bar(figure: "Figure", shown: Any, axes: Any, label: str, **options: Any) -> None:
    bar = figure.colorbar(shown, ax=axes, **options)
    bar.set_label(label, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL - 1)


@styled()
def gallery(
    targets: Sequence | torch.Tensor | np.ndarray,
    reconstructions: Sequence | torch.Tensor | np.ndarray,
    masks: Sequence | torch.Tensor | np.ndarray,
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
        raise ValueError("expected a reconstruction, a mask and one of the titles for each of the targets")
    figure = empty_figure(2.1 * count + 1.6, 7.2)
    grid = figure.subplots(3, count, squeeze=False, sharex=True, sharey=True)
    for column in range(count):
        usable = np.asarray(masks[column], dtype=bool)
        scale = (torch.as_tensor(targets[column]).double() * torch.as_tensor(usable)).amax()
        pair = [_decades(images[column], scale, usable, decades) for images in (targets, reconstructions)]
        for row, image in enumerate(pair):
            shown = _show(grid[row, column], image, "viridis", vmin=-decades, vmax=0)
        change = _show(grid[2, column], pair[1] - pair[0], "PuOr", vmin=-1, vmax=1)
        grid[0, column].set_title(titles[column], fontsize=SMALL, parse_math=False)
        grid[2, column].set_xlabel("x (pixel)", fontsize=SMALL)
    for row, name in enumerate(("target", "reconstruction", "difference")):
        grid[row, 0].set_ylabel(f"{name}\ny (pixel)", fontsize=SMALL)
    _colour_bar(figure, shown, grid[:2], "log10 (intensity / target's maximum)", shrink=0.8)
    _colour_bar(figure, change, grid[2:], "log10 (reconstruction / target)", extend="both")
    return figure


def _simulated(rows: "pd.DataFrame", answers: torch.Tensor, simulator: Simulator) -> torch.Tensor:
    """Intensities of the rows of a table; of their shapes, where it has them."""
    if "shape" not in rows:
        return simulator.intensity(answers[:, 0], answers[:, 1:])
    shapes = [SHAPES[name] for name in rows["shape"]]
    bodies = [
        shape.body(row[shape.parameter] if shape.parameter else None)
        for shape, row in zip(shapes, rows.to_dict("records"), strict=True)
    ]
    return simulator.intensity_of(bodies, answers[:, 0], answers[:, 1:])


def write_preview(path: Path, source: "ImageSource", table: "pd.DataFrame", simulator: Simulator) -> None:
    """Draw the first images that could be fitted, their reconstructions and the differences, as a PNG.

    ``table`` has a row per image, of which at least one did not fail. Only the images that are drawn are read
    again from their source; the simulator is that of the assumed experiment.
    """
    rows = table[table["radius_nm"].notna()].head(GALLERY_COLUMNS)
    images = source.read(rows["index"].tolist())
    answers = torch.tensor(rows[["radius_nm", "q_w", "q_x", "q_y", "q_z"]].to_numpy()).to(simulator.device)
    intensity = _simulated(rows, answers, simulator).cpu()
    mask = images.mask & simulator.valid.cpu()
    targets = as_intensities(images) * mask
    titles = [
        f"image {row.index}: R = {row.radius_nm:.1f} nm\n{row.status}" for row in rows.itertuples(index=False)
    ]
    expected = expected_counts(intensity, mask, targets.sum((-2, -1)))
    figure = gallery(targets, expected, mask, titles, shown_decades(images.kind, float(targets.amax())))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
