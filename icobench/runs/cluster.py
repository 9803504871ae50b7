"""Shards of work on a SLURM cluster, through submitit: job arrays, retries, and a state that is kept.

A shard computes what is missing of its part, so that it may be killed and started again at any time. What is
submitted and what is done stands in ``RUN/cluster``.
"""

import contextlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from icobench.errors import InputError
from icobench.runs.shard_job import ShardCommand, ShardJob
from icobench.runs.slurm import ClusterOptions, job_states, largest_array, load_submitit
from icobench.storage import write_json

__all__ = ["FOLDER", "ClusterRun"]

FOLDER = "cluster"
"""Where in a run folder the state is."""

POLL_SECONDS = 5.0

MARKER_SECONDS = 30.0
"""So long after its end a job may still be without the marker of a finished shard."""

UNSEEN_SECONDS = 300.0
"""A job that accounting has not heard of after this long is lost."""

ENDED = ("Invalid job id", "already completing or completed")
"""Parts of what scancel writes about jobs that have ended."""

ALIVE = (
    "PENDING",
    "RUNNING",
    "COMPLETING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "RESIZING",
    "SUSPENDED",
    "UNKNOWN",
)
"""States of jobs that may still end well; UNKNOWN while accounting does not answer."""


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C to the end: a job that SLURM has taken must be noted, or nothing could cancel it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    # A terminal interrupts sbatch as well, which inherits this mask.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before or signal.default_int_handler)
        if pressed:
            raise KeyboardInterrupt


class ClusterRun:
    """A command's shards on the cluster.

    A folder belongs to a command from the moment that SLURM has taken the first of its jobs.

    Args:
        folder: of the run; the state is in a folder of its own there.
        command: words after ``icobench``, for the record.
        options: what is asked of SLURM; None to look at what is there.
        values: what the words mean, to recognise a rerun however it is spelled; the words themselves if None.

    Attributes:
        trouble: why SLURM does not say how its jobs are; empty if it does.

    Raises:
        InputError: the folder has another command's shards, or another number of them.
    """

    def __init__(
        self,
        folder: Path,
        command: list[str] | None = None,
        options: ClusterOptions | None = None,
        values: dict[str, Any] | None = None,
    ) -> None:
        self.state = Path(folder).resolve() / FOLDER
        self.options = options
        self.trouble = ""
        described = self.state / "jobs.json"
        self.described: dict[str, Any] = {"jobs": {}}
        if described.exists():
            try:
                self.described = json.loads(described.read_text())
                _ = [self.described[name] for name in ("command", "shards", "jobs")]
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{described}: damaged") from error
        if self.described["jobs"]:
            words, shards = self.described["command"], self.described["shards"]
            if options is not None and shards != options.shards:
                raise InputError(
                    f"{folder}: was divided into {shards} shards, not {options.shards}; "
                    f"keep --shards {shards} or choose another folder"
                )
            same = self.described["values"] == values if "values" in self.described else words == command
            if command is not None and not same:
                raise InputError(
                    f"{folder}: has the shards of another command (icobench {' '.join(words)}); "
                    "choose another folder"
                )
        elif options is None:
            raise InputError(f"{folder}: nothing was submitted from here")
        else:
            self.described = {"command": command, "values": values, "shards": options.shards, "jobs": {}}

    def _save(self) -> None:
        if self.options is not None:
            self.described["options"] = asdict(self.options)
        self.state.mkdir(parents=True, exist_ok=True)
        write_json(self.state / "jobs.json", self.described)

    @property
    def shards(self) -> range:
        """Their numbers, from 1."""
        return range(1, self.described["shards"] + 1)

    def done(self, shard: int) -> dict[str, Any] | None:
        """What a finished shard noted: seconds, host, job; None if it is not finished."""
        path = self.state / f"done-{shard:05d}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def refused(self, shard: int) -> str | None:
        """Why a shard cannot be computed at all: the user's to mend."""
        path = self.state / f"refused-{shard:05d}.json"
        return json.loads(path.read_text())["error"] if path.exists() else None

    def log(self, shard: int, kind: str = "err") -> Path | None:
        """Log of a shard's last job."""
        job = self.described["jobs"].get(str(shard))
        return None if job is None else self.state / "logs" / f"{job['id']}_0_log.{kind}"

    def states(self) -> dict[int, str]:
        """Of every shard: DONE, REFUSED, NONE (not submitted), what SLURM calls it, or LOST to SLURM."""
        jobs = self.described["jobs"]
        open_jobs = {
            shard: jobs[str(shard)] for shard in self.shards if str(shard) in jobs and not self.done(shard)
        }
        seen: dict[str, str] = {}
        self.trouble = ""
        if open_jobs:
            seen, self.trouble = job_states([job["id"] for job in open_jobs.values()])
        return {shard: self._state(shard, open_jobs.get(shard), seen) for shard in self.shards}

    def _state(self, shard: int, job: dict[str, Any] | None, seen: dict[str, str]) -> str:
        """Of one shard, from the states that accounting has for the open jobs."""
        if self.done(shard):
            return "DONE"
        if self.refused(shard):
            return "REFUSED"
        if job is None:
            return "NONE"
        if self.trouble:
            return "UNKNOWN"
        state = seen.get(job["id"], "UNKNOWN")
        if state == "UNKNOWN":
            return "PENDING" if time.time() - job["submitted"] < UNSEEN_SECONDS else "LOST"
        if state == "COMPLETED":
            # The marker may take a moment through a network file system.
            first = job.setdefault("completed", time.time())
            return "COMPLETING" if time.time() - first < MARKER_SECONDS else "LOST"
        return state

    def submit(self, jobs: dict[int, ShardCommand], at_work: Iterable[int] = ()) -> None:
        """Submit shards in arrays.

        Args:
            jobs: what to do, by the shard's number.
            at_work: shards with jobs that have not ended.

        Raises:
            InputError: no SLURM here, or it refuses.
        """
        submitit, options = load_submitit(), self.options
        assert options is not None
        limit = largest_array()
        try:
            (self.state / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.state.parent}: cannot be made ({error.strerror})") from error
        try:
            executor = submitit.SlurmExecutor(self.state / "logs", max_num_timeout=100)
        except RuntimeError as error:
            raise InputError("--executor slurm: there is no SLURM (srun) on this machine") from error
        wanted: dict[str, Any] = {
            "job_name": f"icobench-{self.described['command'][0]}", "partition": options.partition,
            "time": options.minutes, "cpus_per_task": options.cpus, "mem": options.memory,
            "gpus_per_node": options.gpus or None, "account": options.account, "qos": options.qos,
            "constraint": options.constraint, "setup": list(options.setup) or None,
            "array_parallelism": options.max_running or limit,
            # So long before the time limit a shard is told to stop.
            "signal_delay_s": max(5, min(90, 60 * options.minutes // 10)),
        }  # fmt: skip
        executor.update_parameters(**{name: value for name, value in wanted.items() if value is not None})
        numbers = sorted(jobs)
        others = {_array(self.described["jobs"][str(shard)]["id"]) for shard in at_work}
        for start in range(0, len(numbers), limit):
            piece = numbers[start : start + limit]
            if others and options.max_running:
                # Each array has a bound of its own: one after the other they keep to it together.
                after = {"dependency": f"afterany:{':'.join(sorted(others))}"}
                executor.update_parameters(additional_parameters=after)
            with _uninterrupted():
                try:
                    with executor.batch():
                        made = [executor.submit(self._job(n, jobs[n])) for n in piece]
                except (
                    submitit.core.utils.FailedJobError,
                    submitit.core.utils.FailedSubmissionError,
                ) as error:
                    raise InputError(f"sbatch: {_sbatch_message(str(error))}") from error
                self._note({number: job.job_id for number, job in zip(piece, made, strict=True)})
            others.add(_array(made[0].job_id))

    def _job(self, shard: int, command: ShardCommand) -> ShardJob:
        assert self.options is not None
        return ShardJob(command, shard, self.state, self.options.cpus, self.options.minutes)

    def _note(self, taken: dict[int, str]) -> None:
        """Remember what SLURM has taken, and what it took before: a job that was thought lost may live."""
        for number, job in taken.items():
            last = self.described["jobs"].get(str(number), {})
            before = [*last.get("before", []), *([last["id"]] if last else [])]
            self.described["jobs"][str(number)] = {
                "id": job, "attempt": last.get("attempt", 0) + 1, "submitted": time.time(), "before": before,
            }  # fmt: skip
        self._save()

    def wait(
        self,
        commands: Callable[[int], ShardCommand],
        progress: Callable[[dict[int, str]], None],
        finished: Callable[[int], bool] = lambda shard: True,
    ) -> dict[int, str]:
        """Submit what is neither done nor alive, and wait until all is over; failed shards are tried again.

        Args:
            commands: what a shard does.
            progress: called with the states every few seconds.
            finished: whether the pieces of a shard are still stored: a shard that was done is computed again
                if they are gone.

        Returns:
            the states at the end.
        """
        assert self.options is not None
        for path in self.state.glob("refused-*.json"):
            path.unlink()  # mended meanwhile, or refused again
        for shard in self.shards:
            if self.done(shard) and not finished(shard):
                (self.state / f"done-{shard:05d}.json").unlink()
                self.described["jobs"].pop(str(shard), None)
        left = dict.fromkeys(self.shards, self.options.retries)
        first = True
        while True:
            states = self.states()
            again = [
                shard for shard, state in states.items()
                if state not in ("DONE", "REFUSED", *ALIVE)
                and (first or (left[shard] and state != "CANCELLED"))
            ]  # fmt: skip
            if again:
                if not first:
                    for shard in again:
                        left[shard] -= 1
                at_work = [shard for shard, state in states.items() if state in ALIVE]
                self.submit({shard: commands(shard) for shard in again}, at_work)
                states.update(dict.fromkeys(again, "PENDING"))
            # While SLURM does not say what lives, nobody knows what is to be tried again.
            first = first and bool(self.trouble)
            progress(states)
            if not any(state in ALIVE for state in states.values()):
                return states
            time.sleep(POLL_SECONDS)

    def cancel(self) -> None:
        """Take back all that is not done, earlier attempts too.

        Raises:
            InputError: SLURM does not take them back.
        """
        jobs = [self.described["jobs"].get(str(shard)) for shard in self.shards if not self.done(shard)]
        names = [name for job in jobs if job is not None for name in (*job.get("before", []), job["id"])]
        if names:
            # scancel does not know jobs that ended long ago; that is no error.
            try:
                answer = subprocess.run(["scancel", *names], capture_output=True, text=True, timeout=60)
                lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
                lines = [line for line in lines if not any(word in line for word in ENDED)]
                failed = bool(answer.returncode and lines)
            except (OSError, subprocess.TimeoutExpired) as error:
                lines, failed = [str(error)], True
            if failed:
                raise InputError(f"the jobs may still run: {lines[-1]}; scancel {' '.join(names)}")

    def last_line(self, shard: int) -> str:
        """Last line of a shard's error log, or of its output; empty if there is none yet."""
        for kind in ("err", "out"):
            path = self.log(shard, kind)
            if path is None or not path.is_file():
                continue
            lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
            lines = [line for line in lines if not line.startswith(("submitit INFO", "srun: job "))]
            if lines:
                return lines[-1]
        return ""


def _array(job: str) -> str:
    """Number of the array that a job such as 12_3 is a task of."""
    return job.partition("_")[0]


def _sbatch_message(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "error:" in line]
    lines = [line for line in lines if "Batch job submission failed" in line] or lines
    return lines[-1].removeprefix("sbatch: ") if lines else (text.strip().splitlines() or ["failed"])[-1]
