"""The frames of a user's file, read and checked block by block.

A mask inside icobench is True where a pixel is usable; in files non-zero means bad. Counts are in photons:
stored numbers are divided by the detector's units per photon, where these are known or show in the steps of
the numbers.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from icobench.errors import InputError
from icobench.images.facts import Facts, describe, same
from icobench.images.frames import Frames, array_frames
from icobench.images.geometry import Axes, Panels
from icobench.images.image_set import ImageSet
from icobench.images.kinds import Kind, kind_of, lattice_unit
from icobench.images.masks import (
    bad_pixels,
    checked_mask,
    gap_values,
    has_bits,
    hole_of_zeros,
    mask_remarks,
)
from icobench.images.noise import neighbour_noise, readout_noise
from icobench.images.reading import Reading, check_frames, problems_of, read_frames
from icobench.images.response import Response

__all__ = ["DECADES", "DECIDING", "FEWEST_UNITS", "ImageSource"]

DECADES = 6.0
"""Dynamic range that log images are brought to, that of fits and networks."""

DECIDING = 8
"""Usable frames that decide what the numbers are: counts or log images, their gain, their gaps."""

LOOKED_AT = 1 << 16
"""Pixels of a frame that are looked at for that, evenly spread."""

LEAST_NEGATIVE = 20
"""So many negative pixels show read-out noise; fewer are bad pixels."""

HOLE_RIM, HOLE_RIM_LOG = 5.0, 0.3
"""Photons, or brightness of log images, in the middle of the rim of what is a hole for the beam."""

MANY_FULL = 0.01
"""Share of pixels at the largest number of their type from which they are gaps, not an image's brightest."""

ROUND = 1e-3
"""A factor this near to 1 is 1."""

FEWEST_UNITS = 1e-9
"""Gain over the sum of an image below which no photon noise is seen: a noise-free intensity."""


def _spread(values: np.ndarray) -> np.ndarray:
    """At most :data:`LOOKED_AT` of the values (n,), evenly spread."""
    return values[:: max(1, -(-values.size // LOOKED_AT))]


class ImageSource:
    """Frames of a file or an array, read block by block and checked then; a context manager.

    Made by :func:`open_images` and :func:`open_arrays`.

    Attributes:
        path: the file, None for an array.
        where: file and dataset, for messages.
        kind: "counts" or "log"; "intensity" for noise-free ones.
        shape: (H, W) of every image.
        stored_shape: the same before images are turned.
        axes: how they are turned.
        facts: what the file states of the experiment.
        remarks: what the user should know before any work, a line each.
        decades_assumed: whether nobody said how many decades log images have.
        gain: stored units per photon; None where it is found frame by frame, or not known yet.
        steps: whether the numbers show their gain themselves, as multiples of it.
        files: what is closed at the end.
    """

    kind: str
    axes: Axes
    facts: Facts
    decades_assumed = False
    gain: float | None = None
    steps = True
    readout = 0.0
    modules: tuple[int, int] | None = None
    _good: np.ndarray | None = None
    _unit: float | None = None
    """The step of the numbers, where it is that of all the first frames."""

    def __init__(
        self, path: Path | None, frames: Frames, masks: Sequence[Frames], reading: Reading | None = None
    ) -> None:
        self.path, self.where, self.files = path, frames.where, ExitStack()
        self._frames = frames
        check_frames(frames)
        reading, self.remarks = (reading or Reading()).agreed(frames.facts)
        self.remarks = [*frames.remarks, *self.remarks]
        self.facts, self.modules = frames.facts, frames.modules
        self._state = self._stat()
        self._reading = reading
        self._masks = [checked_mask(self._stacked(mask), frames.shape) for mask in masks]
        self._bits: list[bool] = []
        self._gaps: list[float] = []
        self.response = Response.of(reading.gamma, reading.soft_saturation)
        self.axes = Axes(bool(reading.transpose), reading.flip or "")
        self.stored_shape = (frames.shape[1], frames.shape[2])
        self.shape = self.axes.shape(self.stored_shape)
        self._look_at_masks()
        self._decide()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.files.close()

    def __len__(self) -> int:
        """Number of frames."""
        return self._frames.shape[0]

    # What the first frames show

    def _stacked(self, mask: Frames) -> Frames:
        """A mask (modules, y, x) of frames whose modules were stacked, as one frame."""
        if self.modules is None or mask.shape != (*self.modules, self._frames.shape[2]):
            return mask
        return array_frames(mask.where, mask.read(0, mask.shape[0]).reshape(self._frames.shape[1:]))

    def _look_at_masks(self) -> None:
        """Which masks have bits, and what should be said of them."""
        hidden = []
        for mask in self._masks:
            values, problems = read_frames(mask, (0,))
            if problems:
                self._bits.append(False)
                continue
            bits = has_bits(mask, values) and self.modules is None
            self._bits.append(bits)
            bad = bad_pixels(values, bits, self._reading.invert_mask)
            images, _ = read_frames(self._frames, (0,))
            self.remarks += mask_remarks(mask, values, bad, images, bits)
            if bad.any():
                hidden.append(f"{mask.where} ({100 * bad.mean():.3g} % of the pixels)")
        if hidden:
            self.remarks.append(f"masked by {' and '.join(hidden)}")
        for name in self._frames.other_masks:
            self.remarks.append(
                f"{self.where}: there is a mask {name}, which is not used; --mask {name} uses it"
            )

    def _first_frames(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The first usable frames as stored, with what is usable of them; (1, H, W) each."""
        usable_frames = 0
        for number in range(len(self)):
            raw, usable, problems = self._load((number,))
            values = raw[usable]
            if not problems and values.size and (values > 0).any():
                usable_frames += 1
                yield raw, usable
            if usable_frames == DECIDING:
                return

    def _decide(self) -> None:
        """Kind, gaps, gain and read-out noise, by the first usable frames."""
        reading, frames = self._reading, list(self._first_frames())
        self.kind = reading.kind
        if reading.kind == "auto":
            decision = self._kind(frames)
            self.kind = decision.kind
            self.remarks.append(
                f"taken as {'photon counts' if self.kind == 'counts' else 'log images'}: {decision.reason}"
            )
        if self.kind != "log" and reading.decades is not None:
            raise InputError(f"{self.where}: photon counts have no decades; say --kind log if they are not")
        self._find_gaps(frames)
        frames = [(raw, usable & ~np.isin(raw, self._gaps)) for raw, usable in frames]
        if self.kind == "log":
            self.decades_assumed = reading.decades is None
        if self.kind != "counts":
            return
        self.gain, self.readout = reading.gain, reading.readout_noise or 0.0
        if reading.readout_noise is None:
            negative = [raw[usable] for raw, usable in frames if (raw[usable] < 0).sum() >= LEAST_NEGATIVE]
            if negative:
                self.readout = readout_noise(np.concatenate(negative).astype(np.float64))
                self.remarks.append(
                    f"values below 0: read-out noise of {self.readout:.3g} stored units, estimated from them"
                )
        units = [lattice_unit(_spread(raw[usable])) for raw, usable in frames]
        self.steps = self.readout == 0 and self.response is None and all(unit is not None for unit in units)
        if self.steps and len(set(units)) == 1:
            self._unit = units[0]

    def _kind(self, frames: "list[tuple[np.ndarray, np.ndarray]]") -> Kind:
        """Counts or log images; refused where the histograms do not tell."""
        decisions = []
        for raw, usable in frames:
            values = _spread(raw[usable])
            if values.dtype.kind in "ui":
                full = values == np.iinfo(values.dtype).max
                values = values[~full] if full.mean() > MANY_FULL else values
            decisions.append(kind_of(values))
        sure = [decision for decision in decisions if decision.kind]
        unsure = [decision for decision in decisions if not decision.kind]
        if not decisions:
            return Kind("counts", "no frame holds anything")
        if len({decision.kind for decision in sure}) != 1 or len(unsure) > len(sure):
            reason = (unsure or sure)[0].reason
            raise InputError(
                f"{self.where}: not sure whether these are counts or log images ({reason}); say --kind"
            )
        return sure[0]

    def _find_gaps(self, frames: "list[tuple[np.ndarray, np.ndarray]]") -> None:
        """Values that stand for gaps; pixels that hold them are not usable."""
        found: dict[float, list[float]] = {}
        for raw, usable in frames:
            for value in gap_values(raw, usable, self.kind == "counts"):
                found.setdefault(value, []).append(float((raw[usable] == value).mean()))
        self._gaps = list(found)
        for value, shares in found.items():
            self.remarks.append(
                f"pixels that hold {value:.10g} are gaps: {100 * max(shares):.2g} % of the pixels are left "
                "out"
            )

    def estimate_noise(self) -> tuple[float, float]:
        """Gain and read-out noise in stored units, from differences of neighbouring pixels of the first
        frames."""
        pairs = []
        for raw, usable in self._first_frames():
            values = raw[0].astype(np.float64)
            if self.response is not None:
                values = self.response.photons(values)
            pairs.append(neighbour_noise(values, usable[0]))
        gain, readout = np.median(np.array(pairs), axis=0) if pairs else (1.0, 0.0)
        return float(gain), float(readout)

    def with_noise(self, gain: float | None) -> None:
        """Take another gain, in stored units per photon, for frames that are read from now on."""
        self.gain = gain

    def use_panels(self, panels: Panels) -> None:
        """Leave out pixels that belong to no panel, or that are bad by the panels' file."""
        panels.check(self.stored_shape, self.where)
        self._good = panels.usable(self.stored_shape)

    def leave_out_hole(self, x: float, y: float) -> None:
        """Mask a hole around the beam at (x, y) of stored frames whose pixels are 0, and say so."""
        if self.kind == "intensity":
            return
        frames = list(self._first_frames())
        if not frames:
            return
        raw, usable = (np.concatenate(parts) for parts in zip(*frames, strict=True))
        least = HOLE_RIM_LOG if self.kind == "log" else HOLE_RIM
        scale = 1.0
        if self.kind == "log" and raw.dtype in (np.uint8, np.uint16):
            scale = float(np.iinfo(raw.dtype).max)
        elif self.kind == "counts":
            scale = self.gain or lattice_unit(_spread(raw[usable])) or 1.0
        hole = hole_of_zeros(raw, usable, x, y, least * scale)
        if hole is not None and usable[:, hole].any():  # one that a mask leaves out needs no word
            self._good = ~hole if self._good is None else self._good & ~hole
            self.remarks.append(
                f"a hole around the beam, {int(hole.sum())} pixels that are 0 in all frames, is left out"
            )

    # More frames of the same detector

    def grow(self) -> bool:
        """Look for frames that a writer has added; False where that takes opening the file again."""
        if self._frames.grow is None:
            return False
        for frames in (self._frames, *self._masks):
            if frames.grow is not None and frames.shape[0] > 1:
                count = frames.grow()
                if frames is self._frames:
                    self._frames = replace(frames, shape=(count, *frames.shape[1:]))
        return True

    @property
    def grows(self) -> bool:
        """Whether :meth:`grow` sees new frames of the open file."""
        return self._frames.grow is not None

    def go_on(self, frames: Frames, masks: Sequence[Frames] | None = None) -> None:
        """Read other frames of the same detector from now on; what was decided by the first ones stays.

        Args:
            frames: of the same size, of which no fact says something else than before.
            masks: theirs; those of before by default.

        Raises:
            InputError: other frames than before.
        """
        check_frames(frames)
        if frames.shape[1:] != self._frames.shape[1:] or frames.modules != self.modules:
            raise InputError(
                f"{frames.where}: frames of {frames.shape[1:]}, unlike those before, of {self.stored_shape}"
            )
        of_file = masks is not None and not self._reading.override
        for name in (self.facts.keys() | frames.facts.keys()) if of_file else ():
            before, now = (
                facts[name].value if name in facts else None for facts in (self.facts, frames.facts)
            )
            if not same(name, before, now):
                raise InputError(
                    f"{frames.where}: states another value than the frames before: {describe(name, now)}, "
                    f"not {describe(name, before)}"
                )
        self._frames, self.where = frames, frames.where
        if masks is not None:
            self._masks = [checked_mask(self._stacked(mask), frames.shape) for mask in masks]
            self._bits = (self._bits + [False] * len(masks))[: len(masks)]

    # Reading

    def _load(self, numbers: Sequence[int]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        """Stored values (n, H, W), where they are usable, and problems by the frames' numbers."""
        raw, problems = read_frames(self._frames, numbers)
        if raw.dtype.kind == "f":  # whole numbers are finite as float32, too
            with np.errstate(over="ignore"):
                usable = np.isfinite(raw.astype(np.float32, copy=False))
        else:
            usable = np.ones(raw.shape, dtype=bool)
        if self._reading.saturation is not None:
            usable &= raw < self._reading.saturation
        for value in self._gaps:
            usable &= raw != value
        if self._good is not None:
            usable &= self._good
        for mask, bits in zip(self._masks, self._bits, strict=False):
            values, unreadable = read_frames(mask, numbers)
            usable &= ~bad_pixels(values, bits, self._reading.invert_mask)
            problems |= {number: f"mask {reason}" for number, reason in unreadable.items()}
        return raw, usable, problems

    def _in_photons(self, images: np.ndarray, usable: np.ndarray) -> np.ndarray:
        """Gains (n,) by which stored values (n, H, W) are divided in place; few negative pixels are
        masked."""
        if self.response is not None:
            images[:] = self.response.photons(images)
        if self.readout == 0:
            negative = (images < 0) & usable
            counts = np.count_nonzero(negative.reshape(len(images), -1), axis=1)
            for place in np.flatnonzero((counts > 0) & (counts < LEAST_NEGATIVE)):
                usable[place] &= ~negative[place]
                images[place][~usable[place]] = 0
        given = self._unit if self.gain is None else self.gain
        gains = np.full(len(images), 1.0 if given is None else given)
        if given is None and self.readout == 0:
            for number, image in enumerate(images):
                values = image[usable[number]]
                if (values := values[values >= 0]).size:
                    gains[number] = lattice_unit(_spread(values)) or 1.0
        gains[np.abs(gains - 1) < ROUND] = 1.0
        if (gains != 1).any():
            np.divide(images, gains[:, None, None], out=images, casting="same_kind")
        return gains

    def read(self, numbers: Sequence[int]) -> ImageSet:
        """The frames with these numbers; the geometry (``experiment``) and the truth are not known."""
        raw, usable, problems = self._load(numbers)
        with np.errstate(over="ignore"):
            images = raw.astype(np.float32)
        if self.kind == "log" and raw.dtype in (np.uint8, np.uint16):
            images /= np.iinfo(raw.dtype).max
        images[~usable] = 0
        further: dict[str, Any] = {}
        if self.kind == "counts":
            gains = self._in_photons(images, usable)
            further["gain"] = torch.from_numpy(gains)
            if self.readout > 0:
                variance = np.broadcast_to((self.readout / gains[:, None, None]) ** 2, images.shape)
                further["readout"] = torch.from_numpy(variance.astype(np.float32))
        found = problems_of(images, usable, self.kind, self.kind == "counts" and self.readout > 0)
        for place, number in enumerate(numbers):
            if number in problems or place in found:
                problems.setdefault(number, found.get(place, ""))
                images[place], usable[place] = 0, False
        decades = self._reading.decades or DECADES
        if self.kind == "log" and decades != DECADES:
            dark = images == 0
            images = np.where(dark, 0, 1 + (images - 1) * (decades / DECADES)).clip(0, 1)
            images = images.astype(np.float32)
            if decades < DECADES:
                usable &= ~dark  # their intensity may be anything below the range
        images, usable = (np.ascontiguousarray(self.axes(array)) for array in (images, usable))
        index = torch.tensor(list(numbers), dtype=torch.int64)
        tensors = torch.from_numpy(images), torch.from_numpy(usable)
        return ImageSet(*tensors, self.kind, numbers=index, problems=problems, **further)

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
