"""Photon counting."""

import torch
from torch import Tensor

__all__ = ["expected_counts", "photon_counts"]


def expected_counts(intensity: Tensor, mask: Tensor, photons: Tensor | float) -> Tensor:
    """Mean photon counts of images that hold ``photons`` on their usable pixels.

    Args:
        intensity: (B, H, W), any unit.
        mask: (H, W) or (B, H, W), True where usable.
        photons: number or (B,).

    Returns:
        (B, H, W); 0 where the mask is False.
    """
    usable = intensity * mask
    photons = torch.as_tensor(photons, dtype=usable.dtype, device=usable.device)
    return usable * (photons / usable.sum((-2, -1)))[..., None, None]


def photon_counts(
    intensity: Tensor,
    mask: Tensor,
    photons: Tensor | float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Poisson counts with ``photons`` expected on the usable pixels: (B, H, W) whole floats."""
    return torch.poisson(expected_counts(intensity, mask, photons), generator=generator)
