"""Heads on a trained network, fitted after its training, that change none of its answers."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from icobench.network.orbit import DEGREE, DIMENSION
from icobench.network.outputs import SPREADS
from icobench.network.targets import RADIUS_SPAN_NM

__all__ = ["PosteriorHead", "Shape", "SpreadHead"]

FARTHEST = 5.0
"""Standard deviations from their mean in training as which features count at most."""

WIDEST = (0.35, 0.35, 0.35, 20.0)
"""Largest standard deviations of a posterior's components in rad and nm: wider ones would wrap around."""

RARE = -6.0
"""Logarithm of the odds of a new head's further components; training sets it."""


class SpreadHead(nn.Module):
    """Numbers (B, outputs) from features (B, F), by default corrections of the logarithms of spreads.

    New, it gives zeros. ``centre`` and ``scale`` (F,) are mean and standard deviation of the features.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, features: int, hidden: int, outputs: int = SPREADS) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.dropout = nn.Dropout(0.1)
        self.first = nn.Linear(features, hidden)
        self.last = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor) -> Tensor:
        standard = ((features - self.centre) / self.scale).clamp(-FARTHEST, FARTHEST)
        return self.last(nn.functional.silu(self.first(self.dropout(standard))))


class Shape(NamedTuple):
    """The mixture around a network's two hypotheses for B images, float64.

    Attributes:
        factor: (B, 2, 4, 4) of covariances, as of :class:`~icobench.geometry.mixture.PoseMixture`.
        share: (B, 2) of the hypotheses.
        elsewhere: (B,) share of a uniform distribution.
    """

    factor: Tensor
    share: Tensor
    elsewhere: Tensor


class PosteriorHead(SpreadHead):
    """A normal distribution around each of a network's two hypotheses, and a uniform one.

    It sees the features of the spread head and the orbit vector, from which it tells the axes of the
    ellipsoid about the laboratory's axes. The second hypothesis is the near twin or unlikely: its ellipsoid
    is that of the first after half a turn about the beam.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__(features + DIMENSION, hidden, 4 + 6 + 2)
        with torch.no_grad():
            self.last.bias[-2:] = RARE

    def shape(self, features: Tensor, vector: Tensor, log_spreads: Tensor) -> Shape:
        """The mixture from features (B, F), orbit vectors (B, 13) and logarithms of spreads (B, 2).

        The numbers are corrections of the logarithms of four standard deviations; six entries below the
        diagonal of a triangular matrix, whose rows are then scaled to these standard deviations; and the
        logarithms of the odds of the second hypothesis and of the uniform distribution.
        """
        numbers = self(torch.cat((features, vector), 1)).double()
        radius, angle = log_spreads.double().unbind(1)
        spreads = torch.stack((angle, angle, angle, radius), 1).exp() * numbers.new_tensor(
            (1.0, 1.0, 1.0, RADIUS_SPAN_NM)
        )
        spreads = torch.minimum(spreads * numbers[:, :4].clamp(-4, 4).exp(), numbers.new_tensor(WIDEST))
        rows, columns = torch.tril_indices(4, 4, -1, device=numbers.device)
        triangle = torch.eye(4, dtype=numbers.dtype, device=numbers.device).repeat(len(numbers), 1, 1)
        triangle[:, rows, columns] = numbers[:, 4:10]
        factor = triangle * (spreads / triangle.norm(dim=2)).unsqueeze(2)
        half_turn = factor.new_tensor((-1.0, -1.0, 1.0, 1.0))
        twin = half_turn[:, None] * factor * half_turn
        odds = torch.cat((torch.zeros_like(numbers[:, :1]), numbers[:, 10:]), 1).softmax(1)
        return Shape(torch.stack((factor, twin), 1), odds[:, :2], odds[:, 2])


def turned_vectors(vector: Tensor, angle: Tensor) -> Tensor:
    """Orbit vectors (B, 13) after turns about the beam by angles (B,) in radians."""
    order = torch.arange(DEGREE + 1, device=vector.device)
    even, odd = vector[:, DEGREE:], vector[:, : DEGREE + 1].flip(1) * (order > 0)
    cosine, sine = (function(angle[:, None] * order) for function in (torch.cos, torch.sin))
    return torch.cat(((odd * cosine + even * sine)[:, 1:].flip(1), even * cosine - odd * sine), 1)
