"""What the numbers at a network's end mean, and what training makes of them.

A network gives the D numbers of its orientation target, the S numbers of its radius and, if it has them, the
logarithms of two spreads: the radius's (over 130 nm) and the orientation's (radians per axis).
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.network.sizes import RADIUS_SPAN_NM, Size
from icobench.network.targets import Target

__all__ = [
    "LOSSES", "SPREADS", "Layout", "Prediction", "error_bars", "interpret", "logarithmic_loss",
    "mean_square_loss", "square_loss",
]  # fmt: skip

SPREADS = 2
LEAST_LOG_SPREAD = -10.0

SPREAD_SHARE = 0.01
"""Of the spreads' likelihood in a loss: they shall not shape the features."""


@dataclass(frozen=True)
class Layout:
    """Which of a network's numbers say what.

    Attributes:
        target: of the orientation.
        size: of the radius.
    """

    target: Target
    size: Size

    @property
    def dimension(self) -> int:
        """D + S, without spreads."""
        return self.target.dimension + self.size.dimension

    def split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D + S or more) -> orientation's (B, D) and radius's (B, S)."""
        return output[:, : self.target.dimension], output[:, self.target.dimension : self.dimension]

    def spreads(self, output: Tensor) -> tuple[Tensor, Tensor] | None:
        """Logarithms (B,) of the radius's and the orientation's spread; None where there are none."""
        if output.shape[1] == self.dimension:
            return None
        spreads = output[:, self.dimension :].clamp(LEAST_LOG_SPREAD, 1)
        return spreads[:, 0], spreads[:, 1]


class Prediction(NamedTuple):
    """What a network says of B images.

    Attributes:
        orientation: (B, D) in the network's target.
        radius_nm: (B,).
        radius_std_nm: (B,) predicted standard deviation; NaN from a network without spreads.
        orientation_std_deg: (B,) predicted root mean square angle; NaN likewise.
    """

    orientation: Tensor
    radius_nm: Tensor
    radius_std_nm: Tensor
    orientation_std_deg: Tensor


def error_bars(output: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Predicted standard deviation of the radius in nm and root mean square angle in degrees, (B,) each.

    NaN from a network without spreads.
    """
    spreads = layout.spreads(output.float())
    if spreads is None:
        unknown = torch.full_like(output[:, 0], torch.nan, dtype=torch.float32)
        return unknown, unknown
    return RADIUS_SPAN_NM * torch.exp(spreads[0]), torch.rad2deg(math.sqrt(3) * torch.exp(spreads[1]))


def interpret(output: Tensor, layout: Layout) -> Prediction:
    """Split a network's output (B, D + S or D + S + 2) and restore units."""
    orientation, numbers = layout.split(output.float())
    return Prediction(orientation, layout.size.decode(numbers), *error_bars(output, layout))


def _squares(output: Tensor, layout: Layout, quaternion: Tensor, radius_nm: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors (B,) of the orientation's and of the radius's numbers."""
    orientation, numbers = layout.split(output)
    return layout.target.squared_error(orientation, quaternion), layout.size.squared_error(numbers, radius_nm)


def mean_square_loss(output: Tensor, layout: Layout, quaternion: Tensor, radius_nm: Tensor) -> Tensor:
    """Mean squared error over the D + S numbers, the published loss."""
    turn, size = _squares(output.float(), layout, quaternion, radius_nm)
    return (turn + size).mean() / layout.dimension


def _spread_likelihood(
    output: Tensor, layout: Layout, quaternion: Tensor, radius_nm: Tensor
) -> Tensor | None:
    """Negative logarithm of the Gaussian likelihood of the errors under the spreads said of them.

    Only the spreads feel it. None where there are no spreads.
    """
    spreads = layout.spreads(output)
    if spreads is None:
        return None
    radius_log, turn_log = spreads
    orientation, numbers = (part.detach() for part in layout.split(output))
    size = ((layout.size.decode(numbers) - radius_nm) / RADIUS_SPAN_NM).square()
    angle = layout.target.squared_angle(orientation, quaternion)
    of_radius = radius_log + 0.5 * size * torch.exp(-2 * radius_log)
    of_turn = 3 * turn_log + 0.5 * angle * torch.exp(-2 * turn_log)
    return (of_radius + of_turn).mean()


def logarithmic_loss(output: Tensor, layout: Layout, quaternion: Tensor, radius_nm: Tensor) -> Tensor:
    """Logarithms of the two root mean square errors, the radius's twice.

    Its gradient weighs orientation and radius by their relative errors at any stage of training. The
    radius, which is learnt more slowly, counts double. Spreads, where the network has them, are fitted to
    the errors by their Gaussian likelihood; the errors themselves do not feel it.
    """
    output = output.float()
    turn, size = _squares(output, layout, quaternion, radius_nm)
    # The floors keep the gradient finite should a batch be answered exactly.
    loss = 0.5 * torch.log(turn.mean() + 1e-9) + torch.log(size.mean() + 1e-9)
    spreads = _spread_likelihood(output, layout, quaternion, radius_nm)
    return loss if spreads is None else loss + SPREAD_SHARE * spreads


def square_loss(output: Tensor, layout: Layout, quaternion: Tensor, radius_nm: Tensor) -> Tensor:
    """Sum of the D + S squared errors; spreads are fitted as in :func:`logarithmic_loss`.

    Unlike a logarithm's, its gradient falls with the errors. The spreads' share of the gradient falls with
    the loss; of its value they have none.
    """
    output = output.float()
    turn, size = _squares(output, layout, quaternion, radius_nm)
    loss = (turn + size).mean()
    spreads = _spread_likelihood(output, layout, quaternion, radius_nm)
    return loss if spreads is None else loss + SPREAD_SHARE * loss.detach() * (spreads - spreads.detach())


LOSSES = {"log": logarithmic_loss, "mse": mean_square_loss, "square": square_loss}
