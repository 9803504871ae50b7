"""The eleven augmentations of appendix D of Stielow et al. 2020, by name, for whole batches.

They imitate what detectors do, see :mod:`icobench.images.filters`. What happens to an image depends on the
seed, the image's number and the filter alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from icobench.errors import InputError
from icobench.images import filters
from icobench.images.philox import Draws
from icobench.seeds import Purpose, seed_sequence

__all__ = ["FILTERS", "Augmented", "augment", "combination", "realistic"]

Filter = Callable[[Tensor, Tensor, Draws], tuple[Tensor, Tensor]]

CHUNK = 64
"""Images at a time, which bounds the temporaries."""

ORDER = (
    filters.shift,
    filters.blur,
    filters.jitter,
    filters.sensitivity,
    filters.noise,
    filters.salt_and_pepper,
    filters.hole,
    filters.crop,
)
"""The order in which they act in an experiment: first what happens to the light (shift, blur, distortion),
then the pixels' gains, background and broken pixels, at last the detector's hole and edge."""

REALISTIC_REACH = 0.5


def combination(images: Tensor, mask: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Each of the eight single filters with probability 1/2, in the order of :func:`realistic`."""
    images, mask = images.clone(), mask.clone()
    chosen = draws.branch(len(ORDER)).uniform(len(ORDER)) < 0.5
    for index, apply in enumerate(ORDER):
        rows = chosen[:, index].nonzero().squeeze(1)
        images[rows], mask[rows] = apply(images[rows], mask[rows], draws.rows(rows).branch(index))
    return images, mask


def realistic(images: Tensor, mask: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """All eight single filters in the order in which they act in an experiment, each over half its range.

    The order: shift, blur, jitter, sensitivity, noise, salt_and_pepper, hole, crop.
    """
    for index, apply in enumerate(ORDER):
        images, mask = apply(images, mask, draws.branch(index), REALISTIC_REACH)
    return images, mask


FILTERS: dict[str, Filter] = {
    "identity": filters.identity,
    "noise": filters.noise,
    "salt_and_pepper": filters.salt_and_pepper,
    "blur": filters.blur,
    "jitter": filters.jitter,
    "crop": filters.crop,
    "hole": filters.hole,
    "shift": filters.shift,
    "sensitivity": filters.sensitivity,
    "combination": combination,
    "realistic": realistic,
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

    Returns:
        B images for a name or "random", B times the number of names otherwise.

    Raises:
        InputError: unknown name.
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

    high, low = seed_sequence(seed, Purpose.AUGMENTATION).generate_state(2).tolist()
    draws = Draws((high, low), numbers.to(images.device))
    mask = mask.to(images.device).expand(images.shape)
    if which == "random":
        index = draws.words(1)[:, 0] * len(FILTERS) >> 32
    else:
        places = torch.tensor([names.index(name) for name in wanted], device=images.device)
        index = places.repeat_interleave(len(images))
    out = images.new_empty(len(index), *images.shape[1:])
    usable = mask.new_empty(out.shape)
    for place, apply in enumerate(FILTERS.values()):
        rows = (index == place).nonzero().squeeze(1)
        for chunk in rows.split(CHUNK) if len(rows) else ():
            source = chunk % len(images)
            before = mask[source]
            values = torch.where(before, images[source], 0)  # masked pixels may hold anything, also NaN
            out[chunk], usable[chunk] = apply(values, before, draws.rows(source).branch(place))
    return Augmented(out, usable, index)
