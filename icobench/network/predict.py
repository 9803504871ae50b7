"""From images to radius, orientation hypotheses and error bars, with one trained network."""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from icobench.answer import AMBIGUOUS, OK, UNTRAINED, Answer, Hypotheses
from icobench.errors import InputError
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import random_quaternions
from icobench.images.image_set import KINDS, ImageSet
from icobench.images.symmetry import DIHEDRAL, dihedral_images, dihedral_orientations
from icobench.network.checkpoint import TrainedNetwork
from icobench.network.inputs import CANONICAL_PIXELS, brightness, is_canonical, network_input, valid_pixels
from icobench.network.orbit import DIMENSION, Decoded, decode, embed
from icobench.network.recipe import Recipe

__all__ = ["answer", "complete", "within_training"]

CHUNK = 32
"""Images at a time: their features stay in a processor's caches."""

VERSIONS = (0, 4, 2, 6, 1, 5, 3, 7)
"""Dihedral versions in the order in which they are averaged. The output of a network in polar coordinates
turns with quarter turns of the image anyway; only the mirror image adds information: two are enough."""

AMBIGUOUS_SCORE_GAP = 0.1
"""The network alone cannot decide between two hypotheses whose scores are closer than this."""

COARSEST = 1.25
"""Pixels in units of the canonical ones; coarser ones blur the fringes of large bodies."""

CHAIN_HOLE_DEGREES, CHAIN_REACH = 14.5, 0.5
"""Largest hole of the eleven filters, an eighth of the image, and the least sin(theta) at a crop's edge."""

MARGIN_PIXELS = 1.5

LEAST_PHOTON_SHARE = 0.8
"""Of the least photon number in training: counts scatter, and masks differ."""


def complete(images: ImageSet) -> Tensor:
    """(N,) which images have all pixels of the canonical grid, as in training with clean images."""
    experiment = images.known_experiment
    if not is_canonical(experiment) or experiment.pixel_average:
        return torch.zeros(len(images), dtype=torch.bool)
    return (images.mask | ~valid_pixels(experiment).to(images.mask.device)).flatten(1).all(1).cpu()


def within_training(recipe: Recipe, images: ImageSet) -> Tensor:
    """(N,) which images have a hole, a reach, photons and pixels like the training images of a recipe.

    Error bars of a network do not hold for other images.
    """
    if recipe.images == "clean":
        return complete(images)
    experiment, device = images.known_experiment, images.images.device
    # Networks for counts were not trained with flawed log images, nor the others with photon counts.
    other_kind = images.kind != "intensity" and (images.kind == "log") is not recipe.log_images
    pixel = 2 * experiment.sin_theta_max / experiment.pixels
    if other_kind or pixel / 2 > COARSEST / CANONICAL_PIXELS:
        return torch.zeros(len(images), dtype=torch.bool)
    usable = images.mask & valid_pixels(experiment).to(device)
    sine = experiment.sin_theta(torch.float32).to(device)
    nearest = torch.where(usable, sine, 2.0).amin((-2, -1))
    farthest = torch.where(usable, sine, 0.0).amax((-2, -1))
    hole, reach = recipe.hole_degrees[1], recipe.sine[0]
    if recipe.log_images:
        hole, reach = CHAIN_HOLE_DEGREES, CHAIN_REACH
    within = nearest <= math.sin(math.radians(hole)) + MARGIN_PIXELS * pixel
    within &= farthest >= reach
    if images.kind == "counts":
        photons = torch.where(usable, images.images, 0.0).sum((-2, -1))
        within &= photons >= LEAST_PHOTON_SHARE * recipe.photons[0]
    return within.cpu()


@lru_cache(maxsize=1)
def _version_matrices() -> Tensor:
    """(8, 13, 13): from the orbit vector of each dihedral version to that of the original image."""
    quaternion = random_quaternions(400, torch.Generator().manual_seed(8))
    vectors = embed(quaternion).numpy()
    versions = [embed(dihedral_orientations(quaternion, index)).numpy() for index in range(DIHEDRAL)]
    matrices = [np.linalg.lstsq(vectors, turned, rcond=None)[0].T for turned in versions]
    return torch.as_tensor(np.stack(matrices), dtype=torch.float32)


def _with_twin(vector: Tensor, decoded: Decoded) -> Decoded:
    """The same with the near twin wherever the decoder did not find a further maximum.

    A half turn about the beam is nearly invisible at small angles (small bodies, cropped detectors).
    """
    missing = decoded.score == -1
    if not missing.any():
        return decoded
    # k (w, x, y, z) = (-z, -y, x, w)
    half_turn = decoded.quaternion[:, 0].flip(-1) * decoded.quaternion.new_tensor((-1.0, -1.0, 1.0, 1.0))
    twin = to_fundamental_domain(half_turn)
    score = torch.nn.functional.cosine_similarity(embed(twin), vector.double(), dim=-1).unsqueeze(-1)
    return Decoded(
        torch.where(missing.unsqueeze(-1), twin.unsqueeze(1), decoded.quaternion),
        torch.where(missing, score, decoded.score),
    )


def _outputs(trained: TrainedNetwork, images: ImageSet, versions: int) -> tuple[Tensor, ...]:
    """Orbit vectors (N, 13), radii, variances of radius and orientation (N,), averaged over versions."""
    layout, refraction = trained.network.layout, 1 - images.known_experiment.refractive_index.real
    shown, usable = brightness(images, trained.recipe.log_images, trained.recipe.decades)
    matrices = _version_matrices().to(shown.device)
    vector = shown.new_zeros(len(shown), DIMENSION)
    # The average of the radius's numbers, not of the radii: these may lie on different turns of a circle.
    size = shown.new_zeros(len(shown), layout.size.dimension)
    variances = shown.new_zeros(2, len(shown))
    for index in VERSIONS[:versions]:
        turned = dihedral_images(shown, index), dihedral_images(usable, index)
        channels = network_input(*turned, refraction)
        with torch.inference_mode():  # only here: cached tables must stay usable in training
            output = trained.network(channels).float()
        orientation, numbers = layout.split(output)
        if layout.target.dimension != DIMENSION:
            orientation = embed(layout.target.decode(orientation)).float()
        vector = vector + orientation @ matrices[index] / versions
        size = size + numbers / versions
        variances = variances + torch.stack(layout.error_bars(output)).square() / versions
    return vector, layout.size.decode(size), *variances


@torch.no_grad()
def answer(trained: TrainedNetwork, images: ImageSet, hypotheses: int = 2, versions: int = 1) -> Answer:
    """Reconstruct images with one trained network, see :func:`~icobench.network.selection.predict`.

    Raises:
        InputError: the network was not trained for this experiment.
        ValueError: wrong shapes, kind or number of versions.
    """
    pixels = images.known_experiment.pixels
    shape = (len(images), pixels, pixels)
    if not images.images.shape == images.mask.shape == shape or images.mask.dtype != torch.bool:
        raise ValueError(
            f"images and bool masks must have the shape {shape}, got {tuple(images.images.shape)} and "
            f"{images.mask.dtype} {tuple(images.mask.shape)}"
        )
    if images.kind not in KINDS or not 1 <= versions <= len(VERSIONS):
        raise ValueError(
            f"kind must be one of {', '.join(KINDS)} and versions 1 to 8, got {images.kind!r} and {versions}"
        )
    if problems := trained.misfits(images.known_experiment):
        raise InputError(f"the network's weights were made for {'; '.join(problems)}")
    device = next(trained.network.parameters()).device
    outputs = []
    for rows in torch.arange(len(images)).split(CHUNK):
        chunk = images.subset(rows)
        chunk = replace(chunk, images=chunk.images.to(device), mask=chunk.mask.to(device))
        outputs.append(_outputs(trained, chunk, versions))
    vector, radius_nm, *variances = (torch.cat(column).cpu() for column in zip(*outputs, strict=True))
    radius_nm = radius_nm.double()
    radius_std, orientation_std = (variance.double().sqrt() for variance in variances)
    factors = trained.card.get("spread_factors", {})
    decoded = _with_twin(vector, decode(vector, hypotheses))
    within = within_training(trained.recipe, images).tolist()
    close = (decoded.score[:, :1] - decoded.score[:, 1:2] < AMBIGUOUS_SCORE_GAP).any(1).tolist()
    return Answer(
        radius_nm,
        decoded.quaternion[:, 0].clone(),
        status=[
            UNTRAINED if not familiar else AMBIGUOUS if ambiguous else OK
            for familiar, ambiguous in zip(within, close, strict=True)
        ],
        radius_std_nm=float(factors.get("radius", 1.0)) * radius_std,
        orientation_std_deg=float(factors.get("orientation", 1.0)) * orientation_std,
        hypotheses=Hypotheses(radius_nm[:, None].repeat(1, hypotheses), decoded.quaternion, decoded.score),
        index=images.numbers,
    )
