"""Predicted spreads brought to what the errors are, on images that training never saw."""

import math

import torch
from scipy.stats import chi2
from torch import Tensor

from icobench.geometry.orientation import disorientation
from icobench.network.architectures import Network
from icobench.network.outputs import interpret
from icobench.network.stream import TrainingBatch

__all__ = ["spread_factors"]

WITHIN = 0.6827
"""Share of a normal deviate within one standard deviation."""

ANGLE_WITHIN = math.sqrt(float(chi2.ppf(WITHIN, 3)) / 3)
"""The same share's quantile of an angle over its root mean square, three equal normal components."""


def _factor(error: Tensor, spread: Tensor, expected: float) -> float:
    ratio = (error / spread).double()
    return float(ratio.quantile(WITHIN)) / expected if bool(torch.isfinite(ratio).all()) else 1.0


@torch.no_grad()
def spread_factors(network: Network, batches: list[TrainingBatch]) -> dict[str, float]:
    """By what to multiply predicted spreads, so that 68 % of the errors lie within them.

    Spreads are fitted to the errors all through training (Gaussian likelihood) and lag behind them. One
    factor each leaves open how they differ from image to image, which the network has learnt
    (temperature scaling, Guo et al. 2017, for regression).

    Args:
        network: in evaluation mode.
        batches: images like those of training, unseen.

    Returns:
        "radius" and "orientation"; 1 for a network without spreads.
    """
    size, turn = [], []
    for inputs, quaternion, radius in batches:
        said = interpret(network(inputs), network.layout)
        found = network.layout.target.decode(said.orientation).quaternion[:, 0]
        angle = disorientation(found, quaternion.double())
        size.append(torch.stack(((said.radius_nm - radius).abs(), said.radius_std_nm)))
        turn.append(torch.stack((angle.float(), said.orientation_std_deg)))
    (miss, radius_std), (angle, turn_std) = torch.cat(size, 1), torch.cat(turn, 1)
    return {
        "radius": _factor(miss, radius_std, 1.0),
        "orientation": _factor(angle, turn_std, ANGLE_WITHIN),
    }
