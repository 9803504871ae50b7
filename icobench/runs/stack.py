"""The images of a file as pieces of work: read, fitted block by block, and stored when they are finished.

Each piece is finished by whatever process, see :mod:`icobench.runs.pieces`, and the same call goes on where
an earlier one was stopped.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch

from icobench.answer import MISS, OUTSIDE, RADII_NM, Answer, Progress
from icobench.devices import on_gpu, one_thread
from icobench.images.facts import Setup
from icobench.images.image_set import ImageSet
from icobench.images.prepare import Prepared
from icobench.methods.shapes import EQUIVALENT
from icobench.runs.blocks import Fitting, read_answer, store_answer
from icobench.runs.calibrate import BLOCK, GPU_BLOCK, refine_gain
from icobench.runs.pieces import execute, missing_pieces
from icobench.runs.pool import automatic_workers
from icobench.storage import WHOLE, PieceStore, Shard, holds_others

__all__ = ["Stack", "threads_for"]

ENOUGH_PIECES, MOST_PIECES = 64, 512
"""Pieces of a stack. Beyond the first number blocks of images grow, beyond the second a piece has several."""

LARGEST_BLOCK = 128
"""Images fitted together on a CPU: bodies of like size are simulated together, and their images still fit the
caches."""

WORTH_WORKERS = 20.0
"""Seconds of work for one process from which on further ones, which take some seconds to start, pay."""


class _Ahead:
    """Reads blocks of images, always in the same thread, so that a GPU need not wait for the next one.

    Args:
        read: images by their numbers.
    """

    def __init__(self, read: Callable[[range], ImageSet]) -> None:
        self._read, self._thread = read, ThreadPoolExecutor(1)
        self._next: tuple[range, Future[ImageSet]] | None = None

    def block(self, numbers: range, then: range | None) -> ImageSet:
        """A block; the one that will probably be asked for then is read meanwhile."""
        expected, self._next = self._next, None
        if expected is not None and expected[0] == numbers:
            images = expected[1].result()
        else:
            images = self._thread.submit(self._read, numbers).result()
        if then:
            self._next = then, self._thread.submit(self._read, then)
        return images


@dataclass(eq=False)
class Stack:
    """The images of a source as pieces of work; :func:`begin` makes it.

    Attributes:
        opened: the images.
        fitting: what answers them.
        store: keeps the answers; None for this process's memory.
        notes: what the user should know, a line each.
    """

    opened: Prepared
    fitting: Fitting
    store: PieceStore | None = None
    notes: list[str] = field(default_factory=list)
    _answers: dict[int, Answer] = field(default_factory=dict)
    _ahead: _Ahead | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.opened.grid)

    def __reduce__(self) -> Any:
        # Another process opens the file itself; what is found there goes to the store.
        return Stack, (self.opened, self.fitting, self.store)

    def check(self) -> None:
        """Refuse a folder of another reconstruction."""
        if self.store is not None:
            self.store.check()

    def open(self) -> None:
        """Make the folder, or go on in it with what was found of the detector."""
        if self.store is None:
            return
        if not self.store.description.exists():
            self.store.open()
            return
        self.store.open(described := json.loads(self.store.description.read_text()))
        if "gain" in described:
            self._settle(described["gain"], described["notes"])

    def _settle(self, gain: float | None, notes: Sequence[str]) -> None:
        if notes:
            self.opened.source.with_noise(gain)
            self.notes += notes

    @cached_property
    def images_in_piece(self) -> int:
        """So that there are at most :data:`MOST_PIECES`."""
        return self._block * math.ceil(len(self) / self._block / MOST_PIECES)

    @property
    def _block(self) -> int:
        """Images fitted together."""
        if torch.device(self.fitting.device).type != "cpu":
            return GPU_BLOCK
        return min(LARGEST_BLOCK, BLOCK * math.ceil(len(self) / BLOCK / ENOUGH_PIECES))

    def pieces(self) -> range:
        """The numbers of the pieces."""
        return range(math.ceil(len(self) / self.images_in_piece))

    def _blocks(self, piece: int) -> list[range]:
        """The numbers of the images of a piece that are fitted together."""
        first = piece * self.images_in_piece
        stop = min(first + self.images_in_piece, len(self))
        starts = [*range(first, stop, self._block)]
        # The first ones, whose fits may tell the gain, are the same on all devices.
        starts[1:1] = [BLOCK] if first == 0 and min(self._block, stop) > BLOCK else []
        return [range(*ends) for ends in pairwise([*starts, stop])]

    def _name(self, piece: int) -> str:
        return f"{piece:04d}"

    def is_stored(self, piece: int) -> bool:
        """Whether a piece is finished."""
        return (
            piece in self._answers if self.store is None else self.store.has(f"{self._name(piece)}.parquet")
        )

    def compute(self, piece: int, device: str, progress: Progress = lambda share: None) -> None:
        """Reconstruct the images of a piece and keep their answer."""
        if device != self.fitting.device:
            self.fitting = replace(self.fitting, device=device)
        blocks = self._blocks(piece)
        first, stop = blocks[0].start, blocks[-1].stop
        then = self._blocks(piece + 1)[0] if piece + 1 in self.pieces() else None
        parts: list[Answer] = []
        for numbers, following in zip(blocks, [*blocks[1:], then], strict=True):
            start = numbers.start
            block = self._ahead.block(numbers, following) if self._ahead else self.opened.grid.read(numbers)

            def report(part: float, done: int = start - first, count: int = len(block)) -> None:
                progress((done + part * count) / (stop - first))

            answers, problem = self.fitting.answer(block, report)
            if start == 0:
                notes: list[str] = []
                if problem is not None and not self.fitting.wanted.races:
                    bench = self.fitting.bench(self.opened.grid)
                    notes = refine_gain(self.opened.source, bench, problem, answers[0])
                if notes:  # once more, with the gain
                    answers, _ = self.fitting.answer(self.opened.grid.read(block.numbers.tolist()))
                self._settle(self.opened.source.gain, notes)
                if self.store is not None:
                    self.store.describe({"gain": self.opened.source.gain, "notes": notes})
            parts += answers
            report(1.0)
        answer = Answer.join(parts)
        if self.store is None:
            self._answers[piece] = answer
        else:
            store_answer(self.store, self._name(piece), answer)

    def run(self, workers: int = 1, shard: Shard = WHOLE, progress: Progress = lambda share: None) -> None:
        """Compute the pieces of a shard that are missing.

        The first piece comes first, whatever the shard: it may tell the gain.

        Args:
            workers: processes; 0 for as many as are worth it.
            shard: which pieces.
            progress: called with the finished share.
        """
        device, pieces = torch.device(self.fitting.device), self.pieces()
        with threads_for(device, len(self)):
            begin = time.perf_counter()
            if fresh := not self.is_stored(0):
                self.compute(0, str(device), lambda part: progress(part / len(pieces)))
            spent = time.perf_counter() - begin if fresh else float(self._read(0).seconds.sum())
        missing = missing_pieces(self, shard)
        if not missing:
            progress(1.0)
            return
        if workers == 0:
            workers = automatic_workers(device) if spent * len(missing) > WORTH_WORKERS else 1
        if not (self.store is not None and self.opened.call is not None and self.fitting.can_travel):
            workers = 1
        # The first images, which may change how the others are read, are answered by now.
        if workers == 1 and on_gpu(device):
            self._ahead = _Ahead(self.opened.grid.read)
        joins = device.type == "cpu"
        execute(self, device, workers, shard, lambda part, text: progress(part), joins)

    def _read(self, piece: int) -> Answer:
        return self._answers[piece] if self.store is None else read_answer(self.store, self._name(piece))

    @property
    def finished(self) -> int:
        """Images whose pieces are finished."""
        size, last = self.images_in_piece, self.pieces()[-1]
        return sum(
            len(self) - size * last if piece == last else size
            for piece in self.pieces()
            if self.is_stored(piece)
        )

    def answer(self) -> Answer:
        """All answers as one, with the notes on the images; every piece must be finished."""
        answer = Answer.join([self._read(piece) for piece in self.pieces()])
        gains = answer.nuisance.get("gain")
        if gains is not None and bool((gains.nan_to_num(1.0) == 1).all()):
            del answer.nuisance["gain"]
        notes = list(self.notes)
        _by_wavelength(answer, self.opened.setup, notes)
        if OUTSIDE in answer.status:
            low, high = RADII_NM
            also = (
                "" if self.fitting.wanted.plain else ", or at the end of the range of the shape's parameter"
            )
            notes.append(f"radii are searched from {low:g} to {high:g} nm; {OUTSIDE} fits ended there{also}")
        if self.fitting.sort:
            missed = sum(word.startswith(MISS) for word in answer.status)
            notes.append(f"{missed} of {len(answer)} images show no single body and were not fitted")
        answer.experiment, answer.origins = self.fitting.experiment, list(self.opened.notes)
        answer.notes = notes + [f"warning: {line}" for line in self.opened.grid.warnings()]
        return answer

    def remove(self) -> None:
        """Remove what was kept of a finished reconstruction."""
        if self.store is not None and not holds_others(
            self.store.folder, self.store.description.name, self.store.parts.name
        ):
            shutil.rmtree(self.store.folder, ignore_errors=True)


def _by_wavelength(answer: Answer, setup: Setup, notes: list[str]) -> None:
    """Bring the radii of frames with wavelengths of their own to these.

    An image depends on lengths over the wavelength alone, but for the refractive index.
    """
    fact = setup.facts.get("wavelength_nm")
    if fact is None or fact.by_frame is None:
        return
    ratio = torch.as_tensor(fact.by_frame / fact.value)[answer.index]
    answer.radius_nm, answer.radius_std_nm = answer.radius_nm * ratio, answer.radius_std_nm * ratio
    if EQUIVALENT in answer.nuisance:
        answer.nuisance[EQUIVALENT] = answer.nuisance[EQUIVALENT] * ratio
    low, high = float(fact.by_frame.min()), float(fact.by_frame.max())
    notes.append(f"every frame has its own wavelength, {low:.5g} to {high:.5g} nm; radii are in its units")


def threads_for(device: torch.device, images: int) -> AbstractContextManager[None]:
    """One thread for a stack of several pieces, as in workers: the last digits of tables depend on it.

    What a GPU leaves to the processor is too little for several threads, which would wait in loops.
    """
    return one_thread() if images > BLOCK or on_gpu(device) else nullcontext()
