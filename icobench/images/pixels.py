"""What pixels hold, photon counts or log images, and which of them are usable."""

import math

import torch
from torch import Tensor

from icobench.simulator.experiment import Experiment

__all__ = ["expected_counts", "intensity_from_log", "log_image", "photon_counts", "usable_pixels"]


def usable_pixels(experiment: Experiment, hole_degrees: float = 0.0, sine: float = 1.0) -> Tensor:
    """Valid pixels outside the direct beam's hole and inside a smaller detector: (pixels, pixels) bool.

    The hole's rim is at a scattering angle; the detector covers the square |k_x|, |k_y| <= ``sine`` k.
    """
    x, y = experiment.transverse()
    covered = (x.abs() <= sine + 1e-9) & (y.abs() <= sine + 1e-9)
    return experiment.valid() & covered & (experiment.sin_theta() >= math.sin(math.radians(hole_degrees)))


def expected_counts(intensity: Tensor, mask: Tensor, photons: Tensor | float) -> Tensor:
    """Mean photon counts (B, H, W) of images that hold ``photons`` on their usable pixels, 0 on others.

    The intensity (B, H, W) has any unit; the mask is (H, W) or (B, H, W), ``photons`` a number or (B,).
    """
    usable = intensity * mask
    photons = torch.as_tensor(photons, dtype=usable.dtype, device=usable.device)
    return usable * (photons / usable.sum((-2, -1)))[..., None, None]


def photon_counts(
    intensity: Tensor, mask: Tensor, photons: Tensor | float, generator: torch.Generator | None = None
) -> Tensor:
    """Poisson counts with ``photons`` expected on the usable pixels: (B, H, W) whole floats."""
    return torch.poisson(expected_counts(intensity, mask, photons), generator=generator)


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
