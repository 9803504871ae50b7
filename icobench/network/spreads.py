"""Error bars that hold: a head for a network's spreads, fitted after its training.

During training the spreads follow the errors late, and one factor for all images cannot mend that: errors are
smallest where photons are many. Here all else is frozen, so that no answer changes. The head sees images that
training never saw, and is fitted by the Gaussian likelihood of their errors; a part of the images that it was
not fitted to then sets one factor for each spread.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from scipy.stats import chi2, norm
from torch import Tensor

from icobench.geometry.orientation import disorientation
from icobench.images.image_set import ImageSet
from icobench.network.architectures import CompactNetwork, single_precision
from icobench.network.heads import SpreadHead
from icobench.network.outputs import spread_likelihood
from icobench.network.recipe import Recipe
from icobench.network.stream import TrainingBatch, TrainingStream
from icobench.network.targets import RADIUS_SPAN_NM
from icobench.seeds import Purpose, seed_word
from icobench.simulator.experiment import Experiment

__all__ = [
    "LEAST_IMAGES", "LEVELS", "OF_ANGLE", "OF_RADIUS", "common_factor", "fit_spreads", "spread_batches",
]  # fmt: skip

SPREAD_STEP = 2 * 10**9
"""Number of the first step whose images the head sees; neither training nor validation gets there."""

LEAST_IMAGES = 2048
"""With fewer a head would learn the images by heart."""

HELD_OUT = 0.25
"""Share of the images that set the factors."""

HIDDEN, ROUNDS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 64, 15, 256, 2e-3, 1.0

LEAST_FACTOR = 1e-6
"""Should all images be answered exactly."""

LEVELS = (0.6827, 0.95)
"""Shares of the errors within an error bar, and within an interval for this confidence."""

OF_RADIUS = tuple(float(norm.ppf((1 + level) / 2)) for level in LEVELS)
OF_ANGLE = tuple(math.sqrt(float(chi2.ppf(level, 3)) / 3) for level in LEVELS)
"""Half widths of these intervals over the error bar: over the standard deviation of a normal error, and over
the root mean square angle of a turn with three equal normal components."""


def spread_batches(
    recipe: Recipe, experiment: Experiment, seed: int, device: torch.device | str, steps: int,
    held_out: ImageSet | None = None, first: int = SPREAD_STEP,
) -> Iterator[TrainingBatch]:  # fmt: skip
    """Batches like those of so many steps of training, none of which training or validation uses.

    They are made one at a time; ``held_out`` are intensities to draw from instead of simulating, ``first`` is
    the number of the first step.
    """
    stream = TrainingStream(replace(recipe, pool=None), experiment, seed, device, held_out)
    stream.until = first + steps
    for number in range(steps):
        yield stream.batch(first + number)


class _Seen(NamedTuple):
    """What a network gives for N images: features (N, F), logarithms of its spreads (N, 2) and errors (N, 2),
    of the radius over 130 nm and of the orientation in radians."""

    features: Tensor
    log_spreads: Tensor
    errors: Tensor


@single_precision()
@torch.no_grad()
def _seen(network: CompactNetwork, batches: Iterable[TrainingBatch]) -> _Seen:
    layout, rows = network.layout, []
    for inputs, quaternion, radius_nm in batches:
        output, features = network.with_features(inputs)
        orientation, size = layout.split(output)
        angle = disorientation(layout.target.decode(orientation), quaternion.double())
        distance = (layout.size.decode(size) - radius_nm).abs() / RADIUS_SPAN_NM
        errors = torch.stack((distance, torch.deg2rad(angle).float()), 1)
        rows.append(_Seen(features, torch.stack(layout.log_spreads(output), 1), errors))
    return _Seen(*(torch.cat(column) for column in zip(*rows, strict=True)))


def common_factor(ratio: Tensor, widths: tuple[float, ...]) -> float:
    """The factor of error bars with which the shares of :data:`LEVELS` are right in the mean.

    Where large errors are more frequent than normal ones, no factor makes both shares right; with this one
    the first is too large by as much as the second is too small.

    Args:
        ratio: (N,) errors over their bars.
        widths: half widths of the intervals over the bar.
    """
    # The sum of the two shares within FACTOR times the bar grows by one at each of these factors.
    steps = torch.cat([ratio.double() / width for width in widths]).sort().values
    return float(steps[min(len(steps) - 1, round(sum(LEVELS) * len(ratio)))])


def fit_spreads(network: CompactNetwork, batches: Iterable[TrainingBatch], seed: int) -> None:
    """Give a network a spread head and fit it; nothing else of the network changes.

    Args:
        network: in evaluation mode; a spread head that it has is replaced.
        batches: images that it was not trained with, at least :data:`LEAST_IMAGES`; the last quarter
            sets the factors.
        seed: of the head's start and of the order of the images.
    """
    seen = _seen(network, batches)
    count = len(seen.errors) - round(HELD_OUT * len(seen.errors))
    device = seen.features.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_word(seed, Purpose.WEIGHTS, 1))
        head = network.add_spread_head(HIDDEN).eval()
        head.centre.copy_(seen.features[:count].mean(0))
        head.scale.copy_(seen.features[:count].std(0) + 1e-6)
        fitted = _Seen(*(column[:count] for column in seen))
        _set_factors(head, fitted)  # a start from which the head learns the differences between images
        _fit(head, fitted)
    _set_factors(head, _Seen(*(column[count:] for column in seen)))


def _fit(head: SpreadHead, seen: _Seen) -> None:
    """Minimise the likelihood over rounds of all images."""
    optimiser = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    count = len(seen.errors)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=ROUNDS * -(-count // BATCH)
    )
    head.train()
    for _ in range(ROUNDS):
        for rows in torch.randperm(count, device=seen.errors.device).split(BATCH):
            spreads = seen.log_spreads[rows] + head(seen.features[rows])
            loss = spread_likelihood(*spreads.unbind(1), *seen.errors[rows].square().unbind(1))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    head.eval()


@torch.no_grad()
def _set_factors(head: SpreadHead, seen: _Seen) -> None:
    """Shift both logarithms, in evaluation mode, so that :func:`common_factor` is 1 for these images."""
    spreads = torch.exp(seen.log_spreads + head(seen.features))
    ratios = seen.errors / spreads
    factors = common_factor(ratios[:, 0], OF_RADIUS), common_factor(ratios[:, 1] / math.sqrt(3), OF_ANGLE)
    head.last.bias.add_(head.last.bias.new_tensor(factors).clamp_min(LEAST_FACTOR).log())
