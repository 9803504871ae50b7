"""Work as a list of pieces: computed here, by worker processes, or by the shards of a cluster."""

import pickle
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch

from icobench.answer import Progress
from icobench.runs.pool import WorkerPool
from icobench.storage import WHOLE, Shard, share

__all__ = ["Report", "Work", "execute"]

Report = Callable[[float, str], None]
"""Called with the finished share and what is under way."""


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


def execute(
    work: Work,
    device: torch.device,
    workers: int = 1,
    shard: Shard = WHOLE,
    report: Report = lambda share, text: None,
) -> dict[Any, str]:
    """Compute the pieces that are missing, in this process or by several.

    On a CPU every piece is computed by one thread, so that results are the same for every number of workers.

    Args:
        work: opened before.
        device: where to work.
        workers: processes.
        shard: which part of the pieces.
        report: called with the finished share of the shard and the piece under way.

    Returns:
        reasons of the pieces that could not be computed.
    """
    pieces = share(work.pieces(), shard)
    missing = [piece for piece in pieces if not work.is_stored(piece)]
    done = len(pieces) - len(missing)
    failures: dict[Any, str] = {}

    def here(piece: Any, rank: int, device: str) -> str | None:
        """A piece in this process, with progress."""
        text = f"{piece}, {done + 1} of {len(pieces)}"
        return work.compute(piece, device, lambda part: report((done + part) / len(pieces), text))

    with WorkerPool(max(1, min(workers, len(missing))), device) as pool:
        alone = pool.workers == 1
        packed = b"" if alone else pickle.dumps(work)
        jobs = [(piece,) if alone else (packed, piece) for piece in missing]
        for job, reason in pool.run(here if alone else _compute, jobs):
            if reason is not None:
                failures[job[-1]] = reason
            done += 1
            report(done / len(pieces), f"{job[-1]}, {done} of {len(pieces)}")
    if not missing:
        report(1.0, "all stored")
    return failures


@lru_cache(maxsize=1)
def _unpacked(packed: bytes) -> Work:
    """The work in a worker process, which keeps what it has loaded from one piece to the next."""
    return pickle.loads(packed)


def _compute(packed: bytes, piece: Any, rank: int, device: str) -> str | None:
    """One piece in a worker process."""
    return _unpacked(packed).compute(piece, device)
