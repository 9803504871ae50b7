"""Errors of a network on images that training never saw, and the calibration of its error bars."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from scipy.stats import chi2
from torch import Tensor

from icobench.geometry.orientation import disorientation
from icobench.images.image_set import ImageSet
from icobench.network.architectures import Network
from icobench.network.outputs import LOSSES
from icobench.network.recipe import Recipe
from icobench.network.stream import TrainingBatch, TrainingStream
from icobench.simulator.experiment import Experiment

__all__ = ["mean_loss", "prediction_errors", "spread_factors", "validation_batches"]

VALIDATION_STEP = 10**9
"""Number of the first step whose batches are used for validation; training never gets there."""

VALIDATION_IMAGES = 512

WITHIN = 0.6827
"""Share of a normal deviate within one standard deviation."""

ANGLE_WITHIN = math.sqrt(float(chi2.ppf(WITHIN, 3)) / 3)
"""Quantile of this share of an angle over its root mean square, for three equal normal components."""


class Errors(NamedTuple):
    """Disorientations, radius errors, and their predicted spreads, NaN if there are none; (N,) each."""

    angle_deg: Tensor
    radius_nm: Tensor
    angle_std_deg: Tensor
    radius_std_nm: Tensor


def validation_batches(
    recipe: Recipe, experiment: Experiment, seed: int, device: torch.device, held_out: ImageSet | None
) -> list[TrainingBatch]:
    """512 images like those of training, none of which training uses; fewer for a tiny run."""
    stream = TrainingStream(replace(recipe, pool=None), experiment, seed, device, held_out)
    count = max(1, min(VALIDATION_IMAGES // recipe.batch, recipe.steps))
    return [stream.batch(VALIDATION_STEP + i) for i in range(count)]


@torch.no_grad()
def mean_loss(network: Network, loss: str, batches: Sequence[TrainingBatch]) -> float:
    """Mean over batches of a loss of :data:`~icobench.network.outputs.LOSSES`, in evaluation mode."""
    losses = [float(LOSSES[loss](network(inputs), network.layout, *truth)) for inputs, *truth in batches]
    return sum(losses) / len(losses)


@torch.no_grad()
def prediction_errors(network: Network, batches: Sequence[TrainingBatch]) -> Errors:
    """Errors of a network, in evaluation mode, on all images of some batches."""
    layout, parts = network.layout, []
    for inputs, quaternion, radius_nm in batches:
        output = network(inputs)
        orientation, size = layout.split(output.float())
        angle = disorientation(layout.target.decode(orientation), quaternion.double())
        distance = (layout.size.decode(size) - radius_nm).abs()
        radius_std_nm, angle_std_deg = layout.error_bars(output)
        parts.append((angle, distance, angle_std_deg, radius_std_nm))
    return Errors(*(torch.cat(column).cpu() for column in zip(*parts, strict=True)))


def spread_factors(errors: Errors) -> dict[str, float]:
    """Factors, "radius" and "orientation", that make 68 % of the errors lie within the predicted spreads.

    During training the spreads are fitted to the errors (Gaussian likelihood), but later than these fall. One
    factor for all images corrects that and keeps the differences between images that the network has learnt
    (temperature scaling, Guo et al. 2017, for regression). It is 1 for a network without spreads.
    """

    def factor(error: Tensor, spread: Tensor, expected: float) -> float:
        ratio = (error / spread).double()
        return float(ratio.quantile(WITHIN)) / expected if bool(torch.isfinite(ratio).all()) else 1.0

    return {
        "radius": factor(errors.radius_nm, errors.radius_std_nm, 1.0),
        "orientation": factor(errors.angle_deg.float(), errors.angle_std_deg, ANGLE_WITHIN),
    }
