"""The eleven augmentations of appendix D of Stielow et al. 2020, Mach. Learn.: Sci. Technol. 1 045007.

They imitate what detectors do to log images, for whole batches. The largest noise and the largest blur are
the paper's; the other ranges are this package's choice (``docs/paper.md``). All filters have one signature:

    images: (B, H, W) float in [0, 1], 0 where masked; the beam is at pixel (H/2, W/2).
    mask: (B, H, W) bool, True where usable.
    draws: a stream of random numbers for each image.
    reach: share of the range that may be drawn, in (0, 1].

and return images and masks of the same kind; the inputs stay as they are. S is the shorter side of the image.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.images.philox import Draws, draws_for
from icobench.seeds import Purpose

__all__ = ["FILTERS", "Augmented", "augment"]

CHUNK = 64
"""Images at a time, which bounds the temporaries."""

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


def _between(draws: Draws, low: float, high: float, images: Tensor) -> Tensor:
    """One uniform number in [low, high) for each image: (B, 1, 1)."""
    return low + (high - low) * draws.uniform(1)[:, :, None].to(images.dtype)


def _field(draws: Draws, images: Tensor) -> Tensor:
    """A uniform number in [0, 1) for each pixel: (B, H, W)."""
    return draws.uniform(images.shape[1:].numel()).view(images.shape).to(images.dtype)


def _steps(images: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (H, 1) and columns (W,) counted from the beam, int64."""
    height, width = images.shape[1:]
    rows = torch.arange(height, device=images.device) - height // 2
    columns = torch.arange(width, device=images.device) - width // 2
    return rows[:, None], columns


def _masked(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return images * mask, mask


def identity(images: Tensor, mask: Tensor, draws: Draws, reach: float = 1.0) -> tuple[Tensor, Tensor]:
    """The image as it is."""
    return images, mask


def noise(images: Tensor, mask: Tensor, draws: Draws, reach: float = 1.0) -> tuple[Tensor, Tensor]:
    """Add uniform noise from 0 to an amplitude between 0 and half the image's maximum, clipped at 1."""
    amplitude = _between(draws.branch(0), 0, NOISE * reach, images) * images.amax((1, 2), keepdim=True)
    return _masked((images + amplitude * _field(draws.branch(1), images)).clamp_max_(1), mask)


def salt_and_pepper(images: Tensor, mask: Tensor, draws: Draws, reach: float = 1.0) -> tuple[Tensor, Tensor]:
    """Set 0 to 10 % of the pixels, half of them to 0 and half to 1."""
    half = _between(draws.branch(0), 0, SALT_AND_PEPPER * reach / 2, images)
    field = _field(draws.branch(1), images)
    struck = torch.where(field < half, 0, images)
    return _masked(torch.where(field >= 1 - half, 1, struck), mask)


def blur(images: Tensor, mask: Tensor, draws: Draws, reach: float = 1.0) -> tuple[Tensor, Tensor]:
    """Gaussian blur with a sigma of 0 to 5 pixels.

    A pixel becomes the weighted mean of the usable pixels around it: neither masked pixels nor the outside
    darken it. The mask stays.
    """
    # 1 - u is never 0, which keeps 0 / 0 out of the weights.
    sigma = BLUR * reach * (1 - _between(draws, 0, 1, images))

    def weights(size: int) -> Tensor:
        place = torch.arange(size, device=images.device, dtype=images.dtype)
        return torch.exp((place[:, None] - place).square() / (-2 * sigma.square()))

    rows, columns = weights(images.shape[1]), weights(images.shape[2])
    mean = (rows @ (images * mask) @ columns) / (rows @ mask.to(images) @ columns)
    # A masked pixel far from all others would be 0 / 0: select, do not multiply.
    return torch.where(mask, mean.clamp_(0, 1), 0), mask


def jitter(images: Tensor, mask: Tensor, draws: Draws, reach: float = 1.0) -> tuple[Tensor, Tensor]:
    """Each pixel shows another one, at most d rows and d columns away.

    d is 1 to 3, the same for all pixels of an image. A pixel whose source is masked or outside keeps its
    value. The mask stays.
    """
    height, width = images.shape[1:]
    largest = max(1, int(JITTER * reach))
    window = 3 + 2 * ((draws.branch(0).words(1) * largest) >> 32)[:, :, None]
    # A word's two halves give the two displacements, integers in [0, window).
    words = draws.branch(1).words(height * width).view(images.shape)
    rows, columns = _steps(images)
    row = ((words >> 16) * window >> 16) - window // 2 + (rows + height // 2)
    column = ((words & 0xFFFF) * window >> 16) - window // 2 + (columns + width // 2)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    source = (row.clamp_(0, height - 1) * width + column.clamp_(0, width - 1)).flatten(1)
    inside &= mask.flatten(1).gather(1, source).view_as(mask)
    moved = images.flatten(1).gather(1, source).view_as(images)
    return _masked(torch.where(inside, moved, images), mask)


def crop(images: Tensor, mask: Tensor, draws: Draws, reach: float = 1.0) -> tuple[Tensor, Tensor]:
    """Lose all beyond a centred square whose half side is S/4 to S/2 pixels, and 0 to 3 blind spots.

    Blind spots are discs with a radius of S/64 to S/16 pixels anywhere in the image. Lost pixels are 0 and
    masked.
    """
    height, width = images.shape[1:]
    side, most, (low, high) = min(height, width), int(BLIND_SPOTS * reach), BLIND_RADIUS
    half = side / 2 - _between(draws, 0, CROP * reach * side, images)
    rows, columns = _steps(images)
    mask = mask & (torch.maximum(rows.abs(), columns.abs()) <= half)
    shares = draws.branch(0).uniform(3 * most + 1).to(images.dtype)[:, :, None, None]
    number = (shares[:, 0] * (most + 1)).floor()
    for spot in range(most):
        y, x, size = shares[:, 3 * spot + 1 : 3 * spot + 4].unbind(1)
        down, right = rows + height // 2 - height * y, columns + width // 2 - width * x
        radius = side * (low + (high - low) * reach * size)
        mask = mask & ((down.square() + right.square() >= radius.square()) | (spot >= number))
    return _masked(images, mask)


def hole(images: Tensor, mask: Tensor, draws: Draws, reach: float = 1.0) -> tuple[Tensor, Tensor]:
    """Lose a central disc with a radius of S/64 to S/8 pixels: 0 and masked there."""
    side = min(images.shape[1:])
    low, high = HOLE
    radius = side * _between(draws, low, low + (high - low) * reach, images)
    rows, columns = _steps(images)
    return _masked(images, mask & (rows.square() + columns.square() >= radius.square()))


def shift(images: Tensor, mask: Tensor, draws: Draws, reach: float = 1.0) -> tuple[Tensor, Tensor]:
    """Move image and mask by up to S/16 pixels along each axis; pixels left empty are 0 and masked."""
    height, width = images.shape[1:]
    largest = int(SHIFT * reach * min(height, width))
    by = ((draws.words(2) * (2 * largest + 1)) >> 32) - largest
    row = torch.arange(height, device=images.device) - by[:, :1]
    column = torch.arange(width, device=images.device) - by[:, 1:]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    # Row and column -1 become the last ones; they are masked below.
    source = (batch, row[:, :, None] % height, column[:, None, :] % width)
    inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None, :]
    return _masked(images[source], mask[source] & inside)


def sensitivity(images: Tensor, mask: Tensor, draws: Draws, reach: float = 1.0) -> tuple[Tensor, Tensor]:
    """Multiply by a smooth gain of mean 1 over the image, clipped at 1.

    The gain is 1 + a f: f is a random sum of the eight lowest cosine modes of the image, scaled to a largest
    modulus of 1, and a is 0 to 0.5.
    """
    amplitude = _between(draws.branch(0), 0, SENSITIVITY * reach, images)
    weight = 2 * draws.branch(1).uniform(9).view(-1, 3, 3, 1).to(images.dtype) - 1
    weight[:, 0, 0] = 0  # the constant mode

    def modes(size: int) -> Tensor:
        place = torch.arange(size, device=images.device, dtype=torch.float64) + 0.5
        order = torch.arange(3, device=images.device)[:, None]
        return torch.cos(order * place * (math.pi / size)).to(images.dtype)

    # Added one by one: their rounding does not depend on the batch.
    first, second, third = (weight * modes(images.shape[2])).unbind(2)
    columns = (first + second + third)[:, :, None, :]
    first, second, third = (modes(images.shape[1])[:, :, None] * columns).unbind(1)
    shape = first + second + third
    gain = 1 + amplitude * (shape / shape.abs().amax((1, 2), keepdim=True))
    return _masked((images * gain).clamp_max_(1), mask)


ORDER = (shift, blur, jitter, sensitivity, noise, salt_and_pepper, hole, crop)
"""The order in which they act in an experiment: first what happens to the light (shift, blur, distortion),
then the pixels' gains, background and broken pixels, at last the detector's hole and edge."""


def combination(images: Tensor, mask: Tensor, draws: Draws, sigma: float = 1.0) -> tuple[Tensor, Tensor]:
    """Each of the eight single filters with probability 1/2, in the order of :func:`realistic`.

    ``sigma`` is that of a blur of radius 1, see :data:`BLUR_RADIUS_IS`.
    """
    images, mask = images.clone(), mask.clone()
    chosen = draws.branch(len(ORDER)).uniform(len(ORDER)) < 0.5
    for index, apply in enumerate(ORDER):
        rows, reach = chosen[:, index].nonzero().squeeze(1), sigma if apply is blur else 1.0
        images[rows], mask[rows] = apply(images[rows], mask[rows], draws.rows(rows).branch(index), reach)
    return images, mask


def realistic(images: Tensor, mask: Tensor, draws: Draws, sigma: float = 1.0) -> tuple[Tensor, Tensor]:
    """All eight single filters in the order in which they act in an experiment, each over half its range.

    ``sigma`` as for :func:`combination`.
    """
    for index, apply in enumerate(ORDER):
        reach = REALISTIC_REACH * (sigma if apply is blur else 1.0)
        images, mask = apply(images, mask, draws.branch(index), reach)
    return images, mask


_EFFECTS = (identity, noise, salt_and_pepper, blur, jitter, crop, hole, shift, sensitivity)

FILTERS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    effect.__name__: effect for effect in (*_EFFECTS, combination, realistic)
}
"""The eleven filters in the order of their indices. Indices are part of the streams: new ones go last."""


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
    options = {blur: {"reach": sigma}, combination: {"sigma": sigma}, realistic: {"sigma": sigma}}
    out = images.new_empty(len(index), *images.shape[1:])
    usable = mask.new_empty(out.shape)
    for place, apply in enumerate(FILTERS.values()):
        rows = (index == place).nonzero().squeeze(1)
        for chunk in rows.split(CHUNK) if len(rows) else ():
            source = chunk % len(images)
            before = mask[source]
            values = torch.where(before, images[source], 0)  # masked pixels may hold anything, also NaN
            stream = draws.rows(source).branch(place)
            out[chunk], usable[chunk] = apply(values, before, stream, **options.get(apply, {}))
    return Augmented(out, usable, index)
