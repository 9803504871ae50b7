"""Where the beam met the detector, from the images themselves.

All images of a run share the beam's position, a nuisance parameter of every one of them. At the fitted radius
and orientation each image tells how far the assumed position is off: a Gauss-Newton step in all its
parameters at once (rotation, radius, scale, position).
"""

import torch
from torch import Tensor

from icobench.fitting.objectives import Objective

__all__ = ["centre_steps"]

CHUNK = 32

PARAMETERS = 6
"""Rotation, radius and position; the scale is the seventh column."""


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
        at = radius_nm.to(device)[image], quaternion.to(device)[image]
        intensity, slopes = objective.simulator.intensity_jacobian(image, *at, also=("centre",))
        residual, weight = objective.residuals(image, intensity)
        columns = torch.cat((slopes, intensity.unsqueeze(1)), 1) * weight.unsqueeze(1)
        columns = columns.flatten(2).double()
        # Parameters of very different sizes: unit columns.
        size = columns.norm(dim=2).clamp_min(1e-300)
        columns = columns / size.unsqueeze(2)
        gradient = columns @ residual.flatten(1).double().unsqueeze(-1)
        inverse = torch.linalg.pinv(columns @ columns.mT, rtol=1e-10, hermitian=True)
        step = -(inverse @ gradient).squeeze(-1) / size
        spread = inverse.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt() / size
        steps.append(step[:, PARAMETERS - 2 : PARAMETERS].cpu())
        spreads.append(spread[:, PARAMETERS - 2 : PARAMETERS].cpu())
    return torch.cat(steps), torch.cat(spreads)
