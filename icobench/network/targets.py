"""How a network expresses an orientation: four targets with one interface.

"orbit" is the degree-6 embedding of :mod:`icobench.network.orbit`; the others are there for comparison.
"quaternion" is that of the published network, "nearest" the same with a minimum over the 60 equivalents in
the loss, "sixd" the two matrix columns of Zhou et al. 2019 (CVPR, "On the continuity of rotation
representations").
"""

import torch
from torch import Tensor

from icobench.geometry.orientation import component_spans, disorientation, equivalents, to_fundamental_domain
from icobench.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from icobench.network.orbit import DIMENSION, Decoded, decode, embed, small_turn

__all__ = ["TARGETS", "Target"]


class Target:
    """How orientations become numbers that a network regresses, and back.

    Attributes:
        dimension: D, how many numbers.
    """

    dimension: int

    def encode(self, quaternion: Tensor) -> Tensor:
        """(B, 4) in the fundamental domain -> (B, D), float32."""
        raise NotImplementedError

    def squared_error(self, output: Tensor, quaternion: Tensor) -> Tensor:
        """Outputs (B, D) and true orientations (B, 4) -> (B,)."""
        return (output - self.encode(quaternion)).square().sum(1)

    def squared_angle(self, output: Tensor, quaternion: Tensor) -> Tensor:
        """Squared angles (B,) in radians between outputs (B, D) and true orientations, float32."""
        angle = disorientation(self.decode(output).quaternion[:, 0], quaternion.double())
        return torch.deg2rad(angle).square().float()

    def decode(self, output: Tensor, hypotheses: int = 1) -> Decoded:
        """(B, D) -> (B, K) orientations with scores, best first; missing ones repeat it and score -1."""
        quaternion = to_fundamental_domain(self._nearest(output.double())).unsqueeze(1)
        score = torch.full((len(output), hypotheses), -1.0, dtype=torch.float64, device=output.device)
        score[:, 0] = 1.0
        return Decoded(quaternion.expand(-1, hypotheses, -1), score)

    def _nearest(self, output: Tensor) -> Tensor:
        """Unit quaternions (B, 4) of outputs (B, D)."""
        raise NotImplementedError


class Orbit(Target):
    """The 13-vector that all equivalents share."""

    dimension = DIMENSION

    def encode(self, quaternion: Tensor) -> Tensor:
        return embed(quaternion).float()

    def squared_angle(self, output: Tensor, quaternion: Tensor) -> Tensor:
        # To first order: much cheaper than decoding in every step of a training.
        return small_turn(output, quaternion).square().sum(1)

    def decode(self, output: Tensor, hypotheses: int = 1) -> Decoded:
        return decode(output, hypotheses)


class Quaternion(Target):
    """(w scaled from its range in the fundamental domain to [0, 1], x, y, z), as in the paper."""

    dimension = 4

    def encode(self, quaternion: Tensor) -> Tensor:
        w = 1 - (1 - quaternion[:, :1]) / component_spans()[0]
        return torch.cat((w, quaternion[:, 1:]), 1).float()

    def _nearest(self, output: Tensor) -> Tensor:
        w = 1 - (1 - output[:, :1]) * component_spans()[0]
        return torch.nn.functional.normalize(torch.cat((w, output[:, 1:]), 1), dim=1)


class Nearest(Quaternion):
    """The plain quaternion, compared with the nearest of the 60 equivalents and their negatives."""

    def encode(self, quaternion: Tensor) -> Tensor:
        return quaternion.float()

    def squared_error(self, output: Tensor, quaternion: Tensor) -> Tensor:
        # |output - e|^2 of an equivalent e or -e depends on the absolute value of their scalar product.
        product = (equivalents(quaternion).float() @ output.unsqueeze(-1)).squeeze(-1).abs().amax(1)
        return (output.square().sum(1) + 1 - 2 * product).clamp_min(0)

    def _nearest(self, output: Tensor) -> Tensor:
        return torch.nn.functional.normalize(output, dim=1)


class SixD(Target):
    """The first two columns of the rotation matrix, made orthonormal by Gram-Schmidt."""

    dimension = 6

    def encode(self, quaternion: Tensor) -> Tensor:
        return quaternion_to_matrix(quaternion)[:, :, :2].mT.flatten(1).float()

    def _nearest(self, output: Tensor) -> Tensor:
        first = torch.nn.functional.normalize(output[:, :3], dim=1)
        second = output[:, 3:] - (output[:, 3:] * first).sum(1, keepdim=True) * first
        second = torch.nn.functional.normalize(second, dim=1)
        matrix = torch.stack((first, second, torch.linalg.cross(first, second)), -1)
        return matrix_to_quaternion(matrix)


TARGETS: dict[str, Target] = {
    "orbit": Orbit(), "quaternion": Quaternion(), "nearest": Nearest(), "sixd": SixD(),
}  # fmt: skip
