"""Opening a user's file or array as a source of images."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icobench.errors import InputError
from icobench.images.formats import open_frames, open_mask
from icobench.images.frames import FrameLayout, Frames, array_frames
from icobench.images.image_set import KINDS, ImageSet
from icobench.images.image_source import DECIDING, ImageSource
from icobench.images.reading import Reading

__all__ = ["DECIDING", "ImageSource", "open_arrays", "open_images", "open_next", "read_images"]


def open_images(
    path: Path | str,
    kind: str = "auto",
    dataset: str | None = None,
    mask: str | None = None,
    saturation: float | None = None,
    decades: float | None = None,
    reading: Reading | None = None,
) -> ImageSource:
    """Open a file of images, whose frames are read later, block by block.

    Frames may be any rectangle of at least 16 pixels a side. Pixels that hold NaN or an infinite number, or a
    value that stands for a gap, or that the mask or ``saturation`` exclude, are not usable. A frame that
    cannot be used at all is listed among the ``problems`` of the :class:`~icobench.images.image_set.ImageSet`
    that is read. Log images of 8 or 16 bits are divided by 255 or 65535, and brought to six decades; if they
    have fewer, pixels at 0 are not usable. Counts are divided by their gain, see :class:`ImageSource`.

    Args:
        path: ``.cxi``, ``.h5``, ``.npy``, ``.npz``, ``.mat``, ``.tif`` (a page per frame), greyscale
            ``.png``, or one that fabio reads.
        kind, dataset, mask, saturation, decades: as for :class:`Reading`.
        reading: all of these and more, instead.

    Raises:
        InputError: the file cannot be used: unreadable, no such dataset, not real numbers, not a stack of
            frames, no frame, a mask of another shape; or it is not sure what its numbers are.
    """
    path = Path(path)
    reading = reading or Reading(kind, dataset, mask, saturation=saturation, decades=decades)
    if reading.kind == "intensity":
        raise InputError(f"kind must be auto, counts or log, got {reading.kind!r}")
    with ExitStack() as files:
        source = ImageSource(path, *_opened(path, reading, files), reading)
        source.files = files.pop_all()
    return source


def _opened(path: Path, reading: Reading, files: ExitStack) -> tuple[Frames, list[Frames]]:
    """The frames of a file and their masks."""
    layout = FrameLayout(reading.frame_axis, reading.max_pixels)
    frames = open_frames(path, reading.dataset, files, layout, reading.follow_links)
    if reading.mask:
        return frames, [open_mask(path, reading.mask, files, reading.follow_links)]
    return frames, list(frames.masks.values())


def open_next(source: ImageSource, path: Path, reading: Reading) -> None:
    """Let a source read on in another file of the same detector, or in its own one, which has grown.

    Raises:
        InputError: as for :func:`open_images`, or frames unlike those before.
    """
    with ExitStack() as files:
        frames, masks = _opened(path, reading, files)
        source.go_on(frames, masks)
        source.files.close()
        source.files = files.pop_all()


def open_arrays(
    images: Any, mask: Any = None, kind: str = "auto", reading: Reading | None = None
) -> ImageSource:
    """Images in memory as a source, checked like those of a file.

    Args:
        images: (H, W) or (N, H, W), NumPy or torch.
        mask: (H, W) or (N, H, W) bool, True where a pixel is usable; all of them by default.
        kind: "counts", "log" or "auto" as for :func:`open_images`, or "intensity" without noise.
        reading: more settings, instead of the kind.

    Raises:
        InputError: as for :func:`open_images`.
    """
    if kind not in ("auto", *KINDS):
        raise InputError(f"kind must be auto, counts, log or intensity, got {kind!r}")
    array = images.detach().cpu() if isinstance(images, torch.Tensor) else images
    reading = reading or Reading(kind)
    bad = [] if mask is None else [array_frames("the mask", ~np.asarray(mask, dtype=bool))]
    layout = FrameLayout(reading.frame_axis)
    return ImageSource(None, array_frames("the array", np.asarray(array), layout), bad, reading)


def read_images(
    path: Path | str, kind: str = "auto", data_path: str | None = None, mask_path: str | None = None
) -> ImageSet:
    """Read all images of a file, every one of which must be usable.

    Args:
        path, kind: as for :func:`open_images`, which reads block by block.
        data_path, mask_path: its ``dataset`` and ``mask``.

    Returns:
        N images (N, H, W) of kind "counts" or "log"; ``experiment`` is None.

    Raises:
        InputError: unreadable, wrongly shaped or impossible data; the message names file and image.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "frames.npy"
        >>> np.save(path, np.full((2, 64, 64), 7))
        >>> images = read_images(path)
        >>> images.kind, tuple(images.images.shape)
        ('counts', (2, 64, 64))
    """
    with open_images(path, kind, data_path, mask_path) as source:
        images = source.read_usable(len(source))
        for warning in source.warnings():
            raise InputError(warning)
    return images
