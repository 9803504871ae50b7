"""Which images lie within what a network was trained for; what it says of others is a guess."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from icobench.network.inputs import CANONICAL_PIXELS, valid_pixels
from icobench.network.recipe import Recipe
from icobench.simulator.experiment import Experiment

__all__ = ["familiar", "whole"]

COARSEST = 1.25
"""Pixels in units of the canonical ones; coarser ones blur the fringes of large bodies."""

CHAIN_HOLE_DEGREES = 14.5
"""Largest hole of the eleven filters, an eighth of the image."""

MARGIN_PIXELS = 1.5


def _fine(experiment: Experiment) -> bool:
    """Whether the detector samples as finely as the canonical grid."""
    return experiment.sin_theta_max / experiment.pixels <= COARSEST / CANONICAL_PIXELS


@lru_cache(maxsize=8)
def _sines(experiment: Experiment) -> Tensor:
    """Of the pixels' scattering angles."""
    return experiment.sin_theta(torch.float32)


def whole(mask: Tensor, experiment: Experiment) -> Tensor:
    """Which images are complete on the canonical grid itself, (N,): all that the network for clean ones saw.

    Args:
        mask: (N, H, W) True where usable.
        experiment: whose grid the images have.
    """
    same = experiment.pixels == CANONICAL_PIXELS and experiment.sin_theta_max == 1
    if not same or experiment.centre_offset != (0.0, 0.0) or experiment.pixel_average:
        return torch.zeros(len(mask), dtype=torch.bool)
    return (mask | ~valid_pixels(experiment).to(mask.device)).flatten(1).all(1).cpu()


def familiar(recipe: Recipe, images: Tensor, mask: Tensor, experiment: Experiment, kind: str) -> Tensor:
    """Which images have a hole, a reach, photons and pixels as the network's training images had, (N,).

    Args:
        recipe: of the training.
        images: (N, H, W) photon counts, log images or intensities.
        mask: (N, H, W) True where usable.
        experiment: whose grid the images have.
        kind: "counts", "log" or "intensity".
    """
    if recipe.images == "clean":
        return whole(mask, experiment)
    # A network for counts has never seen log images with their flaws, nor the others a count.
    other_kind = kind != "intensity" and (kind == "log") is not recipe.log_images
    if other_kind or not _fine(experiment):
        return torch.zeros(len(mask), dtype=torch.bool)
    usable = mask & valid_pixels(experiment).to(mask.device)
    sine = _sines(experiment).to(mask.device)
    pixel = 2 * experiment.sin_theta_max / experiment.pixels
    nearest = torch.where(usable, sine, 2.0).amin((-2, -1))
    farthest = torch.where(usable, sine, 0.0).amax((-2, -1))
    hole, reach = CHAIN_HOLE_DEGREES, 0.5
    if not recipe.log_images:
        hole, reach = recipe.hole_degrees[1], recipe.sine[0]
    known = nearest <= math.sin(math.radians(hole)) + MARGIN_PIXELS * pixel
    known &= farthest >= reach
    if kind == "counts":
        photons = torch.where(usable, images, 0.0).sum((-2, -1))
        known &= photons >= 0.8 * recipe.photons[0]
    return known.cpu()
