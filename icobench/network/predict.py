"""From images to radius, orientation hypotheses and spreads, with one trained network."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import random_quaternions
from icobench.images.symmetry import DIHEDRAL, dihedral_images, dihedral_orientations
from icobench.network.checkpoint import TrainedNetwork
from icobench.network.familiar import familiar
from icobench.network.inputs import brightness, network_input
from icobench.network.orbit import DIMENSION, Decoded, decode, embed
from icobench.network.outputs import error_bars
from icobench.network.targets import Target
from icobench.simulator.experiment import Experiment

__all__ = ["NetworkAnswer", "answer"]

CHUNK = 32
"""Images at a time: their features stay in a processor's caches."""

VERSIONS = (0, 4, 2, 6, 1, 5, 3, 7)
"""In the order in which they are averaged. A network in polar coordinates turns with quarter turns by
itself; only the mirror image tells it something new, so the first two are enough."""


KINDS = ("counts", "log", "intensity")


class NetworkAnswer(NamedTuple):
    """A network's reconstruction of N images; all tensors on the CPU, float64 but for ``familiar``.

    Attributes:
        radius_nm: (N,).
        quaternion: (N, K, 4) hypotheses in the fundamental domain, best first; the near twin (a
            half turn about the beam) where the network's answer has no other maximum.
        score: (N, K) cosine between predicted and decoded orbit vector.
        radius_std_nm: (N,) predicted standard deviation, NaN from a network without.
        orientation_std_deg: (N,) predicted root mean square angle, NaN likewise.
        familiar: (N,) whether training has seen such images: hole, reach, photons and pixels.
    """

    radius_nm: Tensor
    quaternion: Tensor
    score: Tensor
    radius_std_nm: Tensor
    orientation_std_deg: Tensor
    familiar: Tensor


@lru_cache(maxsize=1)
def _turn_matrices() -> Tensor:
    """(8, 13, 13): orbit vector of each dihedral version from that of the original."""
    generator = torch.Generator().manual_seed(8)
    quaternion = random_quaternions(400, generator)
    vectors = embed(quaternion).numpy()
    matrices = []
    for index in range(DIHEDRAL):
        turned = embed(dihedral_orientations(quaternion, index)).numpy()
        matrices.append(np.linalg.lstsq(vectors, turned, rcond=None)[0].T)
    return torch.as_tensor(np.stack(matrices), dtype=torch.float32)


def _with_twin(vector: Tensor, decoded: Decoded) -> Decoded:
    """Let the near twin stand where the decoder found no other maximum.

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


def _orbit_vector(output: Tensor, target: Target) -> Tensor:
    """(B, D) in any target -> (B, 13)."""
    if target.dimension == DIMENSION:
        return output
    return embed(target.decode(output).quaternion[:, 0]).float()


def _check(images: Tensor, mask: Tensor, experiment: Experiment, kind: str, versions: int) -> None:
    shape = (len(images), experiment.pixels, experiment.pixels)
    if images.shape != shape or mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(
            f"images and bool masks must have the shape {shape}, got {tuple(images.shape)} and "
            f"{mask.dtype} {tuple(mask.shape)}"
        )
    if kind not in KINDS or not 1 <= versions <= len(VERSIONS):
        raise ValueError(f"kind must be one of {', '.join(KINDS)} and versions 1 to 8, "
                         f"got {kind!r} and {versions}")  # fmt: skip


@torch.no_grad()
def answer(
    trained: TrainedNetwork,
    images: Tensor,
    mask: Tensor,
    experiment: Experiment,
    kind: str = "counts",
    hypotheses: int = 2,
    versions: int = 1,
) -> NetworkAnswer:
    """Reconstruct images with a trained network.

    Args:
        trained: network and card.
        images: (N, H, W) photon counts, or log images in [0, 1].
        mask: (N, H, W) True where usable.
        experiment: whose grid and material the images have.
        kind: "counts", "log" or "intensity" (noise-free).
        hypotheses: orientations per image.
        versions: dihedral versions to average, 1 to 8.

    Raises:
        InputError: the network was not made for this experiment.
        ValueError: wrong shapes, kind or number of versions.
    """
    _check(images, mask, experiment, kind, versions)
    if problems := trained.misfits(experiment):
        raise InputError(f"the network's weights were made for {'; '.join(problems)}")
    device = next(trained.network.parameters()).device
    layout = trained.network.layout
    matrices = _turn_matrices().to(device)
    refraction = 1 - experiment.refractive_index.real
    outputs = []
    for piece in torch.arange(len(images)).split(CHUNK):
        shown, usable = brightness(
            images[piece].to(device), mask[piece].to(device), experiment, kind,
            trained.recipe.log_images, trained.recipe.decades,
        )  # fmt: skip
        # Of the versions' numbers, not of their radii: those may lie on different turns of a circle.
        vector, size = (
            shown.new_zeros(len(shown), DIMENSION),
            shown.new_zeros(len(shown), layout.size.dimension),
        )
        variances = shown.new_zeros(2, len(shown))
        for index in VERSIONS[:versions]:
            turned = network_input(dihedral_images(shown, index), dihedral_images(usable, index), refraction)
            with torch.inference_mode():  # around nothing that keeps tables for a training
                output = trained.network(turned).float()
            orientation, numbers = layout.split(output)
            vector = vector + _orbit_vector(orientation, layout.target) @ matrices[index] / versions
            size = size + numbers / versions
            variances = variances + torch.stack(error_bars(output, layout)).square() / versions
        outputs.append((vector, layout.size.decode(size), *variances))
    vector, radius, radius_variance, turn_variance = (
        torch.cat(part).cpu() for part in zip(*outputs, strict=True)
    )
    radius_factor, turn_factor = trained.factors()
    decoded = _with_twin(vector, decode(vector, hypotheses))
    return NetworkAnswer(
        radius.double(),
        decoded.quaternion,
        decoded.score,
        radius_factor * radius_variance.double().sqrt(),
        turn_factor * turn_variance.double().sqrt(),
        familiar(trained.recipe, images, mask, experiment, kind),
    )
