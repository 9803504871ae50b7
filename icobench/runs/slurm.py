"""What is asked of SLURM for a shard, and whether there is a SLURM to ask."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from icobench.errors import InputError

__all__ = ["ClusterOptions", "check_cluster", "job_states", "largest_array", "load_submitit", "parse_minutes"]

LARGEST_ARRAY = 1000

ACCOUNTING_SECONDS = 120.0
"""sacct may take so long."""


@dataclass(frozen=True)
class ClusterOptions:
    """What is asked of SLURM for every shard.

    Attributes:
        shards: array tasks.
        partition, account, qos, constraint: as sbatch takes them; the site's defaults if None.
        minutes: time limit; a shard that meets it is requeued and goes on.
        cpus, gpus: of a shard.
        memory: as sbatch's --mem, such as "8G".
        max_running: shards at the same time, 0 for no bound. Arrays then wait for each other: one for the
            second thousand of shards, or for those that are tried again.
        retries: how often a shard is submitted again after a failure.
        setup: shell lines before the work, such as "module load python".
    """

    shards: int
    partition: str | None = None
    minutes: int = 60
    cpus: int = 1
    gpus: int = 0
    memory: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    max_running: int = 0
    retries: int = 2
    setup: tuple[str, ...] = ()


def parse_minutes(text: str) -> int:
    """Minutes of a time as sbatch takes it: m, m:s, h:m:s or d-h[:m[:s]].

    Raises:
        InputError: not such a time, or less than a minute.
    """
    days, dash, clock = text.strip().rpartition("-")
    if dash and not days.isdecimal():
        raise InputError(f"--time must be positive: minutes, h:m:s or d-h:m:s, got {text!r}")
    try:
        parts = [int(part) for part in clock.split(":")]
        seconds = 0
        if days:
            parts += [0] * (3 - len(parts))
            seconds = 86_400 * int(days)
        elif len(parts) < 3:
            parts = [0, *parts, 0][:3] if len(parts) == 1 else [0, *parts]
        hours, minutes, rest = parts
    except ValueError as error:
        raise InputError(f"--time must be minutes, h:m:s or d-h:m:s, got {text!r}") from error
    seconds += 3600 * hours + 60 * minutes + rest
    if seconds < 60 or min(parts) < 0:
        raise InputError(f"--time must be at least a minute, got {text!r}")
    return -(-seconds // 60)


def largest_array() -> int:
    """Tasks that the site allows in an array."""
    try:
        text = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=60
        ).stdout
        sizes = [line.split("=")[1] for line in text.splitlines() if line.startswith("MaxArraySize")]
        return max(1, min(LARGEST_ARRAY, int(sizes[0])))
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return LARGEST_ARRAY


def job_states(jobs: Sequence[str]) -> tuple[dict[str, str], str]:
    """What SLURM's accounting says of jobs such as 12_3 or 14.

    submitit's own question passes over errors, so that a running job would look like a lost one.

    Returns:
        the state of every job that accounting knows, such as RUNNING; and why it did not answer, empty if it
        did.
    """
    arrays = sorted({job.partition("_")[0] for job in jobs})
    ask = ["sacct", "-o", "JobID,State", "--parsable2", "-j", ",".join(arrays)]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=ACCOUNTING_SECONDS)
    except subprocess.TimeoutExpired:
        return {}, f"sacct did not answer for {ACCOUNTING_SECONDS:.0f} s"
    except OSError as error:
        return {}, f"sacct: {error.strerror}"
    if answer.returncode:
        lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
        return {}, f"sacct failed: {lines[-1] if lines else f'code {answer.returncode}'}"
    states: dict[str, str] = {}
    for line in answer.stdout.splitlines()[1:]:
        job, state = [*line.split("|"), ""][:2]
        for name in _expanded(job):
            # "CANCELLED by 0" says more than the state.
            states[name] = (state.split() or ["UNKNOWN"])[0]
    return states, ""


def _expanded(job: str) -> list[str]:
    """The jobs of an entry: "12_3" itself, "12_[3-5,7%2]" the tasks that still wait; steps have none."""
    if "." in job:
        return []
    array, bracket, tasks = job.partition("_[")
    if not bracket:
        return [job]
    names = []
    for part in tasks.rstrip("]").split("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            names += [f"{array}_{task}" for task in range(int(first), int(last or first) + 1)]
    return names


def load_submitit() -> Any:
    """The module, which is an extra.

    Raises:
        InputError: it is not installed.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError('--executor slurm needs submitit: pip install "icobench[slurm]"') from error
    return submitit


def check_cluster() -> None:
    """Whether jobs can be submitted from here at all.

    Raises:
        InputError: submitit is not installed, or there is no SLURM.
    """
    load_submitit()
    if shutil.which("srun") is None:
        raise InputError("--executor slurm: there is no SLURM (srun) on this machine")
