"""The eleven augmentations of appendix D of Stielow et al. 2020, Mach. Learn.: Sci. Technol. 1 045007.

They imitate what detectors do to log images, for whole batches. The largest noise and the largest blur are
the paper's; the other ranges are this package's choice (``docs/paper.md``). All filters have one signature:

    images: (B, H, W) float in [0, 1], 0 where masked; the beam is at pixel (H/2, W/2).
    mask: (B, H, W) bool, True where usable.
    draws: a stream of random numbers for each image.
    reach: share of the range that may be drawn, in (0, 1]; a number, or (B, 1, 1) for each image.

and return images and masks of the same kind; the inputs stay as they are. S is the shorter side of the image.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.devices import by_device
from icobench.errors import InputError
from icobench.images.philox import Draws, draws_for
from icobench.seeds import Purpose

__all__ = ["FILTERS", "Augmented", "augment"]

CHUNK, GPU_CHUNK = 64, 2048
"""Images at a time on a CPU, whose cache holds the temporaries, and on a GPU, where they take 2 GiB."""

Reach = float | Tensor

# The far ends of the ranges: shares of the maximum, of the pixels, of S or of the mean gain, and pixels.
NOISE = 0.5
SALT_AND_PEPPER = 0.1
BLUR = 5.0  # pixels
JITTER = 3  # pixels
CROP = 1 / 4  # of S lost at each edge
BLIND_SPOTS = 3  # the most
BLIND_RADIUS = (1 / 64, 1 / 16)  # of S, both ends
HOLE = (1 / 64, 1 / 8)  # of S, both ends
SHIFT = 1 / 16  # of S
SENSITIVITY = 0.5

REALISTIC_REACH = 0.5

BLUR_RADIUS_IS = {"sigma": 1.0, "wolfram": 0.5}
"""Sigma of a blur of radius 1: the same number, or half of it as in the Wolfram language's GaussianFilter."""


def _up_to(draws: Draws, high: Reach, images: Tensor) -> Tensor:
    """One uniform number in [0, high) for each image: (B, 1, 1)."""
    return high * draws.uniform(1)[:, :, None].to(images.dtype)


def _whole(number: Reach, images: Tensor) -> Tensor:
    """A number rounded down, (1 or B, 1) int64."""
    if isinstance(number, Tensor):
        return number.long()[:, :, 0]
    return torch.full((1, 1), int(number), device=images.device)


def _field(draws: Draws, images: Tensor) -> Tensor:
    """A uniform number in [0, 1) for each pixel: (B, H, W)."""
    return draws.uniform(images.shape[1:].numel()).view(images.shape).to(images.dtype)


@lru_cache(maxsize=16)
def _places(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows (H, 1) and columns (W,), int64."""
    return torch.arange(height, device=device)[:, None], torch.arange(width, device=device)


@lru_cache(maxsize=16)
def _from_beam(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """From the beam: the larger of the distances along x and y, and the squared distance, (H, W) int64."""
    rows, columns = _places(height, width, device)
    down, right = rows - height // 2, columns - width // 2
    return torch.maximum(down.abs(), right.abs()), down.square() + right.square()


@lru_cache(maxsize=16)
def _modes(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The three lowest cosine modes of a side, (3, size)."""
    place = torch.arange(size, device=device, dtype=torch.float64) + 0.5
    order = torch.arange(3, device=device)[:, None]
    return torch.cos(order * place * (math.pi / size)).to(dtype)


@lru_cache(maxsize=16)
def _squares(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Squared distances of the places on a side, (size, size)."""
    place = torch.arange(size, device=device, dtype=dtype)
    return (place[:, None] - place).square()


def _masked(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return images * mask, mask


def noise(images: Tensor, mask: Tensor, draws: Draws, reach: Reach = 1.0) -> tuple[Tensor, Tensor]:
    """Add uniform noise from 0 to an amplitude between 0 and half the image's maximum, clipped at 1."""
    amplitude = _up_to(draws.branch(0), NOISE * reach, images) * images.amax((1, 2), keepdim=True)
    return _masked((images + amplitude * _field(draws.branch(1), images)).clamp_max_(1), mask)


def salt_and_pepper(images: Tensor, mask: Tensor, draws: Draws, reach: Reach = 1.0) -> tuple[Tensor, Tensor]:
    """Set 0 to 10 % of the pixels, half of them to 0 and half to 1."""
    half = _up_to(draws.branch(0), SALT_AND_PEPPER * reach / 2, images)
    field = _field(draws.branch(1), images)
    struck = torch.where(field < half, 0, images)
    return _masked(torch.where(field >= 1 - half, 1, struck), mask)


def blur(images: Tensor, mask: Tensor, draws: Draws, reach: Reach = 1.0) -> tuple[Tensor, Tensor]:
    """Gaussian blur with a sigma of 0 to 5 pixels.

    A pixel becomes the weighted mean of the usable pixels around it: neither masked pixels nor the outside
    darken it. The mask stays.
    """
    # 1 - u is never 0, which keeps 0 / 0 out of the weights.
    sigma = BLUR * reach * (1 - draws.uniform(1)[:, :, None].to(images.dtype))
    twice = -2 * sigma.square()

    def weights(size: int) -> Tensor:
        return torch.exp(_squares(size, images.dtype, images.device) / twice)

    rows, columns = weights(images.shape[1]), weights(images.shape[2])
    mean = (rows @ (images * mask) @ columns) / (rows @ mask.to(images) @ columns)
    # A masked pixel far from all others would be 0 / 0: select, do not multiply.
    return torch.where(mask, mean.clamp_(0, 1), 0), mask


def jitter(images: Tensor, mask: Tensor, draws: Draws, reach: Reach = 1.0) -> tuple[Tensor, Tensor]:
    """Each pixel shows another one, at most d rows and d columns away.

    d is 1 to 3, the same for all pixels of an image. A pixel whose source is masked or outside keeps its
    value. The mask stays.
    """
    height, width = images.shape[1:]
    largest = _whole(JITTER * reach, images).clamp_min_(1)
    half = 1 + ((draws.branch(0).words(1) * largest) >> 32)[:, :, None]
    window = 2 * half + 1
    # A word's two halves give the two displacements, integers in [0, window).
    words = draws.branch(1).words(height * width).view(images.shape)
    rows, columns = _places(height, width, images.device)
    row = ((words >> 16) * window >> 16).add_(rows - half)
    column = ((words & 0xFFFF) * window >> 16).add_(columns - half)
    nearest_row, nearest_column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    inside = (row == nearest_row) & (column == nearest_column)
    source = nearest_row.mul_(width).add_(nearest_column).flatten(1)
    inside &= mask.flatten(1).gather(1, source).view_as(mask)
    moved = images.flatten(1).gather(1, source).view_as(images)
    return _masked(torch.where(inside, moved, images), mask)


def crop(images: Tensor, mask: Tensor, draws: Draws, reach: Reach = 1.0) -> tuple[Tensor, Tensor]:
    """Lose all beyond a centred square whose half side is S/4 to S/2 pixels, and 0 to 3 blind spots.

    Blind spots are discs with a radius of S/64 to S/16 pixels anywhere in the image. Lost pixels are 0 and
    masked.
    """
    height, width = images.shape[1:]
    side, (low, high) = min(height, width), BLIND_RADIUS
    half = side / 2 - _up_to(draws, CROP * reach * side, images)
    rows, columns = _places(height, width, images.device)
    mask = mask & (_from_beam(height, width, images.device)[0] <= half)
    # Of so many numbers as an image has, the first words of all blocks come first.
    most = _whole(BLIND_SPOTS * reach, images)
    blocks, all_blocks = 3 * most // 4 + 1, 3 * BLIND_SPOTS // 4 + 1
    number = torch.arange(3 * BLIND_SPOTS + 1, device=images.device)
    drawn = draws.branch(0).uniform(4 * all_blocks).to(images.dtype)
    place = (number // blocks * all_blocks + number % blocks).clamp_max_(4 * all_blocks - 1)
    shares = drawn.gather(1, place.expand(len(images), -1))
    spots = (shares[:, :1] * (most + 1)).floor()[:, :, None]
    y, x, size = (shares[:, first::3, None] for first in (1, 2, 3))
    radius = (side * (low + (high - low) * reach * size)).square_()
    down, right = (rows - (height * y)[..., None]).square_(), (columns - (width * x)[..., None]).square_()
    for spot in range(BLIND_SPOTS):
        clear = down[:, spot] + right[:, spot] >= radius[:, spot, :, None]
        mask = mask & (clear | (spot >= spots))
    return _masked(images, mask)


def hole(images: Tensor, mask: Tensor, draws: Draws, reach: Reach = 1.0) -> tuple[Tensor, Tensor]:
    """Lose a central disc with a radius of S/64 to S/8 pixels: 0 and masked there."""
    height, width = images.shape[1:]
    low, high = HOLE
    radius = min(height, width) * (low + _up_to(draws, (high - low) * reach, images))
    return _masked(images, mask & (_from_beam(height, width, images.device)[1] >= radius.square()))


def shift(images: Tensor, mask: Tensor, draws: Draws, reach: Reach = 1.0) -> tuple[Tensor, Tensor]:
    """Move image and mask by up to S/16 pixels along each axis; pixels left empty are 0 and masked."""
    height, width = images.shape[1:]
    largest = _whole(SHIFT * reach * min(height, width), images)
    by = ((draws.words(2) * (2 * largest + 1)) >> 32) - largest
    rows, columns = _places(height, width, images.device)
    row, column = rows - by[:, :1, None], columns - by[:, 1:, None]
    nearest_row, nearest_column = row.clamp(0, height - 1), column.clamp(0, width - 1)
    source = (nearest_row * width + nearest_column).flatten(1)
    inside = (row == nearest_row) & (column == nearest_column)
    moved, seen = (table.flatten(1).gather(1, source).view_as(table) for table in (images, mask))
    return _masked(moved, seen & inside)


def sensitivity(images: Tensor, mask: Tensor, draws: Draws, reach: Reach = 1.0) -> tuple[Tensor, Tensor]:
    """Multiply by a smooth gain of mean 1 over the image, clipped at 1.

    The gain is 1 + a f: f is a random sum of the eight lowest cosine modes of the image, scaled to a largest
    modulus of 1, and a is 0 to 0.5.
    """
    amplitude = _up_to(draws.branch(0), SENSITIVITY * reach, images)
    weight = 2 * draws.branch(1).uniform(9).view(-1, 3, 3, 1).to(images.dtype) - 1
    weight[:, 0, 0] = 0  # the constant mode
    down, right = (_modes(size, images.dtype, images.device) for size in images.shape[1:])
    # Added one by one: their rounding does not depend on the batch.
    first, second, third = (weight * right).unbind(2)
    columns = (first + second + third)[:, :, None, :]
    first, second, third = (down[:, :, None] * columns).unbind(1)
    shape = first + second + third
    gain = 1 + amplitude * (shape / shape.abs().amax((1, 2), keepdim=True))
    return _masked((images * gain).clamp_max_(1), mask)


ORDER = (shift, blur, jitter, sensitivity, noise, salt_and_pepper, hole, crop)
"""The order in which they act in an experiment: first what happens to the light (shift, blur, distortion),
then the pixels' gains, background and broken pixels, at last the detector's hole and edge."""

FILTERS = (
    "identity", "noise", "salt_and_pepper", "blur", "jitter", "crop", "hole", "shift", "sensitivity",
    "combination", "realistic",
)  # fmt: skip
"""The eleven filters in the order of their indices. Indices are part of the streams: new ones go last.

"identity" is the image as it is; seven more and "shift" are single; "combination" is each of these eight with
probability 1/2, and "realistic" all of them, each over half its range, both in the order of :data:`ORDER`."""

COMBINATION, REALISTIC = FILTERS.index("combination"), FILTERS.index("realistic")


@lru_cache(maxsize=4)
def _chances(device: torch.device) -> Tensor:
    """Probability of each effect of :data:`ORDER` under each filter, (11, 8) float32."""
    chances = [[float(effect.__name__ == name) for effect in ORDER] for name in FILTERS]
    chances[COMBINATION], chances[REALISTIC] = [0.5] * len(ORDER), [1.0] * len(ORDER)
    return torch.tensor(chances, device=device)


def _changed(
    images: Tensor, mask: Tensor, index: Tensor, draws: Draws, sigma: float, chance: bool
) -> tuple[Tensor, Tensor]:
    """Images and masks (B, H, W), which may be overwritten, under the filters with the indices (B,).

    An effect is computed at once for all images that it changes, whichever their filters are.

    Args:
        draws: a stream for each image, below which each filter has a branch.
        sigma: of a blur of radius 1, see :data:`BLUR_RADIUS_IS`.
        chance: whether the filter "combination" may be among them.
    """
    branch = draws.branch(index)
    assert isinstance(branch.stream, Tensor)
    if chance and by_device(index.device, True, False):  # a GPU would have to wait for the answer
        chance = bool((index == COMBINATION).any())
    coins = branch.branch(len(ORDER)).uniform(len(ORDER)) if chance else 0
    wanted = _chances(index.device)[index] > coins
    effect, row = wanted.T.nonzero().unbind(1)
    counts = wanted.sum(0).tolist()
    index, stream = index[row], branch.stream[row]
    stream = torch.where(index >= COMBINATION, 16 * stream + effect + 1, stream)
    reach = torch.where(index == REALISTIC, REALISTIC_REACH, 1.0).to(images.dtype)[:, None, None]
    parts = (table.split(counts) for table in (row, draws.numbers[row], stream, reach))
    for apply, rows, numbers, streams, reaches in zip(ORDER, *parts, strict=True):
        if not len(rows):
            continue
        own = Draws(draws.key, numbers, streams)
        if apply is blur:
            reaches = reaches * sigma
        if len(rows) == len(images):
            images, mask = apply(images, mask, own, reaches)
            continue
        before = images[rows], mask[rows]
        after = apply(*before, own, reaches)
        for table, old, new in zip((images, mask), before, after, strict=True):
            if new is not old:
                table.index_copy_(0, rows, new)
    return images, mask


class Augmented(NamedTuple):
    """Images after the filters.

    Attributes:
        images: (N, H, W) in [0, 1], of the input's type and device; 0 where masked.
        mask: (N, H, W) bool, True where usable.
        filter_index: (N,) int64, place of the image's filter in ``FILTERS``.
    """

    images: Tensor
    mask: Tensor
    filter_index: Tensor


def augment(
    images: Tensor,
    which: str | Sequence[str],
    seed: int,
    numbers: Tensor | None = None,
    mask: Tensor | None = None,
    blur_radius_is: str = "sigma",
) -> Augmented:
    """Log images as a detector with flaws would show them.

    Args:
        images: (B, H, W) float in [0, 1], beam at pixel (H/2, W/2); not modified.
        which: a filter's name; several names or "all": each image under each of them, filter by filter, so
            that row ``f * B + i`` is image i under name f; "random": one of the eleven for each image, all
            equally likely.
        seed: not negative.
        numbers: (B,) int64, each image's number within its set; 0 to B - 1 by default. An image's result
            depends on the seed, its number and its filter, not on the batch that it is in nor, but for
            rounding, on the device.
        mask: (B, H, W) or (H, W) bool, True where usable; all usable by default.
        blur_radius_is: what the paper's radius of a blur, up to 5 pixels, means: "sigma", or "wolfram", the
            Wolfram language's, whose sigma is half the radius.

    Returns:
        B images for a name or "random", B times the number of names otherwise.

    Raises:
        InputError: unknown name or convention.
        ValueError: wrong shape or type, or negative seed.

    Example:
        >>> shown = icobench.augment(torch.rand(2, 64, 64), "realistic", seed=0)
        >>> shown.images.shape, bool(shown.mask.all())
        (torch.Size([2, 64, 64]), False)
    """
    names = list(FILTERS)
    wanted = names if which == "all" else [which] if isinstance(which, str) else list(which)
    unknown = [name for name in wanted if name not in FILTERS and which != "random"]
    if unknown or not wanted:
        raise InputError(f"unknown filter {', '.join(map(repr, unknown)) or '(none)'}; "
                         f"choose from {', '.join(names)}, all, random")  # fmt: skip
    if blur_radius_is not in BLUR_RADIUS_IS:
        raise InputError(f"blur_radius_is must be {' or '.join(BLUR_RADIUS_IS)}, got {blur_radius_is!r}")
    if images.ndim != 3 or not images.is_floating_point():
        raise ValueError(
            f"images must be floats of shape (B, H, W), got {images.dtype} {tuple(images.shape)}"
        )
    if mask is None:
        mask = torch.ones(images.shape[1:], dtype=torch.bool, device=images.device)
    if mask.dtype != torch.bool or mask.shape not in (images.shape, images.shape[1:]):
        raise ValueError(f"mask must be bool and fit the images, got {mask.dtype} {tuple(mask.shape)}")
    if numbers is None:
        numbers = torch.arange(len(images))
    if numbers.dtype != torch.int64 or numbers.shape != images.shape[:1]:
        raise ValueError(f"numbers must be int64 of shape (B,), got {numbers.dtype} {tuple(numbers.shape)}")

    draws = draws_for(seed, Purpose.AUGMENTATION, numbers.to(images.device))
    mask = mask.to(images.device).expand(images.shape)
    if which == "random":
        index = draws.words(1)[:, 0] * len(FILTERS) >> 32
    else:
        places = torch.tensor([names.index(name) for name in wanted], device=images.device)
        index = places.repeat_interleave(len(images))
    sigma = BLUR_RADIUS_IS[blur_radius_is]
    out = images.new_empty(len(index), *images.shape[1:])
    usable = mask.new_empty(out.shape)
    chance = which == "random" or "combination" in wanted
    chunk = by_device(images.device, CHUNK, GPU_CHUNK)
    for start in range(0, len(index), chunk):
        part = slice(start, start + chunk)
        source = torch.arange(start, min(start + chunk, len(index)), device=index.device) % len(images)
        before = mask[source]
        values = torch.where(before, images[source], 0)  # masked pixels may hold anything, also NaN
        stream = replace(draws, numbers=draws.numbers[source])
        out[part], usable[part] = _changed(values, before, index[part], stream, sigma, chance)
    return Augmented(out, usable, index)
