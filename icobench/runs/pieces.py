"""Work as a list of pieces: computed here, by worker processes, or by the shards of a cluster."""

import math
import pickle
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from statistics import median_low
from typing import Any, Protocol

import torch

from icobench.answer import Progress
from icobench.runs.pool import Running, WorkerPool, tell_share
from icobench.storage import WHOLE, Shard, share

__all__ = ["Report", "Work", "execute"]

Report = Callable[[float, str], None]
"""Called with the finished share and what is under way."""

LEAST_SHARE = 0.1
"""Share of a piece from which on its time so far says how long it takes; a worker's start is a part of it."""


class Work(Protocol):
    """What can be divided: a comparison, a sweep, a set of images.

    It is a value that can be sent to other processes; making one reads and writes nothing. Pieces are values,
    too; their ``str`` says what they are.
    """

    def check(self) -> None:
        """Refuse a folder that holds something else; nothing is written.

        Raises:
            InputError: it does.
        """

    def open(self) -> None:
        """Make the folder, or continue in it, and describe there what the pieces are of."""

    def pieces(self) -> Sequence[Any]:
        """All pieces, in the order in which they should be computed."""
        ...

    def is_stored(self, piece: Any) -> bool:
        """Whether a piece is finished."""
        ...

    def compute(self, piece: Any, device: str, progress: Progress = lambda share: None) -> str | None:
        """Compute a piece and store it, whole or not at all.

        Returns:
            why the piece could not be computed where the others may go on; None where it is stored.
        """


def missing_pieces(work: Work, shard: Shard = WHOLE) -> list[Any]:
    """The pieces of a shard that are not stored."""
    return [piece for piece in share(work.pieces(), shard) if not work.is_stored(piece)]


def _method(piece: Any) -> str:
    """Pieces of one method take about as long as each other."""
    return str(getattr(piece, "method", ""))


class _Course:
    """How far a list of pieces is, in words: what is under way, and for how long still.

    The time that is left is that of finished pieces of the same method, that of a piece under way by its
    share, or, where nothing is known of a method yet, the middle of the others'. While a method is under way
    of which nothing is known, nothing is said.
    """

    def __init__(self, pieces: Sequence[Any], missing: Sequence[Any], workers: int, report: Report) -> None:
        self.total, self.workers, self.report = len(pieces), workers, report
        self.waiting = list(missing)
        self.seconds: dict[str, list[float]] = {}
        self.begun: dict[Any, float] = {}

    def finished(self, piece: Any) -> None:
        """A piece is done."""
        self.waiting.remove(piece)
        if piece in self.begun:
            spent = time.monotonic() - self.begun.pop(piece)
            self.seconds.setdefault(_method(piece), []).append(spent)

    def show(self, running: Iterable[Running] = ()) -> None:
        """Report, with the pieces under way."""
        at_work = [job for job in running if job.job[-1] in self.waiting]
        self.begun |= {job.job[-1]: job.begun for job in at_work}
        done = self.total - len(self.waiting)
        words = [f"{job.job[-1]}{f' ({job.share:.0%})' if job.share > 0 else ''}" for job in at_work]
        text, left = f"{done} of {self.total} done", self._left(at_work)
        if left > 1:
            text += f", {_duration(left)} left"
        if words:  # last: a narrow terminal cuts it
            text += f": {', '.join([*words[:2], *(['...'] if len(words) > 2 else [])])}"
        self.report((done + sum(min(job.share, 1.0) for job in at_work)) / self.total, text)

    def _left(self, at_work: Sequence[Running]) -> float:
        """Seconds that are left; NaN where nothing is known."""
        now = time.monotonic()
        expected = {method: median_low(spent) for method, spent in self.seconds.items()}
        for job in at_work:
            if job.share >= LEAST_SHARE:
                expected.setdefault(_method(job.job[-1]), (now - job.begun) / job.share)
        if not expected or any(_method(job.job[-1]) not in expected for job in at_work):
            return math.nan
        other = median_low(expected.values())
        total = sum(expected.get(_method(piece), other) for piece in self.waiting)
        for job in at_work:
            length = expected[_method(job.job[-1])]
            total -= min(now - job.begun, length) if job.share < LEAST_SHARE else job.share * length
        return total / self.workers


def _duration(seconds: float) -> str:
    """A length of time in words."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def execute(
    work: Work,
    device: torch.device,
    workers: int = 1,
    shard: Shard = WHOLE,
    report: Report = lambda share, text: None,
    joins: bool = False,
) -> dict[Any, str]:
    """Compute the pieces that are missing, in this process or by several.

    On a CPU every piece is computed by one thread, so that results are the same for every number of workers.

    Args:
        work: opened before.
        device: where to work.
        workers: processes. Several are children of this one, so that none that dies ends the others.
        joins: whether this process, which then has all that is needed, is one of several workers itself: that
            saves the start of one.
        shard: which part of the pieces.
        report: called with the finished share of the shard and the piece under way.

    Returns:
        reasons of the pieces that could not be computed.
    """
    pieces = share(work.pieces(), shard)
    missing = [piece for piece in pieces if not work.is_stored(piece)]
    failures: dict[Any, str] = {}
    workers = max(1, min(workers, len(missing)))
    course = _Course(pieces, missing, workers, report)

    alone = workers == 1
    with WorkerPool(workers if alone or not joins else workers - 1, device) as pool:

        def here(packed: bytes, piece: Any, rank: int, device: str) -> str | None:
            """A piece in this process, with progress."""
            begun = time.monotonic()

            def look(part: float) -> None:
                course.show([Running((piece,), begun, part), *pool.running()])

            look(0.0)
            return work.compute(piece, device, look)

        packed = b"" if alone else pickle.dumps(work)
        jobs = [(packed, piece) for piece in missing]
        function, joined = (here, None) if alone else (_compute, here if joins else None)
        for job, reason in pool.run(function, jobs, lambda: course.show(pool.running()), joined):
            if reason is not None:
                failures[job[-1]] = reason
            course.finished(job[-1])
            course.show(pool.running())
    if not missing:
        report(1.0, "all stored")
    return failures


@lru_cache(maxsize=1)
def _unpacked(packed: bytes) -> Work:
    """The work in a worker process, which keeps what it has loaded from one piece to the next."""
    return pickle.loads(packed)


def _compute(packed: bytes, piece: Any, rank: int, device: str) -> str | None:
    """One piece in a worker process."""
    return _unpacked(packed).compute(piece, device, tell_share)
