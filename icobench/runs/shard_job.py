"""One shard of a command as a cluster carries it out: what it notes, and how it goes on after a time-out."""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from icobench.errors import InputError
from icobench.storage import WHOLE, Shard, write_json

__all__ = ["ShardCommand", "ShardJob"]

FULL_LENGTH = 0.75
"""An attempt that ran for this share of the time limit was stopped by it, a shorter one by preemption."""

VAIN_ATTEMPTS = 2


class ShardCommand(NamedTuple):
    """What a shard does.

    Attributes:
        words: after ``icobench``, for the record.
        call: computes a shard; to be pickled by reference.
        shard: number and total.
        kept: folders with a pattern each: the files that a later attempt goes on from. Without any, it is not
            watched whether attempts make progress.
    """

    words: list[str]
    call: Callable[[Shard], object]
    shard: Shard = WHOLE
    kept: tuple[tuple[Path, str], ...] = ()


class ShardJob:
    """One shard as submitit runs it, in the folder the command was given in.

    Args:
        command: what to do.
        shard: its number.
        state: folder of the run's state.
        cpus: threads.
        minutes: time limit.
    """

    def __init__(self, command: ShardCommand, shard: int, state: Path, cpus: int, minutes: int) -> None:
        self.command, self.shard, self.state, self.cpus = command, shard, state, cpus
        self.minutes = minutes
        self.folder = os.getcwd()
        self.vain = 0
        self.begin, self.before = 0.0, frozenset[tuple[str, int, int]]()

    def _kept(self) -> frozenset[tuple[str, int, int]]:
        """Names, sizes and times of the files that a later attempt goes on from."""
        files = set()
        for folder, pattern in self.command.kept:
            for path in folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
                    state = path.stat()
                    files.add((str(path), state.st_size, state.st_mtime_ns))
        return frozenset(files)

    def __call__(self) -> None:
        import torch

        os.chdir(self.folder)
        self.begin, self.before = time.monotonic(), self._kept()
        torch.set_num_threads(self.cpus)
        sys.argv = ["icobench", *self.command.words]
        begin = time.perf_counter()
        try:
            self.command.call(self.command.shard)
        except InputError as error:
            write_json(self.state / f"refused-{self.shard:05d}.json", {"error": str(error)})
            raise
        done = {
            "seconds": round(time.perf_counter() - begin, 3), "host": socket.gethostname(), "cpus": self.cpus,
            "job": os.environ.get("SLURM_JOB_ID"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        write_json(self.state / f"done-{self.shard:05d}.json", done)

    def checkpoint(self) -> Any:
        """What submitit starts again after a time-out or preemption: the same, as finished pieces are kept.

        None, which ends the shard, after two attempts of full length that stored nothing: more would not.
        """
        from submitit.helpers import DelayedSubmission

        if self.command.kept and time.monotonic() - self.begin > FULL_LENGTH * 60 * self.minutes:
            self.vain = 0 if self._kept() - self.before else self.vain + 1
        if self.vain >= VAIN_ATTEMPTS:
            text = (
                f"--time is shorter than one point or trial: {self.vain} attempts of {self.minutes} minutes "
                "stored nothing; give it more"
            )
            write_json(self.state / f"refused-{self.shard:05d}.json", {"error": text})
            return None
        return DelayedSubmission(self)
