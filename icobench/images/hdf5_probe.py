"""HDF5 files are first looked into by a child process: some damaged ones crash the library, or keep it busy
for ever.

Both were seen with HDF5 2.0 and small files of which some bytes were changed.
"""

import os
import select
import signal
from collections.abc import Callable
from pathlib import Path

from icobench.errors import InputError

__all__ = ["check_survival"]

LONGEST = 30.0
"""Seconds for the first look into a file, on a slow disk as well; a good one takes some milliseconds."""

MOST_KNOWN = 1000

_known: dict[tuple[object, ...], str] = {}
"""What was found before, by file, its size and time, and what was looked at."""


def check_survival(path: Path, what: str, look: Callable[[], object]) -> None:
    """Refuse a file whose reading would crash this process or never end.

    An exception in the child is no reason: it comes again in this process, which says what it is. Where
    processes cannot be forked, nothing is tried.

    Args:
        path: of the file.
        what: name of what is looked at; the same of the same file is not looked at again.
        look: reads the file as it is going to be read, but little of it.

    Raises:
        InputError: the child crashed, or took too long.
    """
    if not hasattr(os, "fork") or not path.is_file():
        return
    state = path.stat()
    key = path.resolve(), state.st_ino, state.st_size, state.st_mtime_ns, what
    if key not in _known:
        if len(_known) >= MOST_KNOWN:  # a file that grows is another one every time
            _known.clear()
        _known[key] = _trouble(look)
    if _known[key]:
        raise InputError(f"{path}: not a readable HDF5 file: it is damaged, {_known[key]}")


def _trouble(look: Callable[[], object]) -> str:
    """What became of a child that looks; empty if it came to an end."""
    source, target = os.pipe()
    child = os.fork()
    if child == 0:
        _child(look, target)
    os.close(target)
    try:
        if not select.select([source], [], [], LONGEST)[0]:
            return f"and reading it does not end within {LONGEST:g} seconds"
        return "" if os.read(source, 1) else "and reading it crashes"
    finally:
        os.close(source)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _child(look: Callable[[], object], target: int) -> None:
    """Look, say that it is over, and end without all that a process does at its end."""
    try:
        import faulthandler
        import resource

        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where a crash would report itself
        look()
    finally:
        os.write(target, b".")
        os._exit(0)
