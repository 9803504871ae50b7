"""Images of a user's file, read and checked block by block.

A mask inside icobench is True where a pixel is usable; in files non-zero means bad.
"""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from icobench.errors import InputError
from icobench.images.formats import Frames, array_frames, first_line, open_frames, open_mask
from icobench.images.image_set import KINDS, ImageSet

__all__ = ["ImageSource", "open_arrays", "open_images", "read_images"]

LEAST_PIXELS = 16
"""A side of the smallest frame that is accepted."""

DECADES = 6.0
"""Dynamic range that log images are brought to, that of fits and networks."""

DECIDING = 8
"""Usable frames that decide whether floating-point numbers are counts or log images."""


def _read(frames: Frames, numbers: Sequence[int]) -> tuple[np.ndarray, dict[int, str]]:
    """Raw frames (n, H, W), 0 where unreadable, and the reasons by the frames' numbers."""
    start, stop = numbers[0], numbers[-1] + 1
    if list(numbers) == list(range(start, stop)):
        try:
            values = frames.read(start, stop)
            if len(values) == len(numbers):
                return values, {}
        except Exception:  # libraries raise many kinds; below, each frame is read alone
            pass
    values = np.zeros((len(numbers), *frames.shape[1:]), frames.dtype)
    problems = {}
    for place, number in enumerate(numbers):
        try:
            values[place] = frames.read(number, number + 1)[0]
        except Exception as error:
            problems[number] = f"unreadable ({first_line(error)})"
    return values, problems


def _problem(image: np.ndarray, usable: np.ndarray, kind: str) -> str | None:
    """Why an image (H, W) cannot be used, if so."""
    values = image[usable]
    if values.size == 0:
        return "masked completely"
    if (values < 0).any():
        return "negative values at usable pixels"
    if kind == "log" and (values > 1).any():
        return "not a log image: values above 1"
    if not (values > 0).any():
        return "empty: all usable pixels are 0"
    return None


def _check(frames: Frames) -> None:
    """Refuse what are no images."""
    shape, where = frames.shape, frames.where
    if frames.dtype.kind not in "uif":
        raise InputError(f"{where}: images must be real numbers, got {frames.dtype}")
    if len(shape) != 3:
        raise InputError(f"{where}: expected images of shape (N, H, W) or (H, W), got {shape}")
    if shape[0] == 0:
        raise InputError(f"{where}: holds no image")
    if min(shape[1:]) < LEAST_PIXELS:
        raise InputError(f"{where}: images must have at least {LEAST_PIXELS} pixels a side, got {shape}")


def _checked_mask(mask: Frames, shape: tuple[int, ...]) -> Frames:
    """A mask for every image of a stack with this shape."""
    if mask.shape not in (shape, (1, *shape[1:])):
        mask_shape = mask.shape[mask.shape[0] == 1 :]
        raise InputError(f"{mask.where}: mask of shape {mask_shape} does not fit images of shape {shape}")
    if mask.dtype.kind not in "buif":
        raise InputError(f"{mask.where}: a mask must hold numbers, got {mask.dtype}")
    if mask.shape[0] > 1:
        return mask
    try:
        common = mask.read(0, 1)
    except Exception as error:
        raise InputError(f"{mask.where}: mask unreadable ({first_line(error)})") from error
    return array_frames(mask.where, np.broadcast_to(common, shape))


class ImageSource:
    """Frames of a file or an array, read block by block and checked then; a context manager.

    Made by :func:`open_images`, whose ``saturation`` and ``decades`` it has, and :func:`open_arrays`. Masks
    are one for all frames or one for each, non-zero = bad.

    Attributes:
        path: the file, None for an array.
        where: file and dataset, for messages.
        kind: "counts" or "log"; for arrays also "intensity".
        shape: (H, W) of every image.
        files: what is closed at the end.
    """

    def __init__(
        self,
        path: Path | None,
        frames: Frames,
        mask: Frames | None,
        kind: str,
        saturation: float | None = None,
        decades: float = DECADES,
    ) -> None:
        self.path, self.where, self.files = path, frames.where, ExitStack()
        self._frames, self._saturation, self._decades = frames, saturation, decades
        _check(frames)
        self._state = self._stat()
        self._mask = None if mask is None else _checked_mask(mask, frames.shape)
        self.shape = (frames.shape[1], frames.shape[2])
        self.kind = self._decide() if kind == "auto" else kind
        if self.kind != "log" and decades != DECADES:
            raise InputError(f"{self.where}: photon counts have no decades; say --kind log if they are not")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.files.close()

    def __len__(self) -> int:
        """Number of frames."""
        return self._frames.shape[0]

    def _load(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        """Stored values (n, H, W) float32, where they are usable, and problems by the frames' numbers."""
        raw, problems = _read(self._frames, numbers)
        with np.errstate(over="ignore"):
            images = raw.astype(np.float32)
        usable = np.isfinite(images)
        if self._saturation is not None:
            usable &= raw < self._saturation
        if self._mask is not None:
            bad, unreadable = _read(self._mask, numbers)
            usable &= bad == 0
            problems |= {number: f"mask {reason}" for number, reason in unreadable.items()}
        return images, usable, problems

    def _decide(self) -> str:
        """Counts or log, by the number type of integers or by the first usable frames of floats."""
        if self._frames.dtype.kind != "f":
            return "log" if self._frames.dtype == np.uint8 else "counts"
        below_one = 0
        for number in range(len(self)):
            images, usable, problems = self._load((number,))
            if not problems and _problem(images[0], usable[0], "counts") is None:
                if images[usable].max() > 1:
                    return "counts"
                below_one += 1
            if below_one == DECIDING:
                break
        return "log" if below_one else "counts"

    def read(self, numbers: Sequence[int]) -> ImageSet:
        """The frames with these numbers; the geometry (``experiment``) and the truth are not known."""
        images, usable, problems = self._load(numbers)
        if self.kind == "log" and self._frames.dtype in (np.uint8, np.uint16):
            images /= np.iinfo(self._frames.dtype).max
        images[~usable] = 0
        for place, number in enumerate(numbers):
            problem = problems.get(number) or _problem(images[place], usable[place], self.kind)
            if problem is not None:
                problems[number] = problem
                images[place], usable[place] = 0, False
        if self.kind == "log" and self._decades != DECADES:
            dark = images == 0
            images = np.where(dark, 0, 1 + (images - 1) * (self._decades / DECADES)).clip(0, 1)
            images = images.astype(np.float32)
            if self._decades < DECADES:
                usable &= ~dark  # their intensity may be anything below the range
        index = torch.tensor(list(numbers), dtype=torch.int64)
        tensors = torch.from_numpy(images), torch.from_numpy(usable)
        return ImageSet(*tensors, self.kind, numbers=index, problems=problems)

    def blocks(self, size: int) -> Iterator[ImageSet]:
        """All frames in order, at most ``size`` at once."""
        for start in range(0, len(self), size):
            yield self.read(range(start, min(start + size, len(self))))

    def read_usable(self, count: int) -> ImageSet:
        """The first ``count`` frames; an InputError names file and number of one that cannot be used."""
        images = self.read(range(count))
        for number, problem in sorted(images.problems.items()):
            raise InputError(f"{self.where}: image {number}: {problem}")
        return images

    def _stat(self) -> tuple[int, int, int] | None:
        """What changes when the file is written: inode, size and time in ns."""
        try:
            state = os.stat(self.path) if self.path else None
        except OSError:
            return None
        return state and (state.st_ino, state.st_size, state.st_mtime_ns)

    def warnings(self) -> list[str]:
        """Problems of the file that were noticed so far, a line each."""
        lines = [f"{self.where}: {self._frames.note}"] if self._frames.note else []
        if self._stat() != self._state:
            lines.append(
                f"{self.where}: changed while it was read; "
                f"the {len(self)} frames present at opening were used"
            )
        return lines


def open_images(
    path: Path | str,
    kind: str = "auto",
    dataset: str | None = None,
    mask: str | None = None,
    saturation: float | None = None,
    decades: float = DECADES,
) -> ImageSource:
    """Open a file of images, whose frames are read later, block by block.

    Frames may be any rectangle of at least 16 pixels a side. Pixels that hold NaN or an infinite number, or
    that the mask or ``saturation`` exclude, are not usable. A frame that cannot be used at all is listed
    among the ``problems`` of the :class:`~icobench.images.image_set.ImageSet` that is read.

    Args:
        path: ``.cxi``, ``.h5``, ``.npy``, ``.npz``, ``.tif`` (a page per frame) or greyscale ``.png``.
        kind: "counts", "log", or "auto": 8-bit images are log images, other integers counts, and floats are
            log images if no value of the first 8 usable frames is above 1. Log images of 8 or 16 bits are
            divided by 255 or 65535.
        dataset: within an HDF5 file, ``/entry_1/data_1/data`` by default, or of an ``.npz``.
        mask: another file (any of these formats), or a dataset within an HDF5 file; (H, W) or (N, H, W),
            non-zero = bad. By default ``/entry_1/data_1/mask`` of an HDF5 file and "mask" of an ``.npz``.
        saturation: pixels whose stored number is this large or larger are bad.
        decades: dynamic range of log images: the value 0 stands for 10^-decades of the maximum or less. They
            are converted to six decades; if they have fewer, pixels at 0 are not usable.

    Raises:
        InputError: the file cannot be used: unreadable, no such dataset, not real numbers, not a stack of
            frames, no frame, a mask of another shape.
    """
    path = Path(path)
    if kind not in ("auto", "counts", "log"):
        raise InputError(f"kind must be auto, counts or log, got {kind!r}")
    if saturation is not None and not (math.isfinite(saturation) and saturation > 0):
        raise InputError(f"saturation must be a positive number, got {saturation:g}")
    if not (math.isfinite(decades) and decades > 0):
        raise InputError(f"decades must be a positive number, got {decades:g}")
    with ExitStack() as files:
        frames, masks = open_frames(path, dataset, files), open_mask(path, mask, files)
        source = ImageSource(path, frames, masks, kind, saturation, decades)
        source.files = files.pop_all()
    return source


def open_arrays(images: Any, mask: Any = None, kind: str = "auto") -> ImageSource:
    """Images in memory as a source, checked like those of a file.

    Args:
        images: (H, W) or (N, H, W), NumPy or torch.
        mask: (H, W) or (N, H, W) bool, True where a pixel is usable; all of them by default.
        kind: "counts", "log" or "auto" as for :func:`open_images`, or "intensity" without noise.

    Raises:
        InputError: as for :func:`open_images`.
    """
    if kind not in ("auto", *KINDS):
        raise InputError(f"kind must be auto, counts, log or intensity, got {kind!r}")
    array = images.detach().cpu() if isinstance(images, torch.Tensor) else images
    bad = None if mask is None else array_frames("the mask", ~np.asarray(mask, dtype=bool))
    return ImageSource(None, array_frames("the array", np.asarray(array)), bad, kind)


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
