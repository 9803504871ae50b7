"""The numbers that a network gives, and the losses that training minimises.

A network gives the D numbers of its orientation target, the S numbers of its radius and, if it predicts error
bars, the logarithms of two spreads: that of the radius (over 130 nm) and that of the orientation (radians per
axis).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.network.targets import RADIUS_SPAN_NM, Circles, Line, Orientation

__all__ = ["LOSSES", "SPREADS", "Layout", "spread_likelihood"]

SPREADS = 2
LEAST_LOG_SPREAD, MOST_LOG_SPREAD = -10.0, 1.0

SPREAD_SHARE = 0.01
"""Weight of the spreads' likelihood in a loss: so small that it does not shape the features."""

LEAST_RELATIVE_SPREAD = 0.1
"""Of a batch's images, over the median, in the weights of :func:`weighted_loss`."""


class Layout(NamedTuple):
    """The order of a network's numbers: orientation (``target``), radius (``size``), spreads."""

    target: Orientation
    size: Line | Circles

    @property
    def dimension(self) -> int:
        """D + S, without spreads."""
        return self.target.dimension + self.size.dimension

    def split(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D + S or more) -> the numbers of the orientation (B, D) and of the radius (B, S)."""
        return output[:, : self.target.dimension], output[:, self.target.dimension : self.dimension]

    def squared_errors(self, output: Tensor, quaternion: Tensor, radius_nm: Tensor) -> tuple[Tensor, Tensor]:
        """Squared errors (B,) of the orientation's numbers and of the radius's."""
        orientation, size = self.split(output.float())
        return self.target.squared_error(orientation, quaternion), self.size.squared_error(size, radius_nm)

    def log_spreads(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms (B,) of the spreads of radius and orientation; NaN from a network without spreads."""
        if output.shape[1] == self.dimension:
            unknown = torch.full_like(output[:, 0], torch.nan)
            return unknown, unknown
        spreads = output[:, self.dimension :].clamp(LEAST_LOG_SPREAD, MOST_LOG_SPREAD)
        return spreads[:, 0], spreads[:, 1]

    def error_bars(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Standard deviations of the radius in nm and root mean square angles in degrees, (B,) float32."""
        radius, angle = self.log_spreads(output.float())
        return RADIUS_SPAN_NM * torch.exp(radius), torch.rad2deg(math.sqrt(3) * torch.exp(angle))


def _spread_likelihood(output: Tensor, layout: Layout, quaternion: Tensor, radius_nm: Tensor) -> Tensor:
    """Negative logarithm of the Gaussian likelihood of the errors for the predicted spreads.

    Its gradient changes only the spreads. 0 for a network without spreads.
    """
    output = output.float()
    if output.shape[1] == layout.dimension:
        return output.new_zeros(())
    log_radius, log_angle = layout.log_spreads(output)
    orientation, size = (part.detach() for part in layout.split(output))
    squared_radius = ((layout.size.decode(size) - radius_nm) / RADIUS_SPAN_NM).square()
    squared_angle = layout.target.squared_angle(orientation, quaternion)
    return spread_likelihood(log_radius, log_angle, squared_radius, squared_angle)


def spread_likelihood(
    log_radius: Tensor, log_angle: Tensor, squared_radius: Tensor, squared_angle: Tensor
) -> Tensor:
    """Negative logarithm of the Gaussian likelihood of errors for logarithms of spreads, a mean over images.

    Args:
        log_radius, log_angle: (B,) of the spreads of radius and orientation, see the module.
        squared_radius, squared_angle: (B,) squared errors, over 130 nm squared and in square radians.
    """
    of_radius = log_radius + 0.5 * squared_radius * torch.exp(-2 * log_radius)
    of_angle = 3 * log_angle + 0.5 * squared_angle * torch.exp(-2 * log_angle)
    return (of_radius + of_angle).mean()


def mean_square_loss(output: Tensor, layout: Layout, quaternion: Tensor, radius_nm: Tensor) -> Tensor:
    """Mean squared error over the D + S numbers, the published loss."""
    orientation, size = layout.squared_errors(output, quaternion, radius_nm)
    return (orientation + size).mean() / layout.dimension


def logarithmic_loss(output: Tensor, layout: Layout, quaternion: Tensor, radius_nm: Tensor) -> Tensor:
    """Logarithms of the two root mean square errors; the radius, which is learnt more slowly, counts double.

    The gradient weighs orientation and radius by their relative errors at any stage of training. The Gaussian
    likelihood of the errors fits the spreads, if there are any, and does not change the errors themselves.
    """
    orientation, size = layout.squared_errors(output, quaternion, radius_nm)
    # The floors keep the gradient finite should a batch be answered exactly.
    loss = 0.5 * torch.log(orientation.mean() + 1e-9) + torch.log(size.mean() + 1e-9)
    return loss + SPREAD_SHARE * _spread_likelihood(output, layout, quaternion, radius_nm)


def square_loss(output: Tensor, layout: Layout, quaternion: Tensor, radius_nm: Tensor) -> Tensor:
    """Sum of the D + S squared errors; spreads are fitted as in :func:`logarithmic_loss`.

    Unlike the gradient of a logarithm, its gradient falls with the errors. The spreads add nothing to the
    value of the loss, and a share of the gradient that falls with the loss.
    """
    orientation, size = layout.squared_errors(output, quaternion, radius_nm)
    loss = (orientation + size).mean()
    spreads = _spread_likelihood(output, layout, quaternion, radius_nm)
    return loss + SPREAD_SHARE * loss.detach() * (spreads - spreads.detach())


def weighted_loss(output: Tensor, layout: Layout, quaternion: Tensor, radius_nm: Tensor) -> Tensor:
    """As :func:`square_loss`, but each squared error counts by the inverse of its predicted variance.

    Photon numbers differ by factors of hundreds. With equal weights the noise of dim images, which no network
    can remove, would hide the errors that remain on bright ones. The weights have a mean of 1 over the batch.
    Spreads count as :data:`LEAST_RELATIVE_SPREAD` times the batch's median or more, so that no image rules.
    """
    if output.shape[1] == layout.dimension:
        return square_loss(output, layout, quaternion, radius_nm)
    of_radius, of_angle = (_weights(spread) for spread in layout.log_spreads(output.detach().float()))
    orientation, size = layout.squared_errors(output, quaternion, radius_nm)
    loss = (of_angle * orientation + of_radius * size).mean()
    spreads = _spread_likelihood(output, layout, quaternion, radius_nm)
    return loss + SPREAD_SHARE * loss.detach() * (spreads - spreads.detach())


def _weights(log_spread: Tensor) -> Tensor:
    """Inverse variances (B,) over their mean."""
    relative = (log_spread - log_spread.median()).clamp_min(math.log(LEAST_RELATIVE_SPREAD))
    weights = torch.exp(-2 * relative)
    return weights / weights.mean()


LOSSES = {
    "log": logarithmic_loss, "mse": mean_square_loss, "square": square_loss, "weighted": weighted_loss,
}  # fmt: skip
"""Losses by name: of output (B, D + S or more), layout, true orientations (B, 4) and radii (B,) in nm."""
