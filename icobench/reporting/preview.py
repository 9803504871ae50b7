"""The picture of `icobench reconstruct --preview`: targets beside reconstructions."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from icobench.images.counts import expected_counts
from icobench.images.files import ImageStack, atomic_path
from icobench.images.log_image import log_image
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["write_preview"]

MOST_IMAGES = 6


def write_preview(path: Path, stack: ImageStack, table: "pd.DataFrame", simulator: Simulator) -> None:
    """Draw the first images, their reconstructions and the differences as log images.

    Args:
        path: PNG to write.
        stack: images as read.
        table: reconstruction, a row per image.
        simulator: of the believed experiment.
    """
    from icobench.reporting.figures import gallery

    rows = table.head(MOST_IMAGES)
    count = len(rows)
    radius = torch.as_tensor(rows["radius_nm"].to_numpy())
    quaternion = torch.as_tensor(rows[["q_w", "q_x", "q_y", "q_z"]].to_numpy())
    intensity = simulator.intensity(radius.to(simulator.device), quaternion.to(simulator.device)).cpu()
    mask = torch.from_numpy(stack.mask[:count]) & simulator.valid.cpu()
    images = torch.from_numpy(stack.images[:count])
    if stack.kind == "counts":
        mean = expected_counts(intensity, mask, (images * mask).sum((-2, -1)))
        scale = torch.maximum((images * mask).amax((-2, -1)), mean.amax((-2, -1)))
        targets, answers = log_image(images * mask, scale=scale), log_image(mean, scale=scale)
    else:
        targets, answers = images * mask, log_image(intensity * mask)
    titles = [
        f"image {row.index}: R = {row.radius_nm:.1f} nm, {row.status}" for row in rows.itertuples(index=False)
    ]
    figure = gallery(targets.numpy(), answers.numpy(), mask.numpy(), titles)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
