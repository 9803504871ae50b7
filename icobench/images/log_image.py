"""Logarithmic images, as detectors' quick looks and the paper's data sets show them."""

import torch
from torch import Tensor

__all__ = ["intensity_from_log", "log_image"]


def log_image(intensity: Tensor, decades: float = 6.0, scale: Tensor | None = None) -> Tensor:
    """log10 of the intensity over its maximum, clipped to ``decades`` and mapped to [0, 1].

    Args:
        intensity: (..., H, W), not negative.
        decades: dynamic range kept.
        scale: intensity that maps to 1, (...); each image's maximum by default.

    Returns:
        (..., H, W); 0 at and below 10^-decades of the scale.
    """
    if scale is None:
        scale = intensity.amax((-2, -1))
    tiny = torch.finfo(intensity.dtype).tiny
    relative = intensity / scale[..., None, None].clamp_min(tiny)
    return (1 + torch.log10(relative.clamp_min(10**-decades)) / decades).clamp(0, 1)


def intensity_from_log(image: Tensor, decades: float = 6.0) -> Tensor:
    """Relative intensity of a log image: 10^(decades (image - 1)), 0 where the image is 0."""
    return torch.where(image > 0, 10 ** (decades * (image - 1)), torch.zeros_like(image))
