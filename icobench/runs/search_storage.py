"""Where the trials of a search are stored: in a journal, a database or on a Redis server."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.errors import InputError
from icobench.provenance import without_passwords
from icobench.runs import search_workers
from icobench.runs.search_workers import HEARTBEATS, heartbeats_are_in, retry
from icobench.storage import PieceStore, differences, read_json

if TYPE_CHECKING:
    import optuna

__all__ = [
    "DESCRIPTION", "asking_alone", "is_of_storage", "load_search", "open_storage", "open_study", "run_folder",
    "storage_errors", "stored_url",
]  # fmt: skip

DESCRIPTION = "search.json"
JOURNAL = "journal.log"

FINISHED = "finished"
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
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return (
        isinstance(error, StorageInternalError | SQLAlchemyError)
        or type(error).__module__.partition(".")[0] == "redis"
    )


@contextmanager
def without_optunas_warnings() -> Iterator[None]:
    """Hide that parts of Optuna are experimental, and that heartbeats are meant for ``Study.optimize``.

    That function begins and evaluates a trial in one call. A search must hold a lock while a trial is begun.
    """
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with Study.optimize")
        yield


@contextmanager
def storage_errors(storage: str, opening: bool = False) -> Iterator[None]:
    """Turn errors of a storage into one line without passwords, and hide Optuna's warnings.

    Args:
        storage: URL or path, for the message.
        opening: whether every error is one of the storage: SQLAlchemy, drivers and the journal's JSON have
            many classes of their own.

    Raises:
        InputError: instead of an error of the storage.
    """
    try:
        with without_optunas_warnings():
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


@contextmanager
def asking_alone(folder: Path) -> Iterator[None]:
    """Only one process at a time, of all machines that share a run folder, counts trials and begins one."""
    with _locked(folder / ".asking"):
        yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _lock(path)
    lock.acquire()
    try:
        yield
    finally:
        with suppress(RuntimeError):  # another process took this one for dead and broke the lock
            lock.release()


def _lock(path: Path) -> Any:
    """Optuna's lock file. Its other lock, a link to ``path``, is never broken once it points nowhere."""
    from optuna.storages.journal import JournalFileOpenLock

    return JournalFileOpenLock(str(path.resolve()), GRACE_SECONDS)


def _cut_torn_line(journal: Path) -> None:
    """Remove the half line that a full disk or a power cut leaves: Optuna would append to it."""
    if journal.exists() and not journal.read_bytes().endswith(b"\n"):
        with _locked(journal):  # now no process is in the middle of writing a line
            os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)


def open_storage(folder: Path, url: str | None) -> Any:
    """Optuna's storage behind a URL, or the journal in a run folder.

    Raises:
        InputError: not a URL.
        Exception: the storage cannot be opened; see :func:`storage_errors`.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend, JournalRedisBackend

    where = heartbeats_are_in(url)
    if where == "folder":
        journal = folder.resolve() / JOURNAL
        _cut_torn_line(journal)
        return JournalStorage(JournalFileBackend(str(journal), _lock(journal)))
    if where == "nothing":
        return JournalStorage(JournalRedisBackend(str(url)))
    assert url is not None
    if "://" not in url:
        raise InputError(f"--storage must be a URL such as sqlite:///search.db, got {url!r}")
    return RDBStorage(
        url,
        engine_kwargs={"connect_args": {"timeout": SQLITE_SECONDS}} if url.startswith("sqlite") else None,
        heartbeat_interval=search_workers.BEAT_SECONDS,
        grace_period=search_workers.SILENT_SECONDS,
        heartbeat_stale_trial_callback=retry,
    )


def _sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for other databases and for one in memory.

    Raises:
        InputError: not a URL.
    """
    from sqlalchemy.engine import make_url

    with storage_errors(url, opening=True):
        file = make_url(url).database if url.startswith("sqlite") else None
    return None if not file or file == ":memory:" or file.startswith("file:") else Path(file)


def stored_url(url: str | None) -> str | None:
    """A URL as the run folder notes it: valid in every working directory, and without a password."""
    from sqlalchemy.engine import make_url

    if url is not None and (file := _sqlite_file(url)):
        url = make_url(url).set(database=str(file.resolve())).render_as_string(hide_password=False)
    return None if url is None else without_passwords(url)


def open_study(
    folder: Path, url: str | None, identity: dict[str, Any], create: bool = True, **options: Any
) -> "optuna.Study":
    """The study of a run folder, made if there is none.

    Args:
        folder: of the run; it holds the journal unless a URL is given.
        url: of another storage.
        identity: name, number of objectives, search space and all else that the values depend on.
        create: whether a study or a file that is missing is made.
        **options: of ``optuna.load_study``: sampler and pruner of new trials.

    Raises:
        InputError: a storage that is damaged, locked or missing, or a study of another search.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file, name = folder / JOURNAL if url is None else _sqlite_file(url), identity["name"]
    where, identity = without_passwords(url or str(folder)), json.loads(json.dumps(identity))
    with storage_errors(url or str(folder / JOURNAL), opening=True):
        if not create and file is not None and not file.exists():
            raise InputError(f"{file}: no such file; the trials of the search are there")
        if url is None:
            folder.mkdir(parents=True, exist_ok=True)
        options = {"study_name": name, "storage": open_storage(folder, url), **options}
        try:
            study = optuna.load_study(**options)
        except KeyError as error:
            if not create:
                raise InputError(f"{where}: has no study {name}") from error
            directions: Any = ["minimize"] * identity["objectives"]
            study = optuna.create_study(**options, directions=directions, load_if_exists=True)
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
    own = (HEARTBEATS, "trials", *journals)
    return PieceStore(folder, identity, DESCRIPTION, FINISHED, "a search", own=own)


def check_folder(folder: Path, url: str | None, identity: dict[str, Any]) -> None:
    """Refuse a folder that holds something else; nothing is written.

    Raises:
        InputError: it holds no search, another search, or a search in another storage.
    """
    store = run_folder(folder, identity)
    store.check()
    if store.description.exists():
        stored = read_json(store.description).get("storage")
        if stored != stored_url(url):
            raise InputError(f"{folder}: holds a search in {stored or 'a journal'}; choose another --run")


def load_search(folder: Path) -> tuple["optuna.Study", dict[str, Any]]:
    """The study that a run folder describes, and the description.

    Raises:
        InputError: no search there, or its storage cannot be read.
    """
    path = folder / DESCRIPTION
    description = read_json(path)
    try:
        identity, url = description["identity"], description["storage"]
        masked = url is not None and "***" in url
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: no search, or damaged") from error
    if masked:
        given = os.environ.get(URL_VARIABLE, "")
        if stored_url(given) != url:
            raise InputError(f"{path}: the password of {url} is not kept; give the URL in {URL_VARIABLE}")
        url = given
    return open_study(folder, url, identity, create=False), description
