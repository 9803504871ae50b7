"""Where Optuna's trials are: a journal, a database or a server; locks, and errors in one line."""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from icobench.errors import InputError
from icobench.provenance import without_passwords

__all__ = [
    "JOURNAL",
    "absolute_storage",
    "alone",
    "check_exists",
    "is_of_storage",
    "one_line",
    "open_storage",
    "quiet",
    "storage_errors",
]

JOURNAL = "journal.log"
TORN = "journal.log.torn"
"""Half lines that were cut off the journal."""

GRACE_SECONDS = 30
"""A lock that does not change for so long is of a dead process, and broken."""

SQLITE_SECONDS = 60
"""How long a process waits for others to write to an SQLite database; 5 s is its own."""


def _refusal(storage: str, error: Exception) -> InputError:
    """Passwords are masked: drivers and Optuna repeat the URL in their errors."""
    # Optuna's own error guesses at what was wrong; what it was raised from says it.
    cause = error.__cause__ if is_of_storage(error) and error.__cause__ is not None else error
    line = (str(cause).strip().splitlines() or [""])[0]
    text = f"{storage}: cannot be used as a storage ({type(cause).__name__}: {line})"
    return InputError(without_passwords(text))


def is_of_storage(error: BaseException) -> bool:
    """Whether an error is a database's or a server's, and no trial's."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return (
        isinstance(error, StorageInternalError | SQLAlchemyError)
        or type(error).__module__.partition(".")[0] == "redis"
    )


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """A database that is locked or lost in the middle of a search, in a line.

    Raises:
        InputError: instead of such an error; all others go through.
    """
    try:
        yield
    except Exception as error:
        if not is_of_storage(error):
            raise
        raise _refusal(storage, error) from error


@contextmanager
def one_line(storage: str) -> Iterator[None]:
    """Whatever goes wrong with a storage, in a line."""
    import optuna

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except InputError:
        raise
    except Exception as error:  # SQLAlchemy, drivers, the journal's JSON: each has errors of its own
        raise _refusal(storage, error) from error


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """One process at a time, of all machines that share a run folder; a dead one's lock is broken."""
    from optuna.storages.journal import JournalFileOpenLock

    with _held(JournalFileOpenLock(str(folder.resolve() / ".asking"), GRACE_SECONDS)):
        yield


@contextmanager
def quiet(folder: Path, url: str | None) -> Iterator[None]:
    """Nobody else of the run folder asks, or writes to its journal: who is killed meanwhile has no lock."""
    with alone(folder), nullcontext() if url is not None else _held(_journal_lock(folder)):
        yield


@contextmanager
def _held(lock: Any) -> Iterator[None]:
    lock.acquire()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # somebody took this process for dead
            lock.release()


def _journal_lock(folder: Path) -> Any:
    """Optuna's other lock is a link to the journal. A relative path or a moved folder leaves it pointing
    nowhere: it has no age then, and is never broken. A file has one, and the two keep each other out."""
    from optuna.storages.journal import JournalFileOpenLock

    return JournalFileOpenLock(str(folder.resolve() / JOURNAL), GRACE_SECONDS)


def _cut_torn_line(path: Path, lock: Any) -> None:
    """Cut a journal back to its last newline; what a lost machine or a full disk left is kept beside it.

    Optuna would append to half a line, which makes a line that nobody can read.
    """

    def torn() -> bool:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            return file.read() not in (b"", b"\n")

    if not path.exists() or not torn():
        return
    lock.acquire()
    try:
        if torn():  # no other process is in the middle of a line
            whole = path.read_bytes()
            end = whole.rfind(b"\n") + 1
            with path.with_name(TORN).open("ab") as file:
                file.write(whole[end:] + b"\n")
            os.truncate(path, end)
    finally:
        lock.release()


def _break_dangling(lock: Path) -> None:
    """Remove a lock that is a link to nowhere: Optuna's wait for one that nobody removes has no end."""
    while lock.is_symlink() and not lock.exists():
        with suppress(FileNotFoundError):
            if time.time() - lock.lstat().st_mtime > GRACE_SECONDS:
                lock.unlink()
        time.sleep(0.1)


def open_storage(folder: Path, url: str | None) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalRedisBackend

    if url is None:
        path, lock = folder.resolve() / JOURNAL, _journal_lock(folder)
        _break_dangling(path.with_name(f"{JOURNAL}.lock"))
        _cut_torn_line(path, lock)
        return JournalStorage(JournalFileBackend(str(path), lock))
    if url.startswith(("redis://", "rediss://", "unix://")):
        return JournalStorage(JournalRedisBackend(url))
    if "://" not in url:
        raise InputError(f"--storage must be a URL such as sqlite:///search.db, got {url!r}")
    patience = {"connect_args": {"timeout": SQLITE_SECONDS}} if url.startswith("sqlite") else None
    return optuna.storages.RDBStorage(url, engine_kwargs=patience)


def absolute_storage(url: str | None) -> str | None:
    """A storage's URL as it is stored: the file of an SQLite database by its absolute path.

    Raises:
        InputError: not a URL.
    """
    if url is None or not url.startswith("sqlite"):
        return url
    from sqlalchemy.engine import make_url

    with one_line(url):
        known = make_url(url)
    file = known.database
    if not file or file == ":memory:" or file.startswith("file:"):
        return url
    return known.set(database=str(Path(file).resolve())).render_as_string(hide_password=False)


def check_exists(folder: Path, url: str | None) -> None:
    """Storages that Optuna would make where there is none."""
    from sqlalchemy.engine import make_url

    path = folder / JOURNAL if url is None else None
    if url is not None and url.startswith("sqlite") and (file := make_url(url).database):
        path = None if file == ":memory:" or file.startswith("file:") else Path(file)
    if path is not None and not path.exists():
        raise InputError(f"{path}: no such file; the search's trials are there")
