"""The picture of `icobench reconstruct --preview`: targets beside reconstructions."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from icobench.images.counts import expected_counts
from icobench.images.log_image import intensity_from_log
from icobench.images.source import ImageSource
from icobench.simulator.simulator import Simulator
from icobench.storage import atomic_path

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_preview"]


def write_preview(path: Path, source: ImageSource, table: "pd.DataFrame", simulator: Simulator) -> None:
    """Draw the first images that could be fitted, their reconstructions and the differences.

    Args:
        path: PNG to write.
        source: of the images; only those drawn are read again.
        table: reconstruction, a row per image, one of which at least did not fail.
        simulator: of the believed experiment.
    """
    from icobench.reporting.figures import GALLERY_COLUMNS, gallery

    rows = table[table["radius_nm"].notna()].head(GALLERY_COLUMNS)
    stack = source.read(rows["index"].tolist()).stack
    radius = torch.tensor(rows["radius_nm"].to_numpy())
    quaternion = torch.tensor(rows[["q_w", "q_x", "q_y", "q_z"]].to_numpy())
    intensity = simulator.intensity(radius.to(simulator.device), quaternion.to(simulator.device)).cpu()
    mask = torch.from_numpy(stack.mask) & simulator.valid.cpu()
    images, decades = torch.from_numpy(stack.images), 6.0
    if stack.kind == "counts":
        # One photon is the darkest thing that counts can show.
        decades = max(1.0, math.log10(float((images * mask).amax())))
    else:
        images = intensity_from_log(images)
    mean = expected_counts(intensity, mask, (images * mask).sum((-2, -1)))
    titles = [
        f"image {index}: R = {radius:.1f} nm\n{status}"
        for index, radius, status in zip(rows["index"], rows["radius_nm"], rows["status"], strict=True)
    ]
    figure = gallery(images, mean, mask, titles, decades)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
