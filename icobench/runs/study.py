"""Optuna studies: opened and checked, dead workers' trials found and queued again."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icobench.errors import InputError
from icobench.storage import atomic_path, holds_others
from icobench.provenance import without_passwords
from icobench.runs.owners import alive, seen
from icobench.runs.storage import JOURNAL, absolute_storage, check_exists, one_line, open_storage

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

FINISHED = "finished"
"""Where in a run folder an empty file says of each trial that it was completed or pruned here: what a SLURM
job has got done, whatever the storage."""

URL_VARIABLE = "ICOBENCH_STORAGE"
"""Environment variable with a storage's whole URL, for looks at a search whose URL has a password."""

REQUEUES = 3
"""A trial whose worker died so often is given up."""


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
    name, where = identity["name"], without_passwords(url or str(folder))
    own = json.loads(json.dumps(identity))
    with one_line(url or str(folder / JOURNAL)):
        if not create:
            check_exists(folder, url)
        elif url is None:
            _make(folder)
        storage = open_storage(folder, url)
        both: dict[str, Any] = {"study_name": name, "storage": storage, "sampler": sampler, "pruner": pruner}
        try:
            study = optuna.load_study(**both)
        except KeyError as error:
            if not create:
                raise InputError(f"{where}: has no study {name}") from error
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
            # A database holds many studies, and another folder's would be the same one.
            way = "choose another --run" if url is None else "give yours another name by --study"
            raise InputError(f"{where}: the study {name} was made with another {what}; {way}")
        return study


def _stored_url(url: str | None) -> str | None:
    """A storage as it is written down: wherever the command is given, and without its password."""
    url = absolute_storage(url)
    return None if url is None else without_passwords(url)


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
        if holds_others(folder, DESCRIPTION, "workers", "trials", FINISHED, *journals):
            raise InputError(f"{folder}: not empty and not a search; choose another --run")
        return
    try:
        known = json.loads(described.read_text())
        there = known["identity"]["name"], _stored_url(known["storage"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{described}: damaged") from error
    if there != (name, _stored_url(url)):
        raise InputError(
            f"{folder}: holds the search {there[0]} in {there[1] or 'a journal'}; choose another --run"
        )


def describe_study(folder: Path, url: str | None, values: dict[str, Any]) -> None:
    """Note in the run folder what is searched, and where: after the study was opened, which may refuse it."""
    _make(folder)
    values = {**values, "storage": _stored_url(url)}
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
    if url is not None and "***" in url:
        given = os.environ.get(URL_VARIABLE, "")
        if _stored_url(given) != url:
            raise InputError(f"{path}: the password of {url} is not kept; give the URL in {URL_VARIABLE}")
        url = given
    return open_study(folder, url, identity, create=False), known


def finished(study: "optuna.Study") -> int:
    """Trials that count: completed or pruned."""
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def running(study: "optuna.Study") -> int:
    """Trials that somebody works on."""
    from optuna.trial import TrialState

    return len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def note_finished(folder: Path, number: int) -> None:
    """Leave an empty file that says so of a trial."""
    (folder / FINISHED).mkdir(exist_ok=True)
    (folder / FINISHED / f"{number:05d}").touch()


def any_seen(study: "optuna.Study", folder: Path) -> bool:
    """Whether the heart of somebody who has a trial could be seen from here."""
    from optuna.trial import TrialState

    at_work = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return any(seen(trial.user_attrs.get("worker"), folder) for trial in at_work)


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
