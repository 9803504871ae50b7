"""Images that come while they are looked at: a file that grows, a folder that fills, a stream.

The first frames decide what all are: kind, gaps, gain, physics, grid. A source is opened with them, and reads
the others as they come, so that a frame costs little.
"""

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from icobench.errors import InputError, NotYetError
from icobench.images.bridge import Train, Trains
from icobench.images.formats import HDF5_SUFFIXES, IMAGE_SUFFIXES
from icobench.images.frames import array_frames
from icobench.images.image_set import ImageSet
from icobench.images.image_source import DECIDING
from icobench.images.prepare import Prepared
from icobench.images.reading import Reading
from icobench.images.source import open_next

__all__ = [
    "Arrived",
    "FillingFolder",
    "GrowingFile",
    "Intervals",
    "Known",
    "LiveSource",
    "Stream",
    "live_source",
]

BLOCK = 32
"""Frames that are read at once, unless the caller says otherwise."""

FIRST_WAIT = 2.0
"""Seconds that are waited for :data:`DECIDING` frames, once there is one."""

DARK = 1 << 28
"""Bytes of frames of a stream after which no more are waited for, although none has any light."""

SETTLED = 0.5
"""Seconds without a change after which a file is complete."""

LOOKS = 0.2
"""Seconds between looks at a folder, or at a file that must be opened again."""

GIVES_UP = 5.0
"""Seconds without a change after which a file that cannot be read is an error."""

NO_TRAIN = -1

Known = dict[str, "Intervals"]
"""Frames that are in a table already: their numbers by file, those of their trains by the stream's source."""


class Intervals:
    """Whole numbers, kept as intervals: few where they follow each other."""

    def __init__(self, numbers: Sequence[int] | np.ndarray = ()) -> None:
        values = np.unique(np.asarray(numbers, dtype=np.int64))
        breaks = np.flatnonzero(np.diff(values) > 1)
        self.starts = values[np.r_[0, breaks + 1]].tolist() if values.size else []
        self.stops = (values[np.r_[breaks, values.size - 1]] + 1).tolist() if values.size else []

    def __contains__(self, number: int) -> bool:
        place = bisect_right(self.starts, number) - 1
        return place >= 0 and number < self.stops[place]


class Arrived(NamedTuple):
    """Frames that are read together.

    Attributes:
        source: name of their file, or of the stream's source.
        images: N of them, on the grid.
        trains: (N,) numbers of their trains, :data:`NO_TRAIN` for a file.
        places: (N,) theirs in the file or the train.
        times: (N,) when they were there, by ``time.monotonic``.
        last: whether the last train is complete with them.
    """

    source: str
    images: ImageSet
    trains: np.ndarray
    places: np.ndarray
    times: np.ndarray
    last: bool


class LiveSource(Protocol):
    """Where images come from.

    Attributes:
        where: for messages.
        troubles: what could not be read since this was last asked, a line each.
        known: frames that are not wanted again.
        missed: trains that were not received, by the numbers of those before and after.
    """

    where: str
    known: Known
    missed: int
    troubles: list[str]

    def open(self) -> Prepared | None:
        """The first frames, opened; None while there are none."""
        ...

    def take(self, most: int = BLOCK) -> Arrived | None:
        """The frames that are there, at most so many; None if there are none now."""
        ...

    def waiting(self) -> int:
        """Frames that are known to be there and were not taken."""
        ...

    def close(self) -> None:
        """Let go of files and sockets."""
        ...


Prepare = Callable[..., Prepared]
"""Opens a file, or an array: :func:`~icobench.images.prepare.prepare` with a user's settings."""

State = tuple[int, int, int]


def _state(path: Path) -> State | None:
    """What changes when a file is written; None if there is none."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns


class _Files:
    """What files have in common: blocks of their new frames."""

    prepared: Prepared
    missed = 0

    def __init__(self, where: str, prepare: Prepare, reading: Reading) -> None:
        self.where, self.prepare, self.reading = where, prepare, reading
        self.known: Known = {}
        self.troubles: list[str] = []
        self._name, self._next, self._seen = "", 0, 0.0

    def _numbers(self) -> Iterator[int]:
        done = self.known.get(self._name, Intervals())
        return (number for number in range(self._next, len(self.prepared.grid)) if number not in done)

    def _block(self, most: int) -> Arrived | None:
        """The next frames of the open file."""
        numbers = [number for number, _ in zip(self._numbers(), range(most), strict=False)]
        if not numbers:
            self._next = len(self.prepared.grid)
            return None
        self._next = numbers[-1] + 1
        images, count = self.prepared.grid.read(numbers), len(numbers)
        times = np.full(count, self._seen)
        return Arrived(self._name, images, np.full(count, NO_TRAIN), np.array(numbers), times, True)

    def _check(self, prepared: Prepared) -> Prepared:
        fact = prepared.setup.facts.get("wavelength_nm")
        if fact is not None and fact.by_frame is not None:
            prepared.source.files.close()
            raise InputError(
                f"{fact.origin}: a wavelength for each frame; give the mean --wavelength, --override"
            )
        self._seen = time.monotonic()
        self.prepared = prepared
        return prepared

    def close(self) -> None:
        if hasattr(self, "prepared"):
            self.prepared.source.files.close()


class GrowingFile(_Files):
    """An HDF5 file to which frames are added.

    Where the writer is in HDF5's SWMR mode the file stays open. Else it is opened for a block of frames when
    it has changed and no writer has it, and closed again: an open file would keep the writer out.
    """

    def __init__(self, path: Path, prepare: Prepare, reading: Reading) -> None:
        super().__init__(str(path), prepare, reading)
        self.path, self._name = path, path.name
        self._looked = 0.0
        self._read_at: State | None = None
        """The file's state before it was last opened."""
        if path.suffix.lower() not in HDF5_SUFFIXES:
            raise InputError(f"{path}: only an HDF5 file grows frame by frame; watch its folder instead")

    def _trouble(self, error: InputError, state: State) -> None:
        """What a writer may have just begun is waited for; else it is an error."""
        if isinstance(error, NotYetError):
            return
        if time.time() - state[2] / 1e9 > GIVES_UP:
            raise error
        self.troubles.append(f"waiting: {error}")

    def open(self) -> Prepared | None:
        if (state := _state(self.path)) is None:
            return None
        try:
            prepared = self.prepare(self.path)
        except InputError as error:
            self._trouble(error, state)
            return None
        if len(prepared.source) < DECIDING and time.time() - state[2] / 1e9 < FIRST_WAIT:
            prepared.source.files.close()
            return None
        self._read_at = state
        return self._check(prepared)

    def take(self, most: int = BLOCK) -> Arrived | None:
        source, now = self.prepared.source, time.monotonic()
        if self._next >= len(source) and source.grow():
            self._seen = now
        if source.grows:
            return self._block(most)
        if self._next >= len(source):
            if now < self._looked:
                return None
            self._looked, state = now + LOOKS, _state(self.path)
            if state is None or state == self._read_at:
                return None
        if not self._opened_again(now):
            return None
        block = self._block(min(most, BLOCK))  # meanwhile the writer waits
        source.files.close()
        return block

    def _opened_again(self, now: float) -> bool:
        source, before, state = self.prepared.source, len(self.prepared.source), _state(self.path)
        if state is None:
            return False
        try:
            open_next(source, self.path, self.reading)
        except InputError as error:
            self._trouble(error, state)
            return False
        if len(source) < before:
            raise InputError(f"{self.path}: holds {len(source):,} frames, where there were {before:,} before")
        if len(source) > before:
            self._seen = now
        self._read_at = state
        return True

    def waiting(self) -> int:
        return max(0, len(self.prepared.grid) - self._next)


class FillingFolder(_Files):
    """A folder to which files of frames are added.

    A file is taken once its size and time have not changed for :data:`SETTLED` seconds. Files whose name
    begins with a dot, or ends otherwise than those of images, are left alone: a writer may rename a finished
    one.
    """

    def __init__(self, path: Path, prepare: Prepare, reading: Reading) -> None:
        super().__init__(str(path), prepare, reading)
        self.path, self._looked = path, 0.0
        self._growing: dict[str, tuple[State, float]] = {}
        self._refused: dict[str, State] = {}
        self._finished: set[str] = set()
        self._complete: deque[tuple[Path, float]] = deque()

    def _look(self) -> None:
        """Find files that are complete now, the oldest first."""
        now = time.monotonic()
        if now < self._looked:
            return
        fresh, there = [], set()
        for path in self.path.iterdir():
            name = path.name
            there.add(name)
            if name in self._finished or name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            if (state := _state(path)) is None or self._refused.get(name) == state:
                continue
            before = self._growing.get(name)
            old = time.time() - state[2] / 1e9
            if before is None or before[0] != state:
                # A file that was renamed is older than this look.
                self._growing[name] = before = (state, now - min(max(old, 0.0), SETTLED))
            if now - before[1] >= SETTLED:
                fresh.append((state[2], name, path))
        for _, name, path in sorted(fresh):
            self._finished.add(name)
            self._complete.append((path, now))
        self._growing = {name: seen for name, seen in self._growing.items() if name in there - self._finished}
        took = time.monotonic() - now
        self._looked = now + max(LOOKS, 5 * took)  # a folder of a million files takes a second

    def _refuse(self, path: Path, error: InputError) -> None:
        self.troubles.append(f"left out: {error}")
        self._finished.discard(path.name)
        if state := _state(path):
            self._refused[path.name] = state

    def open(self) -> Prepared | None:
        self._look()
        while self._complete:
            path, _ = self._complete.popleft()
            try:
                prepared = self.prepare(path)
            except InputError as error:
                self._refuse(path, error)
                continue
            self._name = path.name
            return self._check(prepared)
        return None

    def take(self, most: int = BLOCK) -> Arrived | None:
        if block := self._block(most):
            return block
        self._look()
        while self._complete:
            path, self._seen = self._complete.popleft()
            try:
                open_next(self.prepared.source, path, self.reading)
            except InputError as error:
                self._refuse(path, error)
                continue
            self._name, self._next = path.name, 0
            if block := self._block(most):
                return block
        return None

    def waiting(self) -> int:
        return max(0, len(self.prepared.grid) - self._next) + len(self._complete)


class _Held(NamedTuple):
    """A train that was received, and when."""

    train: Train
    time: float

    def alike(self, other: "_Held") -> bool:
        """Whether the frames of another train can be read with those of this one."""
        kinds = [
            (train.source, train.images.dtype, train.images.shape[1:], len(train.images) > 0)
            for train in (self.train, other.train)
        ]
        return kinds[0] == kinds[1]


class Stream:
    """A Karabo bridge, see :mod:`icobench.images.bridge`."""

    def __init__(self, trains: Trains, prepare: Prepare) -> None:
        self.where, self.trains, self.prepare = trains.address, trains, prepare
        self.known: Known = {}
        self.troubles: list[str] = []
        self.missed = 0
        self._held: deque[_Held] = deque()
        self._place, self._last = 0, 0
        self._lit = 0

    def _receive(self, seconds: float) -> bool:
        """Wait for a train; whether there was one that is not known."""
        try:
            train = self.trains.next(seconds)
        except InputError as error:
            self.troubles.append(f"left out: {error}")
            return False
        if train is not None:
            self.missed += max(0, train.number - self._last - 1) if self._last else 0
            self._last = max(self._last, train.number)
        if train is None or train.number in self.known.get(train.source, Intervals()):
            return False
        self._held.append(_Held(train, time.monotonic()))
        return True

    def open(self) -> Prepared | None:
        if self._receive(0.1):
            self._lit += int((self._held[-1].train.images > 0).any((-2, -1)).sum())
        if not self._held:
            return None
        # Frames without light do not tell what the numbers mean.
        waited = time.monotonic() - self._held[0].time > FIRST_WAIT
        many = sum(held.train.images.nbytes for held in self._held) > DARK
        if not (self._lit >= DECIDING or (self._lit and waited) or many):
            return None
        self.prepared = self.prepare(np.concatenate([held.train.images for held in self._held]))
        return self.prepared

    def take(self, most: int = BLOCK) -> Arrived | None:
        if not self._held and not self._receive(0.02):
            return None
        while self.waiting() - self._place < most and self._receive(0.0):
            pass
        first, parts, count = self._held[0], list[tuple[_Held, range]](), 0
        while self._held and count < most and first.alike(self._held[0]):
            held = self._held[0]
            places = range(self._place, min(self._place + most - count, len(held.train.images)))
            parts.append((held, places))
            count += len(places)
            self._place = places.stop
            if self._place == len(held.train.images):
                self._held.popleft()
                self._place = 0
        frames = [held.train.images[places.start : places.stop] for held, places in parts]
        try:
            together = np.concatenate(frames) if len(frames) > 1 else frames[0]
            self.prepared.source.go_on(array_frames(f"{self.where}, {first.train.source}", together))
        except InputError as error:
            self.troubles += [f"left out: train {held.train.number}: {error}" for held, _ in parts]
            self._place = 0
            if self._held and self._held[0] is parts[-1][0]:  # its other frames are like these
                self._held.popleft()
            return None
        sizes = [len(places) for _, places in parts]
        return Arrived(
            first.train.source,
            self.prepared.grid.read(range(count)),
            np.repeat([held.train.number for held, _ in parts], sizes),
            np.concatenate([np.arange(places.start, places.stop) for _, places in parts]),
            np.repeat([held.time for held, _ in parts], sizes),
            self._place == 0,
        )

    def waiting(self) -> int:
        return sum(len(held.train.images) for held in self._held)

    def close(self) -> None:
        self.trains.__exit__()


def live_source(
    name: str, prepare: Prepare, reading: Reading | None = None, subscribe: bool = False
) -> LiveSource:
    """The source that a user means: a stream's address, a folder, or an HDF5 file.

    Args:
        name: of it.
        prepare: opens its first frames.
        reading: how the others are read.
        subscribe: to a stream, instead of asking for each train.

    Raises:
        InputError: no such folder, a file that is no HDF5 file, or a stream without the libraries for one.
    """
    reading = reading or Reading()
    if "://" in name:
        return Stream(Trains(name, reading.dataset, subscribe), prepare)
    path = Path(name)
    if subscribe:
        raise InputError(f"{path}: only a stream can be subscribed to")
    if path.is_dir():
        return FillingFolder(path, prepare, reading)
    if not path.resolve().parent.is_dir():
        raise InputError(f"{path.parent}: no such folder")
    return GrowingFile(path, prepare, reading)
