"""What a network sees: the brightness of pixels on one canonical grid.

Any detector is brought to the canonical 128 x 128 grid of the forward half space by
exact area rebinning, which keeps the sum of counts. Networks for photon counts see log(1 + counts), the
others log images; each kind of image is brought to what the network knows.
"""

from functools import lru_cache

import torch
from torch import Tensor

from icobench.images.log_image import intensity_from_log, log_image
from icobench.simulator.experiment import Experiment

__all__ = [
    "CANONICAL_PIXELS",
    "brightness",
    "canonical_counts",
    "count_brightness",
    "network_input",
    "valid_pixels",
]

CANONICAL_PIXELS = 128
QUASI_PHOTONS = 1e6
"""Photons given to an image that has no counting statistics of its own."""

MOST_PHOTONS = 1e7
"""Brighter images are scaled down to this, the brightest in training."""


@lru_cache(maxsize=8)
def valid_pixels(experiment: Experiment) -> Tensor:
    """Those of the forward half space, (pixels, pixels) bool; not to be changed."""
    return experiment.valid()


def _overlap(experiment: Experiment, axis: int) -> Tensor:
    """(canonical, pixels) share of each detector pixel that falls into each canonical one, along x or y."""
    pixels, half = experiment.pixels, experiment.pixels // 2
    width = experiment.sin_theta_max / half
    low = (torch.arange(pixels, dtype=torch.float64) - half - 0.5 - experiment.centre_offset[axis]) * width
    own_half = CANONICAL_PIXELS // 2
    own_low = (torch.arange(CANONICAL_PIXELS, dtype=torch.float64) - own_half - 0.5) / own_half
    top = torch.minimum(low + width, own_low[:, None] + 1 / own_half)
    bottom = torch.maximum(low, own_low[:, None])
    return (top - bottom).clamp_min(0) / width


def _is_canonical(experiment: Experiment) -> bool:
    same = experiment.pixels == CANONICAL_PIXELS and experiment.sin_theta_max == 1
    return same and experiment.centre_offset == (0.0, 0.0)


def canonical_counts(
    images: Tensor, mask: Tensor, experiment: Experiment, counting: bool = True
) -> tuple[Tensor, Tensor]:
    """Rebin images to the canonical grid and divide out the solid-angle factor.

    Args:
        images: (B, H, W) photon counts, or relative intensities if not ``counting``.
        mask: (B, H, W) True where usable.
        experiment: whose grid the images have.
        counting: whether the numbers are photons.

    Returns:
        counts (B, 128, 128) and mask (B, 128, 128), float32 and bool.
    """
    mask = mask & valid_pixels(experiment).to(mask.device)
    # Single bad pixels may hold anything, NaN included.
    images = torch.where(mask, images, torch.zeros_like(images)).float()
    if experiment.solid_angle_factor:
        images = images * experiment.cos_theta(torch.float32).to(images.device)
    if not _is_canonical(experiment):
        x, y = (_overlap(experiment, axis).to(images.device, torch.float32) for axis in (0, 1))
        images = y @ images @ x.T
        seen = y @ mask.float() @ x.T
        # A canonical pixel that is only half covered would read half its counts.
        full = (y.sum(1)[:, None] * x.sum(1)).clamp_min(1e-6)
        mask = (seen / full > 0.75) & (full > 0.75 * full.max())
        images = torch.where(mask, images / (seen / full).clamp_min(0.75), 0.0)
    total = images.sum((-2, -1)).clamp_min(1e-30)
    target = total.clamp_max(MOST_PHOTONS) if counting else torch.full_like(total, QUASI_PHOTONS)
    return images * (target / total)[:, None, None], mask


def count_brightness(counts: Tensor) -> Tensor:
    """log(1 + counts) / 4, which is 0 to about 4; same shape."""
    return torch.log1p(counts) * 0.25


def brightness(
    images: Tensor, mask: Tensor, experiment: Experiment, kind: str, log_images: bool, decades: float = 6.0
) -> tuple[Tensor, Tensor]:
    """Images as a network for counts or for log images knows them, with masks.

    Args:
        images: (B, H, W) counts, intensities or log images.
        mask: (B, H, W) True where usable.
        experiment: whose grid the images have.
        kind: "counts", "intensity" or "log".
        log_images: whether the network sees log images.
        decades: dynamic range of log images.

    Returns:
        brightness (B, 128, 128) float32 and mask (B, 128, 128).
    """
    if log_images and kind == "log" and _is_canonical(experiment) and not experiment.solid_angle_factor:
        mask = mask & valid_pixels(experiment).to(mask.device)
        return torch.where(mask, images, torch.zeros_like(images)).float(), mask
    if kind == "log":
        images = intensity_from_log(images, decades)
    counts, mask = canonical_counts(images, mask, experiment, kind == "counts")
    return (log_image(counts, decades) if log_images else count_brightness(counts)) * mask, mask


def network_input(brightness: Tensor, mask: Tensor, refraction: Tensor | float) -> Tensor:
    """Channels of a network: (B, 3, 128, 128).

    Brightness, 1 where usable, and a constant: the refraction 1 - Re n in units of 0.1.

    Args:
        brightness: (B, 128, 128), 0 where masked.
        mask: (B, 128, 128) or (128, 128).
        refraction: (B,) or number, 1 - Re n.
    """
    usable = mask.to(brightness.dtype).expand_as(brightness)
    refraction = torch.as_tensor(refraction, dtype=brightness.dtype, device=brightness.device)
    constant = (refraction / 0.1).reshape(-1, 1, 1).expand_as(brightness)
    return torch.stack((brightness * usable, usable, constant), 1)
