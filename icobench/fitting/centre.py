"""Where the beam met the detector, from the images themselves.

All images of a run share the beam's position. At the fitted radius and orientation a Gauss-Newton step of
each image, in rotation, radius, scale and position at once, says how far the assumed position is off.
"""

import torch
from torch import Tensor

from icobench.fitting.levenberg_marquardt import weighted
from icobench.fitting.objectives import Objective

__all__ = ["centre_steps"]

CHUNK = 32

POSITION = slice(4, 6)
"""Its columns, after those of rotation and radius; the scale is the last."""


def centre_steps(objective: Objective, radius_nm: Tensor, quaternion: Tensor) -> tuple[Tensor, Tensor]:
    """How far the beam is from where the experiment has it, image by image.

    Args:
        objective: images and counting simulator.
        radius_nm: (N,) fitted radii.
        quaternion: (N, 4) fitted orientations.

    Returns:
        steps (N, 2) in pixels, x and y, and their standard deviations (N, 2) for Pearson residuals.
    """
    device = objective.simulator.device
    steps, spreads = [], []
    for image in torch.arange(len(radius_nm), device=device).split(CHUNK):
        intensity, slopes = objective.simulator.intensity_jacobian(
            image, radius_nm.to(device)[image], quaternion.to(device)[image], also=("centre",)
        )
        columns, residuals = weighted(objective, image, intensity, slopes)
        # Parameters of very different sizes: unit columns.
        size = columns.norm(dim=2).clamp_min(1e-300)
        columns = columns / size.unsqueeze(2)
        gradient = columns @ residuals.unsqueeze(-1)
        inverse = torch.linalg.pinv(columns @ columns.mT, rtol=1e-10, hermitian=True)
        step = -(inverse @ gradient).squeeze(-1) / size
        spread = inverse.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt() / size
        steps.append(step[:, POSITION].cpu())
        spreads.append(spread[:, POSITION].cpu())
    return torch.cat(steps), torch.cat(spreads)
