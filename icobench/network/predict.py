"""From images to radius, orientation hypotheses and spreads."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from icobench.geometry.orientation import to_fundamental_domain
from icobench.geometry.rotations import random_quaternions, rotate_about_beam
from icobench.images.log_image import intensity_from_log
from icobench.images.symmetry import DIHEDRAL, dihedral_images, dihedral_orientations
from icobench.network.checkpoint import TrainedNetwork
from icobench.network.inputs import canonical_counts, network_input
from icobench.network.orbit import DIMENSION, Decoded, decode, embed, spread_from_norm
from icobench.simulator.experiment import Experiment

__all__ = ["NetworkAnswer", "predict"]

CHUNK = 32


class NetworkAnswer(NamedTuple):
    """The network's reconstruction of N images.

    Attributes:
        radius_nm: (N,).
        quaternion: (N, K, 4) hypotheses in the fundamental domain, best first; the near twin (a
            half turn about the beam) where the predicted vector has no other maximum.
        score: (N, K) cosine between predicted and decoded orbit vector.
        radius_std_nm: (N,).
        orientation_std_deg: (N,) from the norm of the predicted vector.
    """

    radius_nm: Tensor
    quaternion: Tensor
    score: Tensor
    radius_std_nm: Tensor
    orientation_std_deg: Tensor


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
    half_turn = decoded.quaternion.new_full(decoded.quaternion.shape[:1], math.pi)
    twin = to_fundamental_domain(rotate_about_beam(decoded.quaternion[:, 0], half_turn))
    unit = torch.nn.functional.normalize(vector.double(), dim=-1)
    score = (embed(twin) * unit).sum(-1, keepdim=True)
    missing = decoded.score == -1
    return Decoded(
        torch.where(missing.unsqueeze(-1), twin.unsqueeze(1), decoded.quaternion),
        torch.where(missing, score, decoded.score),
    )


@torch.no_grad()
def predict(
    trained: TrainedNetwork,
    images: Tensor,
    mask: Tensor,
    experiment: Experiment,
    kind: str = "counts",
    hypotheses: int = 2,
    versions: int = DIHEDRAL,
) -> NetworkAnswer:
    """Reconstruct images with a trained network, averaged over turned and mirrored versions.

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
    """
    trained.check(experiment)
    device = next(trained.network.parameters()).device
    counting = kind == "counts"
    matrices = _turn_matrices().to(device)
    outputs = []
    for piece in torch.arange(len(images)).split(CHUNK):
        own, usable = images[piece].to(device), mask[piece].to(device)
        if kind == "log":
            own = intensity_from_log(own)
        counts, usable = canonical_counts(own, usable, experiment, counting)
        refraction = 1 - experiment.refractive_index.real
        vector = counts.new_zeros(len(own), DIMENSION)
        radius, variance = counts.new_zeros(len(own)), counts.new_zeros(len(own))
        for index in range(versions):
            turned = network_input(dihedral_images(counts, index), dihedral_images(usable, index), refraction)
            said = trained.network.interpret(trained.network(turned))
            vector += said.vector @ matrices[index] / versions
            radius += said.radius_nm / versions
            variance += said.radius_std_nm.square() / versions
        outputs.append((vector, radius, variance.sqrt()))
    vector, radius, spread = (torch.cat(part).cpu() for part in zip(*outputs, strict=True))
    decoded = _with_twin(vector, decode(vector, hypotheses))
    return NetworkAnswer(
        radius.double(),
        decoded.quaternion,
        decoded.score,
        spread.double(),
        spread_from_norm(vector).double(),
    )
