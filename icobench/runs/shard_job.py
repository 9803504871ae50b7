"""One shard of a command as a cluster carries it out: what it notes, and how it goes on after a time-out."""

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from icobench.errors import InputError
from icobench.storage import atomic_path

__all__ = ["ShardCommand", "ShardJob", "write_state"]

FULL_LENGTH = 0.75
"""Share of the time limit after which an attempt was stopped by it, and not by somebody who came first."""

VAIN_ATTEMPTS = 2


class ShardCommand(NamedTuple):
    """What a shard does.

    Attributes:
        words: after ``icobench``, for the record.
        call: does it; to be pickled by reference.
        output: file without which a shard is not done, whatever was noted.
        kept: folders with a pattern each: the files that a later attempt goes on from. Without any, nobody
            looks whether an attempt has got anywhere.
    """

    words: list[str]
    call: Callable[[], None]
    output: Path | None = None
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
        """What is stored that a later attempt goes on from."""
        found = set()
        for folder, pattern in self.command.kept:
            for path in folder.glob(pattern):
                with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
                    known = path.stat()
                    found.add((str(path), known.st_size, known.st_mtime_ns))
        return frozenset(found)

    def __call__(self) -> None:
        import torch

        os.chdir(self.folder)
        self.begin, self.before = time.monotonic(), self._kept()
        torch.set_num_threads(self.cpus)
        sys.argv = ["icobench", *self.command.words]
        begin = time.perf_counter()
        try:
            self.command.call()
        except InputError as error:
            write_state(self.state / f"refused-{self.shard:05d}.json", {"error": str(error)})
            raise
        done = {
            "seconds": round(time.perf_counter() - begin, 3), "host": socket.gethostname(), "cpus": self.cpus,
            "job": os.environ.get("SLURM_JOB_ID"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }  # fmt: skip
        write_state(self.state / f"done-{self.shard:05d}.json", done)

    def checkpoint(self) -> Any:
        """What submitit starts again after a time-out or preemption: the same, as finished parts are kept.

        None, which ends the shard, after two attempts of full length that stored nothing: so would a hundred.
        """
        from submitit.helpers import DelayedSubmission

        if self.command.kept and time.monotonic() - self.begin > FULL_LENGTH * 60 * self.minutes:
            self.vain = 0 if self._kept() - self.before else self.vain + 1
        if self.vain >= VAIN_ATTEMPTS:
            text = (
                f"--time is shorter than one point or trial: {self.vain} attempts of {self.minutes} minutes "
                "stored nothing; give it more"
            )
            write_state(self.state / f"refused-{self.shard:05d}.json", {"error": text})
            return None
        return DelayedSubmission(self)


def write_state(path: Path, values: dict[str, Any]) -> None:
    """Write a file of the run's state, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")
