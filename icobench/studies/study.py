"""Optuna studies: opened and checked, dead workers' trials found and queued again."""

import json
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.errors import InputError
from icobench.images.files import atomic_path, holds_others
from icobench.studies.owners import alive

if TYPE_CHECKING:
    import optuna

__all__ = [
    "DESCRIPTION",
    "check_described",
    "describe_study",
    "finished",
    "load_described",
    "open_study",
    "queue_first",
    "recover",
]

DESCRIPTION = "search.json"

JOURNAL = "journal.log"
TORN = "journal.log.torn"
"""Half lines that were cut off the journal."""

GRACE_SECONDS = 30
"""A lock that does not change for so long is of a dead process, and broken."""

REQUEUES = 3
"""A trial whose worker died so often is given up."""


@contextmanager
def _one_line(storage: str) -> Iterator[None]:
    """Whatever goes wrong with a storage, in a line."""
    import optuna

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    except InputError:
        raise
    except Exception as error:  # SQLAlchemy, drivers, the journal's JSON: each has errors of its own
        line = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"{storage}: cannot be used as a storage ({type(error).__name__}: {line})"
        ) from error


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


def _storage(folder: Path, url: str | None) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalRedisBackend

    if url is None:
        # Optuna's other lock is a link to the journal. A relative path or a moved folder leaves it pointing
        # nowhere: it has no age then, and is never broken. A file has one, and the two keep each other out.
        path = folder.resolve() / JOURNAL
        lock = JournalFileOpenLock(str(path), GRACE_SECONDS)
        _break_dangling(path.with_name(f"{JOURNAL}.lock"))
        _cut_torn_line(path, lock)
        return JournalStorage(JournalFileBackend(str(path), lock))
    if url.startswith(("redis://", "rediss://", "unix://")):
        return JournalStorage(JournalRedisBackend(url))
    if "://" not in url:
        raise InputError(f"--storage must be a URL such as sqlite:///search.db, got {url!r}")
    return optuna.storages.RDBStorage(url)


def absolute_storage(url: str | None) -> str | None:
    """A storage's URL as it is stored: the file of an SQLite database by its absolute path.

    Raises:
        InputError: not a URL.
    """
    if url is None or not url.startswith("sqlite"):
        return url
    from sqlalchemy.engine import make_url

    with _one_line(url):
        known = make_url(url)
    file = known.database
    if not file or file == ":memory:" or file.startswith("file:"):
        return url
    return known.set(database=str(Path(file).resolve())).render_as_string(hide_password=False)


def _check_exists(folder: Path, url: str | None) -> None:
    """Storages that Optuna would make where there is none."""
    from sqlalchemy.engine import make_url

    path = folder / JOURNAL if url is None else None
    if url is not None and url.startswith("sqlite") and (file := make_url(url).database):
        path = None if file == ":memory:" or file.startswith("file:") else Path(file)
    if path is not None and not path.exists():
        raise InputError(f"{path}: no such file; the search's trials are there")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from error


def open_study(
    folder: Path,
    url: str | None,
    identity: dict[str, Any],
    sampler: "optuna.samplers.BaseSampler | None" = None,
    pruner: "optuna.pruners.BasePruner | None" = None,
    create: bool = True,
) -> "optuna.Study":
    """The study of a run folder, made if there is none.

    Args:
        folder: of the run; the journal is there unless a URL is given.
        url: of another storage.
        identity: name, directions, search space and all else that its values depend on.
        sampler, pruner: of new trials.
        create: whether a study that is not there is made.

    Raises:
        InputError: a storage that is corrupt, locked or not there, or a study of another search.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    name = identity["name"]
    own = json.loads(json.dumps(identity))
    with _one_line(url or str(folder / JOURNAL)):
        if not create:
            _check_exists(folder, url)
        elif url is None:
            _make(folder)
        storage = _storage(folder, url)
        both: dict[str, Any] = {"study_name": name, "storage": storage, "sampler": sampler, "pruner": pruner}
        try:
            study = optuna.load_study(**both)
        except KeyError as error:
            if not create:
                raise InputError(f"{url or folder}: has no study {name}") from error
            directions: Any = ["minimize"] * identity["objectives"]
            study = optuna.create_study(**both, directions=directions, load_if_exists=True)
        known = study.user_attrs.get("identity")
        if known is None and not study.get_trials(deepcopy=False):
            study.set_user_attr("identity", own)
            known = own
        if known != own:
            known = known or {}
            names = [key for key in own if known.get(key) != own[key]]
            what = "search space" if {"space", "objectives"} & set(names) else ", ".join(names)
            raise InputError(
                f"{url or folder}: the study {name} was made with another {what}; choose another --run"
            )
        return study


def check_described(folder: Path, name: str, url: str | None) -> None:
    """Whether a run folder may be used for a search; nothing is written.

    Raises:
        InputError: the folder holds something else.
    """
    described = folder / DESCRIPTION
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file, not a run folder")
    if not described.exists():
        # Locks of the journal come and go under names of their own.
        journals = [path.name for path in folder.glob(f"{JOURNAL}*")]
        if holds_others(folder, DESCRIPTION, "workers", *journals):
            raise InputError(f"{folder}: not empty and not a search; choose another --run")
        return
    try:
        known = json.loads(described.read_text())
        there = known["identity"]["name"], absolute_storage(known["storage"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{described}: damaged") from error
    if there != (name, absolute_storage(url)):
        raise InputError(
            f"{folder}: holds the search {there[0]} in {there[1] or 'a journal'}; choose another --run"
        )


def describe_study(folder: Path, values: dict[str, Any]) -> None:
    """Note in the run folder what is searched: after the study was opened, which may refuse it."""
    _make(folder)
    with atomic_path(folder / DESCRIPTION) as temporary:
        temporary.write_text(json.dumps(values, indent=1) + "\n")


def load_described(folder: Path) -> tuple["optuna.Study", dict[str, Any]]:
    """The study that a run folder describes, and the description.

    Raises:
        InputError: no search there, or its storage cannot be read.
    """
    path = folder / DESCRIPTION
    try:
        known = json.loads(path.read_text())
        identity, url = known["identity"], known["storage"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no search, or damaged") from error
    return open_study(folder, url, identity, create=False), known


def finished(study: "optuna.Study") -> int:
    """Trials that count: completed or pruned."""
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def running(study: "optuna.Study") -> int:
    """Trials that somebody works on."""
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def queue_first(study: "optuna.Study", first: dict[str, dict[str, Any]]) -> None:
    """Queue named settings that no trial has, finished, at work or waiting."""
    from optuna.trial import TrialState

    known = {
        trial.user_attrs.get("named") for trial in study.get_trials(deepcopy=False)
        if trial.state != TrialState.FAIL
    }  # fmt: skip
    for name, values in first.items():
        if name not in known:
            study.enqueue_trial(values, user_attrs={"named": name, "attempt": 1})


def reserved(study: "optuna.Study", first: dict[str, dict[str, Any]]) -> int:
    """Named settings that nobody has queued yet: left to the one who will."""
    known = {trial.user_attrs.get("named") for trial in study.get_trials(deepcopy=False)}
    return len(set(first) - known)


def requeue(
    study: "optuna.Study", trial: "optuna.trial.FrozenTrial", why: str, stopped: bool = False
) -> bool:
    """Fail a trial whose worker is gone and queue its settings again; False if somebody else just did.

    Args:
        study, trial: the trial, and its study.
        why: to be noted.
        stopped: whether the worker was told to stop, which says nothing against the trial.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    attempt = trial.user_attrs.get("attempt", 1)
    fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):
        return False
    if stopped or attempt < REQUEUES:
        carried = {key: trial.user_attrs[key] for key in ("named",) if key in trial.user_attrs}
        carried.update(attempt=attempt if stopped else attempt + 1, instead_of=trial.number, why=why)
        study.enqueue_trial(fixed, user_attrs=carried)
    return True


def recover(study: "optuna.Study", folder: Path, stopped: bool = False) -> list[int]:
    """Queue trials again whose workers have died, or were ``stopped``; their numbers."""
    from optuna.trial import TrialState

    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        owner = trial.user_attrs.get("worker")
        why = "its worker was stopped" if stopped else "its worker died"
        if not alive(owner, folder, begun) and requeue(study, trial, why, stopped):
            found.append(trial.number)
    return found
