"""How a network expresses orientation and radius: the numbers that it regresses.

Orientations: "orbit" is the degree-6 embedding of :mod:`icobench.network.orbit`; the others are there for
comparison. "quaternion" is that of the published network, "nearest" the same with a minimum over the 60
equivalents in the loss, "sixd" the two matrix columns of Zhou et al. 2019 (CVPR, "On the continuity of
rotation representations").

Radii: the number itself, or a point on a curve that winds with it. A regression leaves about the same error
in each of its outputs. Scaled to [0, 1] over 130 nm, an error of 1e-3 is 0.13 nm. On a circle of
circumference 16 nm, of the length used here, it is 0.013 nm, and fringes show the place of a radius on that
circle: at the scattering vector q their phase grows by about 2 q for each nm of the radius. Wider circles
tell the number of turns.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from icobench.geometry.orientation import component_spans, disorientation, equivalents, to_fundamental_domain
from icobench.geometry.rotations import matrix_to_quaternion, quaternion_to_matrix
from icobench.network.orbit import DIMENSION, decode, embed, small_turn

__all__ = ["RADIUS_SPAN_NM", "TARGETS", "Circles", "Line", "Target"]

RADIUS_LOW_NM, RADIUS_SPAN_NM = 30.0, 130.0
"""Of the paper's radii."""

LEAST_NM, MOST_NM = 16.0, 180.0
"""Range in which circles are searched for a radius: beyond all training."""

LENGTH = 0.2
"""Radius of the circles in the space of the outputs, where the orbit vector of the orientation has the length
1. Longer vectors would improve the radius at the cost of the orientation; with this length neither of the two
dominates the sum of squares."""

POINTS = 32
"""Of the search on each turn of the smallest circle."""

NEWTON_STEPS = 2


class Target:
    """How true values become ``dimension`` numbers that a network regresses, and back."""

    dimension: int

    def encode(self, truth: Tensor) -> Tensor:
        """Quaternions (B, 4) in the fundamental domain or radii (B,) in nm -> (B, dimension), float32."""
        raise NotImplementedError

    def decode(self, output: Tensor) -> Tensor:
        """The inverse of :meth:`encode` for any numbers: float64 quaternions or float32 radii."""
        raise NotImplementedError

    def squared_error(self, output: Tensor, truth: Tensor) -> Tensor:
        """Outputs (B, dimension) and true values -> (B,)."""
        return (output - self.encode(truth)).square().sum(1)


class Orientation(Target):
    """A target for orientations."""

    def squared_angle(self, output: Tensor, quaternion: Tensor) -> Tensor:
        """Squared angles (B,) in radians between outputs and true orientations, float32."""
        return torch.deg2rad(disorientation(self.decode(output), quaternion.double())).square().float()


class Orbit(Orientation):
    """The 13-vector that all equivalents share."""

    dimension = DIMENSION

    def encode(self, quaternion: Tensor) -> Tensor:
        return embed(quaternion).float()

    def decode(self, output: Tensor) -> Tensor:
        return decode(output, 1).quaternion[:, 0]

    def squared_angle(self, output: Tensor, quaternion: Tensor) -> Tensor:
        # To first order: much cheaper than decoding in every step of a training.
        return small_turn(output, quaternion).square().sum(1)


class Quaternion(Orientation):
    """(w scaled from its range in the fundamental domain to [0, 1], x, y, z), as in the paper."""

    dimension = 4

    def encode(self, quaternion: Tensor) -> Tensor:
        w = 1 - (1 - quaternion[:, :1]) / component_spans()[0]
        return torch.cat((w, quaternion[:, 1:]), 1).float()

    def decode(self, output: Tensor) -> Tensor:
        output = output.double()
        w = 1 - (1 - output[:, :1]) * component_spans()[0]
        return to_fundamental_domain(normalize(torch.cat((w, output[:, 1:]), 1), dim=1))


class Nearest(Quaternion):
    """The plain quaternion, compared with the nearest of the 60 equivalents and their negatives."""

    def encode(self, quaternion: Tensor) -> Tensor:
        return quaternion.float()

    def decode(self, output: Tensor) -> Tensor:
        return to_fundamental_domain(normalize(output.double(), dim=1))

    def squared_error(self, output: Tensor, quaternion: Tensor) -> Tensor:
        # |output - e|^2 of an equivalent e or -e depends on the absolute value of their scalar product.
        product = (equivalents(quaternion).float() @ output.unsqueeze(-1)).squeeze(-1).abs().amax(1)
        return (output.square().sum(1) + 1 - 2 * product).clamp_min(0)


class SixD(Orientation):
    """The first two columns of the rotation matrix, made orthonormal by Gram-Schmidt."""

    dimension = 6

    def encode(self, quaternion: Tensor) -> Tensor:
        return quaternion_to_matrix(quaternion)[:, :, :2].mT.flatten(1).float()

    def decode(self, output: Tensor) -> Tensor:
        output = output.double()
        first = normalize(output[:, :3], dim=1)
        second = output[:, 3:] - (output[:, 3:] * first).sum(1, keepdim=True) * first
        second = normalize(second, dim=1)
        matrix = torch.stack((first, second, torch.linalg.cross(first, second)), -1)
        return to_fundamental_domain(matrix_to_quaternion(matrix))


TARGETS: dict[str, Orientation] = {
    "orbit": Orbit(), "quaternion": Quaternion(), "nearest": Nearest(), "sixd": SixD(),
}  # fmt: skip


class Line(Target):
    """The radius scaled to [0, 1] over 30 to 160 nm, as in the paper."""

    dimension = 1
    range_nm = (0.0, math.inf)

    def encode(self, radius_nm: Tensor) -> Tensor:
        return ((radius_nm - RADIUS_LOW_NM) / RADIUS_SPAN_NM).float().unsqueeze(1)

    def decode(self, output: Tensor) -> Tensor:
        return RADIUS_LOW_NM + RADIUS_SPAN_NM * output[:, 0]


def _curve(radius_nm: Tensor, rates: Tensor) -> Tensor:
    """Radii (N,) -> (N, dimension), float64: all cosines, then all sines."""
    phase = radius_nm.unsqueeze(-1) * rates
    return LENGTH * torch.cat((phase.cos(), phase.sin()), -1)


class Circles(Target):
    """Cosine and sine of the radius on circles of different circumferences.

    The decoded radius is the one whose point on the curve is nearest. With squared errors a network gives the
    mean of all points that it holds possible: on a circle on which the place is uncertain, the mean is a
    short vector, which hardly affects the decoded radius.

    Radii are expressed from 16 to 180 nm; numbers that are not finite give NaN.

    Args:
        periods_nm: circumferences, positive and falling; the first at least 164 nm, else a ValueError.
    """

    range_nm = (LEAST_NM, MOST_NM)

    def __init__(self, periods_nm: Sequence[float]) -> None:
        periods = [float(period) for period in periods_nm]
        falling = all(a > b > 0 for a, b in pairwise([math.inf, *periods]))
        if not periods or not falling or periods[0] < MOST_NM - LEAST_NM:
            raise ValueError(
                f"circles for radii must fall from {MOST_NM - LEAST_NM:g} nm or more, got {periods}"
            )
        self.dimension = 2 * len(periods)
        rates = torch.tensor([2 * math.pi / period for period in periods], dtype=torch.float64)
        count = math.ceil(POINTS * (MOST_NM - LEAST_NM) / periods[-1])
        radii = torch.linspace(LEAST_NM, MOST_NM, count, dtype=torch.float64)
        self.half_spacing = math.pi / (POINTS * float(rates[-1]))
        self.tables = {rates.device: (rates, radii, _curve(radii, rates))}

    def _tables(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Radians per nm on the circles, radii to search, and their points on the curve."""
        if device not in self.tables:
            rates, radii, points = (table.to(device) for table in self.tables[torch.device("cpu")])
            self.tables[device] = rates, radii, points
        return self.tables[device]

    def encode(self, radius_nm: Tensor) -> Tensor:
        return _curve(radius_nm.double(), self._tables(radius_nm.device)[0]).float()

    def decode(self, output: Tensor) -> Tensor:
        output = output.double()
        rates, radii, points = self._tables(output.device)
        radius = radii[(output @ points.T).argmax(1)]
        cosine, sine = output.chunk(2, 1)
        # Of the product with the curve's point: its derivative, and the second one's negative.
        by_rate, by_square = (
            torch.cat((sine, -cosine), 1) * rates.repeat(2),
            output * rates.square().repeat(2),
        )
        for _ in range(NEWTON_STEPS):
            phase = radius.unsqueeze(1) * rates
            point = torch.cat((phase.cos(), phase.sin()), 1)
            slope, curvature = (by_rate * point).sum(1), (by_square * point).sum(1)
            step = torch.where(curvature > 0, slope / curvature.clamp_min(1e-12), 0.0)
            radius = radius + step.clamp(-self.half_spacing, self.half_spacing)
        return torch.where(output.isfinite().all(1), radius, torch.nan).float()
