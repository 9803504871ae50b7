"""Samples of one posterior: a corner plot, and the orientations in the fundamental domain."""

import itertools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from icobench.geometry.convex import icosahedron
from icobench.geometry.orientation import nearest_equivalent
from icobench.geometry.rotations import (
    quaternion_conjugate,
    quaternion_multiply,
    quaternion_to_rotation_vector,
    turned,
)
from icobench.reporting.figures import styled
from icobench.storage import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["corner_figure", "write_corner"]

LABELS = ("radius (nm)", "turn about x (deg)", "turn about y (deg)", "turn about z (deg)")
BINS = 30
NEAR_RAD = 0.35
"""Orientations nearer than this to the best one are of its mode."""

MARGIN_SHARE = 1e-4
"""Weight at either end of an axis that may lie outside of it."""


def _turns(quaternion: Tensor, centre: Tensor) -> Tensor:
    """Rotation vectors (S, 3) in degrees about the lab axes, from an orientation (4,) to samples (S, 4)."""
    near = nearest_equivalent(quaternion, centre.expand_as(quaternion))
    relative = quaternion_multiply(near, quaternion_conjugate(centre).expand_as(near))
    return torch.rad2deg(quaternion_to_rotation_vector(relative))


def _centre(quaternion: Tensor, weight: Tensor) -> Tensor:
    """The mean orientation (4,) of the samples around the one with the largest weight."""
    centre = quaternion[weight.argmax()]
    for _ in range(3):
        turns = torch.deg2rad(_turns(quaternion, centre))
        near = weight * (turns.norm(dim=1) < NEAR_RAD)
        centre = turned(centre, (near[:, None] * turns).sum(0) / near.sum())
    return centre


def _range(values: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    order = np.argsort(values)
    share = weight[order].cumsum()
    ends = np.searchsorted(share, (MARGIN_SHARE, 1 - MARGIN_SHARE)).clip(0, len(values) - 1)
    low, high = values[order][ends]
    margin = 0.1 * max(high - low, 1e-6)
    return float(low - margin), float(high + margin)


def _domain(
    figure: "Figure", place: tuple[float, float, float, float], points: Tensor, weight: np.ndarray
) -> None:
    """Orientations (S, 4) as vectors tan(angle / 2) axis in the dodecahedron of the fundamental domain."""
    body = icosahedron()
    corners = body.normals * math.tan(math.pi / 10) / body.inradius
    distances = np.linalg.norm(corners[:, None] - corners, axis=-1)
    edge = distances[distances > 1e-6].min()
    axes: Any = figure.add_axes(place, projection="3d")
    for first, second in itertools.combinations(range(len(corners)), 2):
        if distances[first, second] < 1.01 * edge:
            axes.plot(*np.stack((corners[first], corners[second]), 1), color="0.7", linewidth=0.7)
    vectors = (points[:, 1:] / points[:, :1]).numpy()
    size = 1 + 30 * weight / weight.max()
    axes.scatter(vectors[:, 0], vectors[:, 1], vectors[:, 2], s=size, color="C3", alpha=0.4, linewidths=0)
    axes.set_box_aspect((1, 1, 1))
    axes.set_axis_off()
    axes.set_title("orientations in the\nfundamental domain", fontsize=9)


@styled()
def corner_figure(radius_nm: Tensor, quaternion: Tensor, weight: Tensor, title: str = "") -> "Figure":
    """Marginal distributions of radius and orientation, in pairs, and the orientations in their domain.

    Args:
        radius_nm: (S,).
        quaternion: (S, 4) in the fundamental domain. Shown as rotation vectors about the lab axes, from the
            middle of the mode with the largest weight.
        weight: (S,), with a sum of 1.
    """
    from matplotlib.figure import Figure

    turns = _turns(quaternion, _centre(quaternion, weight))
    values = torch.cat((radius_nm[:, None], turns), 1).numpy()
    shares = weight.numpy()
    limits = [_range(column, shares) for column in values.T]
    figure = Figure(figsize=(8, 8))
    grid = figure.subplots(4, 4, gridspec_kw={"wspace": 0.08, "hspace": 0.08})
    for row, column in itertools.product(range(4), range(4)):
        axes = grid[row, column]
        axes.grid(False)
        axes.tick_params(labelsize=8)
        if column > row:
            axes.set_visible(False)
            continue
        axes.set_xlim(*limits[column])
        if column == row:
            axes.hist(values[:, row], BINS, limits[row], weights=shares, color="C0", histtype="stepfilled")
            axes.set_yticks([])
        else:
            axes.scatter(
                values[:, column], values[:, row], s=1 + 12 * shares / shares.max(), color="C0", alpha=0.35,
                linewidths=0,
            )  # fmt: skip
            axes.set_ylim(*limits[row])
        if row == 3:
            axes.set_xlabel(LABELS[column], fontsize=9)
        else:
            axes.set_xticklabels([])
        if column == 0 and row:
            axes.set_ylabel(LABELS[row], fontsize=9)
        elif column:
            axes.set_yticklabels([])
    _domain(figure, (0.6, 0.58, 0.36, 0.36), quaternion, shares)
    figure.suptitle(title, fontsize=11)
    return figure


def write_corner(path: Path, samples: dict[str, Tensor], image: int) -> None:
    """Draw the posterior of one image of an answer's ``samples`` as PNG."""
    chosen = samples["index"] == image
    quaternion = torch.stack([samples[f"q_{axis}"][chosen] for axis in "wxyz"], 1)
    radius_nm, weight = samples["radius_nm"][chosen], samples["weight"][chosen]
    figure = corner_figure(radius_nm, quaternion, weight, f"posterior of image {image}")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
