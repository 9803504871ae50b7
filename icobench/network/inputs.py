"""What a network sees: the brightness of pixels on one canonical grid.

Images of any detector are brought to the canonical 128 x 128 grid of the forward half space by exact area
rebinning, which keeps the sum of counts. Networks for photon counts see log(1 + counts), the others log
images; every kind of image is converted to what the network was trained with.
"""

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.images.image_set import ImageSet
from icobench.images.pixels import intensity_from_log, log_image
from icobench.simulator.experiment import Experiment

__all__ = [
    "CANONICAL_PIXELS",
    "brightness",
    "canonical_counts",
    "count_brightness",
    "is_canonical",
    "network_input",
    "require_canonical",
    "valid_pixels",
    "without_factor",
]  # fmt: skip

CANONICAL_PIXELS = 128

QUASI_PHOTONS = 1e6
"""Photons given to an image that has no counting statistics of its own."""

MOST_PHOTONS = 1e7
"""Brighter images are scaled down to this, the brightest in training."""

LEAST_FACTOR = 0.25
"""Pixels with a smaller polarisation factor times efficiency are masked: divided by it, their noise would
rule."""

CLEAR_OF_NOISE = 2.0
"""Standard deviations of the read-out noise that a pixel must be above for a network to see it."""

LEAST_COVERED = 0.75
"""Share of a canonical pixel that usable detector pixels must cover. One that is half covered would show half
its counts."""


CPU = torch.device("cpu")


@lru_cache(maxsize=16)
def valid_pixels(experiment: Experiment, device: torch.device = CPU) -> Tensor:
    """Those of the forward half space, (pixels, pixels) bool; shared, so it must not be modified."""
    return experiment.valid().to(device)


@lru_cache(maxsize=8)
def _cosines(experiment: Experiment, device: torch.device) -> Tensor:
    return experiment.cos_theta(torch.float32).to(device)


@lru_cache(maxsize=8)
def _correction(experiment: Experiment, device: torch.device) -> Tensor:
    return experiment.correction().float().to(device)


def is_canonical(experiment: Experiment) -> bool:
    """Whether a detector's pixels are those of the canonical grid."""
    same = experiment.pixels == CANONICAL_PIXELS and experiment.sin_theta_max == 1
    return same and experiment.centre_offset == (0.0, 0.0)


def require_canonical(experiment: Experiment, where: str = "") -> None:
    """Refuse an experiment whose pixels training cannot use; its wavelength and material do not matter.

    The InputError names the differences, after ``where``, such as a file's name and a colon.
    """
    deviations = {
        "a flat detector": not experiment.orthographic,
        f"{experiment.pixels} x {experiment.pixels} pixels": experiment.pixels != CANONICAL_PIXELS,
        f"sin_theta_max {experiment.sin_theta_max:g}": experiment.sin_theta_max != 1,
        "an off-centre beam": experiment.centre_offset != (0.0, 0.0),
        "a solid-angle factor": experiment.solid_angle_factor,
        "a polarised beam": experiment.polarization is not None,
        "an efficiency": bool(experiment.efficiency),
    }
    if problems := [name for name, present in deviations.items() if present]:
        raise InputError(
            f"{where}training needs {CANONICAL_PIXELS} x {CANONICAL_PIXELS} pixels over the whole forward"
            f" half space, not {', '.join(problems)}; other detectors' images are brought to this grid"
        )


@lru_cache(maxsize=16)
def _overlap(experiment: Experiment, axis: int, device: torch.device) -> Tensor:
    """(canonical, pixels) share of each detector pixel that falls into each canonical one, along x or y."""
    half, canonical_half = experiment.pixels // 2, CANONICAL_PIXELS // 2
    width = experiment.sin_theta_max / half
    numbers = torch.arange(experiment.pixels, dtype=torch.float64)
    low = (numbers - half - 0.5 - experiment.centre_offset[axis]) * width
    canonical_low = torch.arange(CANONICAL_PIXELS, dtype=torch.float64) - canonical_half - 0.5
    canonical_low = canonical_low[:, None] / canonical_half
    top = torch.minimum(low + width, canonical_low + 1 / canonical_half)
    return ((top - torch.maximum(low, canonical_low)).clamp_min(0) / width).to(device, torch.float32)


def canonical_counts(images: ImageSet) -> tuple[Tensor, Tensor]:
    """Counts (B, 128, 128), float32, and mask on the canonical grid, the experiment's gain divided out.

    Intensities are scaled to 1e6 photons; photon counts are kept, up to 1e7.
    """
    experiment, device = images.known_experiment, images.images.device
    mask = images.mask & valid_pixels(experiment, device)
    # Masked pixels may hold anything, NaN included.
    counts = torch.where(mask, images.images, 0.0).float()
    if images.readout is not None:
        # Networks know no read-out noise: what may be noise alone counts nothing, as after photon finding.
        counts = torch.where(counts > CLEAR_OF_NOISE * images.readout.to(device).sqrt(), counts, 0.0)
    if experiment.solid_angle_factor:
        counts = counts * _cosines(experiment, device)
    if experiment.polarization is not None or experiment.efficiency:
        counts, mask = without_factor(counts, mask, _correction(experiment, device))
    if not is_canonical(experiment):
        x, y = (_overlap(experiment, axis, device) for axis in (0, 1))
        counts = y @ counts @ x.T
        usable_area = y @ mask.float() @ x.T
        area = (y.sum(1)[:, None] * x.sum(1)).clamp_min(1e-6)
        covered = usable_area / area
        mask = (covered > LEAST_COVERED) & (area > LEAST_COVERED * area.max())
        counts = torch.where(mask, counts / covered.clamp_min(LEAST_COVERED), 0.0)
    total = counts.sum((-2, -1)).clamp_min(1e-30)
    is_counts = images.kind == "counts"
    photons = total.clamp_max(MOST_PHOTONS) if is_counts else torch.full_like(total, QUASI_PHOTONS)
    return counts * (photons / total)[:, None, None], mask


def without_factor(counts: Tensor, mask: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """Counts (B, H, W) and masks as of a scalar wave and a perfect detector, given the factor, (H, W) or
    (B, H, W), by which polarisation and efficiency lower the intensity."""
    mask = mask & (factor >= LEAST_FACTOR)
    return torch.where(mask, counts / factor.clamp_min(LEAST_FACTOR), 0.0), mask


def count_brightness(counts: Tensor) -> Tensor:
    """log(1 + counts) / 4, which is 0 to about 4; same shape."""
    return torch.log1p(counts) * 0.25


def brightness(images: ImageSet, log_images: bool, decades: float = 6.0) -> tuple[Tensor, Tensor]:
    """Brightness (B, 128, 128) float32 and mask (B, 128, 128) of images as a network was trained with them.

    Args:
        images: B images of any kind with their experiment.
        log_images: whether the network sees log images of so many ``decades``, or photon counts.
    """
    experiment = images.known_experiment
    if images.kind == "log":
        scalar = (
            not (experiment.solid_angle_factor or experiment.efficiency) and experiment.polarization is None
        )
        if log_images and is_canonical(experiment) and scalar:
            mask = images.mask & valid_pixels(experiment, images.mask.device)
            return torch.where(mask, images.images, 0.0).float(), mask
        images = replace(images, images=intensity_from_log(images.images, decades), kind="intensity")
    counts, mask = canonical_counts(images)
    return (log_image(counts, decades) if log_images else count_brightness(counts)) * mask, mask


def network_input(brightness: Tensor, mask: Tensor, refraction: Tensor | float) -> Tensor:
    """Channels of a network, (B, 3, 128, 128): brightness, 1 where usable, and a constant.

    Args:
        brightness: (B, 128, 128).
        mask: (B, 128, 128) or (128, 128).
        refraction: (B,) or number, 1 - Re n; the constant is this in units of 0.1.
    """
    usable = mask.to(brightness.dtype).expand_as(brightness)
    if not isinstance(refraction, Tensor):
        refraction = torch.full((), refraction, device=brightness.device)
    refraction = refraction.to(brightness)
    constant = (refraction / 0.1).reshape(-1, 1, 1).expand_as(brightness)
    return torch.stack((brightness * usable, usable, constant), 1)
