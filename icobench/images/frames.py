"""Raw frames of one file or data set, read a few at a time, with what the file states about them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import IO

import numpy as np

from icobench.errors import InputError
from icobench.images.facts import Facts

__all__ = [
    "MOST_PIXELS", "FrameLayout", "Frames", "array_frames", "check_size", "first_line", "plain_frames",
    "stacked",
]  # fmt: skip


MOST_PIXELS = 1 << 26
"""Pixels of a frame; the largest detectors of the field have a quarter of them."""

LARGEST_RATIO = 2000
"""Of what a file declares to what it holds. Deflate packs nothing at all a thousandfold."""

SMALL = 1 << 24
"""Bytes that may be declared whatever a file holds."""


@dataclass(frozen=True)
class FrameLayout:
    """What a user says of how the frames lie in an array.

    Attributes:
        frame_axis: "first", "last", or empty where the shape decides.
        most_pixels: a frame with more is refused.
    """

    frame_axis: str = ""
    most_pixels: int = MOST_PIXELS

    def __post_init__(self) -> None:
        if self.frame_axis not in ("", "first", "last"):
            raise InputError(f"--frame-axis must be first or last, got {self.frame_axis!r}")

    def is_last(self, shape: tuple[int, ...], where: str) -> bool:
        """Whether the frames of a three-dimensional array lie along its last axis, as MATLAB keeps them.

        Raises:
            InputError: square images one way, and stripes the other, and the user did not say which.
        """
        if self.frame_axis or len(shape) != 3:
            return self.frame_axis == "last" and len(shape) == 3
        if shape[0] == shape[1] != shape[2]:
            raise InputError(
                f"{where}: the shape {shape} may be {shape[2]} frames of {shape[0]} x {shape[1]} along the "
                f"last axis, as MATLAB keeps them, or {shape[0]} frames of {shape[1]} x {shape[2]}; "
                "say --frame-axis last or first"
            )
        return False


@dataclass(frozen=True)
class Frames:
    """The frames of one file or dataset.

    Attributes:
        where: file and dataset, for messages.
        shape: (N, H, W); another rank where the file holds something else.
        dtype: as stored.
        read: frames ``start`` to ``stop`` as (stop - start, H, W); any exception where they cannot be read.
        note: a problem of the file that does not keep frames from being read, empty if there is none.
        facts: what the file states.
        masks: masks that belong to the frames, by the names of their data sets.
        other_masks: names of further masks of the same shape, which are not used.
        modules: (modules, rows) that a frame's rows consist of, where the file keeps modules apart.
        remarks: what else the user should know, a line each.
        grow: looks whether a writer has added frames, and gives their number; None where that takes opening
            the file again.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]
    note: str = ""
    facts: Facts = field(default_factory=dict)
    masks: "dict[str, Frames]" = field(default_factory=dict)
    other_masks: tuple[str, ...] = ()
    modules: tuple[int, int] | None = None
    remarks: tuple[str, ...] = ()
    grow: Callable[[], int] | None = None

    def stacked_modules(self) -> "Frames":
        """Frames (N, modules, y, x) as (N, modules y, x)."""
        if len(self.shape) != 4:
            return self
        count, modules, height, width = self.shape

        def read(start: int, stop: int) -> np.ndarray:
            return self.read(start, stop).reshape(stop - start, modules * height, width)

        return replace(
            self, shape=(count, modules * height, width), read=read,
            modules=(modules, height) if modules > 1 else None,
        )  # fmt: skip


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def stacked(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a stack; that of one image becomes that of a stack of one."""
    return (1, *shape) if len(shape) == 2 else shape


def check_size(
    where: str,
    shape: tuple[int, ...],
    itemsize: int,
    held: int,
    layout: FrameLayout,
    ratio: int = LARGEST_RATIO,
) -> None:
    """Refuse what a header declares and the file cannot hold, before memory is taken for it.

    Args:
        where: for messages.
        shape: as declared.
        itemsize: bytes of a number.
        held: bytes of the file or of the dataset.
        layout: has the largest frame.
        ratio: of what is declared to what is held.

    Raises:
        InputError: a frame with too many pixels, a negative size, or far more than the file holds.
    """
    if any(size < 0 for size in shape):
        raise InputError(f"{where}: declares the impossible shape {shape}")
    sides = [int(size) for size in shape if size != 1][-2:]
    pixels = math.prod(sides)
    if pixels > layout.most_pixels:
        raise InputError(
            f"{where}: frames of {' x '.join(f'{side:,}' for side in sides)} pixels are larger than "
            f"--max-pixels {layout.most_pixels:,}"
        )
    declared = math.prod(int(size) for size in shape) * itemsize
    if declared > max(SMALL, ratio * held):
        raise InputError(
            f"{where}: declares {declared / 1e9:,.3g} GB, of which the file holds {held / 1e9:,.3g} GB; "
            "it is damaged, or was never written"
        )


def array_frames(where: str, array: np.ndarray, layout: FrameLayout | None = None) -> Frames:
    """The frames of an array in memory."""
    if layout is not None and layout.is_last(array.shape, where):
        array = np.moveaxis(array, -1, 0)
    array = array.reshape(stacked(array.shape))
    return Frames(where, array.shape, array.dtype, lambda start, stop: array[start:stop])


def plain_frames(
    where: str, stream: IO[bytes], offset: int, dtype: np.dtype, shape: tuple[int, ...], note: str = ""
) -> Frames:
    """Frames that lie one after the other in a stream.

    They are not mapped into memory, since the process would crash if another program shortens a mapped file.
    """
    shape = stacked(shape)
    size = int(np.prod(shape[1:])) * dtype.itemsize

    def read(start: int, stop: int) -> np.ndarray:
        stream.seek(offset + start * size)
        content = stream.read((stop - start) * size)
        if len(content) < (stop - start) * size:
            raise EOFError("the file is cut short")
        return np.frombuffer(content, dtype).reshape(stop - start, *shape[1:])

    return Frames(where, shape, dtype, read, note)
