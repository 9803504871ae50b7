"""How a file of images is to be read, and what makes a frame unusable."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from icobench.errors import InputError, NotYetError
from icobench.images.facts import OF_IMAGES, Facts
from icobench.images.frames import MOST_PIXELS, Frames, first_line
from icobench.images.geometry import Axes
from icobench.images.image_set import KINDS
from icobench.images.response import Response

__all__ = ["DARK", "Reading", "check_frames", "problems_of", "read_frames"]

DARK = "empty: all usable pixels are 0"
"""The problem of a frame that holds nothing."""

LEAST_PIXELS = 16
"""A side of the smallest frame that is accepted."""


@dataclass(frozen=True)
class Reading:
    """How a file is read; what is None or empty is decided by the file.

    Attributes:
        kind: "counts", "log", or "auto": what the file states, or what the histogram of the first frames
            shows.
        dataset: within an HDF5 file or an ``.npz``; one of the usual places by default.
        mask: another file, or a dataset of the same file; (H, W) or (N, H, W), non-zero = bad. By default the
            masks beside the images.
        invert_mask: zero = bad instead.
        saturation: pixels whose stored number is this large or larger are bad.
        decades: dynamic range of log images: the value 0 stands for 10^-decades of the maximum or less.
        gain: stored units per photon.
        readout_noise: standard deviation of the read-out noise, in stored units.
        gamma, soft_saturation: of the detector's response, see :class:`~icobench.images.response.Response`.
        flip, transpose: see :class:`~icobench.images.geometry.Axes`.
        frame_axis: "first" or "last".
        max_pixels: a frame with more is refused.
        follow_links: follow HDF5 links that lead out of the file's folder.
        override: believe these values where the file states others.

    Raises:
        InputError: a value that makes no sense.

    Example:
        >>> icobench.Reading("counts", gain=25.0, flip="y").gain
        25.0
    """

    kind: str = "auto"
    dataset: str | None = None
    mask: str | None = None
    invert_mask: bool = False
    saturation: float | None = None
    decades: float | None = None
    gain: float | None = None
    readout_noise: float | None = None
    gamma: float | None = None
    soft_saturation: float | None = None
    flip: str | None = None
    transpose: bool | None = None
    frame_axis: str = ""
    max_pixels: int = MOST_PIXELS
    follow_links: bool = False
    override: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("auto", *KINDS):
            raise InputError(f"kind must be auto, counts or log, got {self.kind!r}")
        for name in ("saturation", "decades", "gain"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a positive number, got {value:g}")
        noise = self.readout_noise
        if noise is not None and not (math.isfinite(noise) and noise >= 0):
            raise InputError(f"the read-out noise must not be negative, got {noise:g}")
        Response.of(self.gamma, self.soft_saturation)
        Axes(bool(self.transpose), self.flip or "")

    def agreed(self, facts: Facts) -> "tuple[Reading, list[str]]":
        """With what a file states in place of what is not given, and a line for each of these.

        Raises:
            InputError: a contradiction.
        """
        changes: dict[str, Any] = {}
        lines = []
        for name in OF_IMAGES:
            fact, given = facts.get(name), getattr(self, name)
            if fact is None or (fact.problem and given is not None):
                continue
            if fact.problem:
                raise InputError(f"{fact.origin}: {fact.problem}")
            if given in (None, "auto"):
                changes[name] = fact.value
                lines.append(f"from {fact.origin}: {name} {fact.value}")
            elif given != fact.value and (given, fact.value) != ("counts", "intensity"):
                text = f"the file states {name} {fact.value} ({fact.origin}), not {given}"
                if not self.override:
                    raise InputError(f"{text}; leave that out, or say --override if the file is wrong")
                lines.append(f"overridden: {text}")
        if changes.get("kind", self.kind) != "log":
            changes.pop("decades", None)
        return replace(self, **changes), lines


def read_frames(frames: Frames, numbers: Sequence[int]) -> tuple[np.ndarray, dict[int, str]]:
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


def problems_of(images: np.ndarray, usable: np.ndarray, kind: str, noisy: bool = False) -> dict[int, str]:
    """Why images cannot be used, by their places, for those that cannot.

    Args:
        images: (n, H, W), 0 at unusable pixels.
        usable: (n, H, W).
        kind: of the numbers.
        noisy: whether they may be negative.
    """
    pixels = images.reshape(len(images), -1)
    reasons = [("masked completely", ~usable.reshape(len(images), -1).any(1))]
    if not noisy:
        reasons.append(("negative values at usable pixels", (pixels < 0).any(1)))
    if kind == "log":
        reasons.append(("not a log image: values above 1", (pixels > 1).any(1)))
    reasons.append((DARK, ~(pixels > 0).any(1)))
    problems: dict[int, str] = {}
    for reason, where in reasons:
        for place in np.flatnonzero(where).tolist():
            problems.setdefault(place, reason)
    return problems


def check_frames(frames: Frames) -> None:
    """Refuse what are no images."""
    shape, where = frames.shape, frames.where
    if frames.dtype.kind not in "uif":
        raise InputError(f"{where}: images must be real numbers, got {frames.dtype}")
    if len(shape) != 3:
        raise InputError(f"{where}: expected images of shape (N, H, W) or (H, W), got {shape}")
    if shape[0] == 0:
        raise NotYetError(f"{where}: holds no image")
    if min(shape[1:]) < LEAST_PIXELS:
        raise InputError(f"{where}: images must have at least {LEAST_PIXELS} pixels a side, got {shape}")
