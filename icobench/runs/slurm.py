"""What is asked of SLURM for a shard, and whether there is a SLURM to ask."""

import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from icobench.errors import InputError

__all__ = ["ClusterOptions", "check_cluster", "largest_array", "load_submitit", "parse_minutes"]

LARGEST_ARRAY = 1000


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
        found = [line.split("=")[1] for line in text.splitlines() if line.startswith("MaxArraySize")]
        return max(1, min(LARGEST_ARRAY, int(found[0])))
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return LARGEST_ARRAY


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
