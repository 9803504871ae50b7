"""What the numbers at a network's end mean, and what training makes of them.

A network gives the D numbers of its orientation target, the radius scaled to [0, 1] over 30 to 160 nm and,
if it has them, the logarithms of two spreads: the radius's (in the same scale) and the orientation's (radians
per axis).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.network.targets import Target

__all__ = [
    "LOSSES", "SPREADS", "Prediction", "interpret", "logarithmic_loss", "mean_square_loss", "square_loss",
]  # fmt: skip

RADIUS_LOW_NM, RADIUS_SPAN_NM = 30.0, 130.0
SPREADS = 2
LEAST_LOG_SPREAD = -10.0

SPREAD_SHARE = 0.01
"""Of the spreads' likelihood in a loss: they shall not shape the features."""


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


def _log_spreads(output: Tensor, dimension: int) -> tuple[Tensor, Tensor]:
    spreads = output[:, dimension + 1 :].clamp(LEAST_LOG_SPREAD, 1)
    return spreads[:, 0], spreads[:, 1]


def interpret(output: Tensor, target: Target) -> Prediction:
    """Split a network's output (B, D + 1 or D + 3) and restore units."""
    output = output.float()
    dimension = target.dimension
    radius = RADIUS_LOW_NM + RADIUS_SPAN_NM * output[:, dimension]
    if output.shape[1] == dimension + 1:
        unknown = torch.full_like(radius, torch.nan)
        return Prediction(output[:, :dimension], radius, unknown, unknown)
    radius_log, turn_log = _log_spreads(output, dimension)
    return Prediction(
        output[:, :dimension],
        radius,
        RADIUS_SPAN_NM * torch.exp(radius_log),
        torch.rad2deg(math.sqrt(3) * torch.exp(turn_log)),
    )


def _squares(output: Tensor, target: Target, quaternion: Tensor, radius_nm: Tensor) -> tuple[Tensor, Tensor]:
    """Squared errors (B,) of the orientation target and of the scaled radius."""
    scaled = (radius_nm - RADIUS_LOW_NM) / RADIUS_SPAN_NM
    turn = target.squared_error(output[:, : target.dimension], quaternion)
    return turn, (output[:, target.dimension] - scaled).square()


def mean_square_loss(output: Tensor, target: Target, quaternion: Tensor, radius_nm: Tensor) -> Tensor:
    """Mean squared error over the D + 1 numbers, the published loss."""
    turn, size = _squares(output.float(), target, quaternion, radius_nm)
    return (turn + size).mean() / (target.dimension + 1)


def _spread_likelihood(
    output: Tensor, target: Target, quaternion: Tensor, squared_radius_error: Tensor
) -> Tensor:
    """Negative logarithm of the Gaussian likelihood of the errors under the spreads said of them.

    Only the spreads feel it.
    """
    radius_log, turn_log = _log_spreads(output, target.dimension)
    size = squared_radius_error.detach()
    angle = target.squared_angle(output[:, : target.dimension].detach(), quaternion)
    of_radius = radius_log + 0.5 * size * torch.exp(-2 * radius_log)
    of_turn = 3 * turn_log + 0.5 * angle * torch.exp(-2 * turn_log)
    return (of_radius + of_turn).mean()


def logarithmic_loss(output: Tensor, target: Target, quaternion: Tensor, radius_nm: Tensor) -> Tensor:
    """Logarithms of the two root mean square errors, the radius's twice.

    Its gradient weighs orientation and radius by their relative errors at any stage of training. The
    radius, which is learnt more slowly, counts double. Spreads, where the network has them, are fitted to
    the errors by their Gaussian likelihood; the errors themselves do not feel it.
    """
    output = output.float()
    turn, size = _squares(output, target, quaternion, radius_nm)
    # The floors keep the gradient finite should a batch be answered exactly.
    loss = 0.5 * torch.log(turn.mean() + 1e-9) + torch.log(size.mean() + 1e-9)
    if output.shape[1] == target.dimension + 1:
        return loss
    return loss + SPREAD_SHARE * _spread_likelihood(output, target, quaternion, size)


def square_loss(output: Tensor, target: Target, quaternion: Tensor, radius_nm: Tensor) -> Tensor:
    """Sum of the D + 1 squared errors; spreads are fitted as in :func:`logarithmic_loss`.

    Unlike a logarithm's, its gradient falls with the errors, and the radius, whose square is the
    smaller one by far, leaves it to the orientation to shape the features, from which both are better read.
    The spreads' share of the gradient falls with the loss; of its value they have none.
    """
    output = output.float()
    turn, size = _squares(output, target, quaternion, radius_nm)
    loss = (turn + size).mean()
    if output.shape[1] == target.dimension + 1:
        return loss
    spreads = _spread_likelihood(output, target, quaternion, size)
    return loss + SPREAD_SHARE * loss.detach() * (spreads - spreads.detach())


LOSSES = {"log": logarithmic_loss, "mse": mean_square_loss, "square": square_loss}
