"""Where the trials of a search are stored: in a journal, a database or on a Redis server."""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.errors import InputError
from icobench.provenance import without_passwords
from icobench.storage import PieceStore, atomic_path, differences, read_json

if TYPE_CHECKING:
    import optuna

__all__ = [
    "MARKS", "is_of_storage", "load_search", "open_study", "run_folder", "storage_errors", "stored_url",
]  # fmt: skip

JOURNAL = "journal.log"

logger = logging.getLogger("icobench")

MARKS = "finished"
"""Folder with an empty file for every trial that was completed or pruned here: what a cluster's job has done,
whatever the storage of the trials."""

URL_VARIABLE = "ICOBENCH_STORAGE"
"""Environment variable with the whole URL of a storage, for looking at a search whose URL has a password."""

GRACE_SECONDS = 30
"""Optuna breaks a lock file that is older: its process has died."""

SQLITE_SECONDS = 60
"""How long a process waits for others that write to an SQLite database; SQLite's default is 5 s."""


def is_of_storage(error: BaseException) -> bool:
    """Whether an error comes from a database or a server, and not from a trial."""
    from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
    from sqlalchemy.exc import SQLAlchemyError

    classes = StorageInternalError | UpdateFinishedTrialError | SQLAlchemyError
    return isinstance(error, classes) or type(error).__module__.partition(".")[0] == "redis"


@contextmanager
def storage_errors(storage: str, opening: bool = False) -> Iterator[None]:
    """Turn errors of a storage, a URL or a path, into an InputError of one line without passwords.

    While it is opened, every error is one of the storage: SQLAlchemy, drivers and the journal's JSON have
    many classes of their own.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not opening and not is_of_storage(error):
            raise
        # Optuna's own error guesses at the reason; the error behind it names it.
        cause = error.__cause__ if is_of_storage(error) and error.__cause__ is not None else error
        line = (str(cause).strip().splitlines() or [""])[0]
        text = f"{storage}: cannot be used as a storage ({type(cause).__name__}: {line})"
        raise InputError(without_passwords(text)) from error


def _empty_lines(content: bytes) -> list[int] | None:
    """Numbers of the lines that hold nothing, or NULs, as a power cut or a full disk leaves them.

    None if all is well. A half line at the end, of a process that was killed, is none of them, but has to go
    as well.
    """
    lines = content.split(b"\n")
    empty = [number for number, line in enumerate(lines[:-1], 1) if not line.strip(b"\0 \t\r")]
    return empty if empty or lines[-1] else None


def _open_journal(path: Path) -> Any:
    """The journal, without the half line that a power cut leaves: Optuna would append to it."""
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    # Optuna's other lock, a link to the journal, is never broken once it points nowhere.
    lock = JournalFileOpenLock(str(path), GRACE_SECONDS)
    if path.exists() and (empty := _empty_lines(path.read_bytes())) is not None:
        lock.acquire()  # now no process is in the middle of writing a line
        content = path.read_bytes()
        lines = content.split(b"\n")
        kept = [line for number, line in enumerate(lines[:-1], 1) if number not in empty]
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in kept))
        lock.release()
        if empty:
            listed = ", ".join(map(str, empty))
            logger.warning("%s: skipped line %s, which is no record of a trial", path, listed)
    return JournalFileBackend(str(path), lock)


def open_storage(folder: Path, url: str | None) -> Any:
    """Optuna's storage behind a URL, or the journal in a run folder."""
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalRedisBackend

    if url is None:
        return JournalStorage(_open_journal(folder.resolve() / JOURNAL))
    if url.startswith(("redis://", "rediss://", "unix://")):
        return JournalStorage(JournalRedisBackend(url))
    if "://" not in url:
        raise InputError(f"--storage must be a URL such as sqlite:///search.db, got {url!r}")
    options = {"connect_args": {"timeout": SQLITE_SECONDS}} if url.startswith("sqlite") else None
    return RDBStorage(url, engine_kwargs=options)


def _sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for other databases and for one in memory."""
    from sqlalchemy.engine import make_url

    file = make_url(url).database if url.startswith("sqlite") else None
    return None if not file or file == ":memory:" or file.startswith("file:") else Path(file)


def stored_url(url: str | None) -> str | None:
    """A URL as the run folder notes it: valid in every working directory, and without a password."""
    from sqlalchemy.engine import make_url

    if url is not None and (file := _sqlite_file(url)):
        url = make_url(url).set(database=str(file.resolve())).render_as_string(hide_password=False)
    return None if url is None else without_passwords(url)


def open_study(
    folder: Path, url: str | None, identity: dict[str, Any], create: bool = True
) -> "optuna.Study":
    """The study of a run folder; one that is missing is made if ``create``.

    Its identity is all that the values depend on, beside name and number of objectives.

    Raises:
        InputError: a storage that is damaged, locked or missing, or a study of another search.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    name, identity = identity["name"], json.loads(json.dumps(identity))
    where = without_passwords(url or str(folder / JOURNAL))
    with storage_errors(where, opening=True):
        file = folder / JOURNAL if url is None else _sqlite_file(url)
        if not create and file is not None and not file.exists():
            raise InputError(f"{file}: no such file; the trials of the search are there")
        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
        storage = open_storage(folder, url)
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError as error:
            if not create:
                raise InputError(f"{where}: has no study {name}") from error
            directions: Any = ["minimize"] * identity["objectives"]
            study = optuna.create_study(
                study_name=name, storage=storage, directions=directions, load_if_exists=True
            )
        stored = study.user_attrs.get("identity")
        if stored is None and not study.get_trials(deepcopy=False):
            study.set_user_attr("identity", identity)
            stored = identity
        if stored != identity:
            changes = "; ".join(differences(stored, identity))
            way = "choose another --run" if url is None else "give yours another name by --study"
            raise InputError(f"{where}: the study {name} was made with other settings; {way} ({changes})")
        return study


def run_folder(folder: Path, identity: dict[str, Any]) -> PieceStore:
    """The run folder of a search; its pieces are the marks of finished trials."""
    journals = [path.name for path in folder.glob(f"{JOURNAL}*")]  # its locks have names of their own
    return PieceStore(folder, identity, "search.json", MARKS, "a search", allowed=("trials", *journals))


def load_search(folder: Path) -> tuple["optuna.Study", dict[str, Any]]:
    """The study that a run folder describes, and the description.

    Raises:
        InputError: no search there, or its storage cannot be read.
    """
    path = run_folder(folder, {}).description
    description = read_json(path)
    identity, url = description.get("identity"), description.get("storage")
    if not isinstance(identity, dict) or not isinstance(url, str | None):
        raise InputError(f"{path}: no search, or damaged")
    if url and "***" in url:
        given = os.environ.get(URL_VARIABLE, "")
        if stored_url(given) != url:
            raise InputError(f"{path}: the password of {url} is not kept; give the URL in {URL_VARIABLE}")
        url = given
    return open_study(folder, url, identity, create=False), description
