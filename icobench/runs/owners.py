"""Which worker has a trial, and whether it is still alive.

Optuna knows heartbeats for databases alone. Here every worker notes in its trial who it is, and touches a
file in the run folder while it works.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["alive", "beating", "patience", "seen"]

BEAT_SECONDS = 10.0
SILENT_SECONDS = 120.0
"""A worker of another machine is dead after so long a silence; one of this machine once it has ended."""

FOREIGN_SECONDS = 86_400.0
"""A trial of a run folder that cannot be seen from here is given up so long after it began."""


def _started(pid: int) -> str | None:
    """When a process started, as numbers are given again; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _home(folder: Path) -> int:
    """A number that machines agree on if they share a run folder, and hardly if each has its own."""
    hearts = folder / "workers"
    hearts.mkdir(parents=True, exist_ok=True)
    return hearts.stat().st_ino


@contextmanager
def beating(folder: Path) -> Iterator[dict[str, Any]]:
    """Work with a heart that beats in ``folder/workers``; what is to be noted in a trial."""
    name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    path = folder / "workers" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # a file server's bad moment is no death; the next beat may be heard
                path.touch()

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield {
            "host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid()), "beat": name,
            "home": _home(folder),
        }  # fmt: skip
    finally:
        ended.set()
        heart.join()
        path.unlink(missing_ok=True)


def patience() -> float:
    """Seconds after which a worker that was alive has been heard, or is taken for dead."""
    return SILENT_SECONDS + BEAT_SECONDS


def seen(owner: dict[str, Any] | None, folder: Path) -> bool:
    """Whether it can be told from here that a worker has died; not of another machine's own run folder."""
    if owner is None:
        return False
    return owner["host"] == socket.gethostname() or owner.get("home", _home(folder)) == _home(folder)


def alive(owner: dict[str, Any] | None, folder: Path, since: float) -> bool:
    """Whether a trial's worker lives.

    Machines with a run folder each may work on one database: another's hearts are not to be seen.

    Args:
        owner: what it noted, None if it had not come to that.
        folder: of the run.
        since: when the trial began, seconds since 1970.
    """
    if owner is None:
        return time.time() - since < SILENT_SECONDS
    if owner["host"] == socket.gethostname():
        return owner["started"] is not None and _started(owner["pid"]) == owner["started"]
    if owner.get("home", _home(folder)) != _home(folder):
        return time.time() - since < FOREIGN_SECONDS
    # Both times are the file server's: machines' clocks differ.
    now = folder / "workers" / f".now-{uuid.uuid4().hex}"
    try:
        now.parent.mkdir(parents=True, exist_ok=True)
        now.touch()
        return now.stat().st_mtime - (folder / "workers" / owner["beat"]).stat().st_mtime < SILENT_SECONDS
    except FileNotFoundError:
        return False
    finally:
        now.unlink(missing_ok=True)
