"""Which worker has a trial of a search, and whether it is still at work.

A killed worker must cost its trial and nothing else, and the trial's settings must be tried again. Optuna
does this for databases: workers record heartbeats, ``fail_stale_trials`` fails the trials of silent workers,
and ``RetryHeartbeatStaleTrialCallback`` queues their settings again. A search uses all three. Optuna 5.0
lacks three things, which are in this file:

- A journal, which a search uses by default, has no heartbeats. Here they are files in the run folder.
- A dead worker is missed after minutes only. Here it also notes its host and process in its trial, so that a
  search on one machine continues at once.
- A worker that is stopped, by Ctrl-C or a time limit, counts as one that died. Here such stops do not count.
"""

import copy
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import optuna

__all__ = ["give_up", "heartbeats_are_in", "retry", "retry_lost_trials", "working"]

HEARTBEATS = "workers"
"""Folder of the heartbeats of a journal: one file for each trial, touched while its worker is alive."""

BEAT_SECONDS = 10
SILENT_SECONDS = 120
"""A worker that has been silent for so long is dead."""

RETRIES = 2
"""A trial whose worker has died more often is given up: perhaps its settings need too much memory."""

REDIS = ("redis://", "rediss://", "unix://")


def heartbeats_are_in(url: str | None) -> Literal["folder", "database", "nothing"]:
    """Where other machines see whether a worker is alive; a Redis server keeps no heartbeats."""
    if url is None:
        return "folder"
    return "nothing" if url.startswith(REDIS) else "database"


def _heartbeat(folder: Path, number: int) -> Path:
    return folder / HEARTBEATS / f"trial-{number:05d}"


def _beat(
    trial: "optuna.Trial", folder: Path, database: "optuna.storages.RDBStorage | None"
) -> Callable[[], None]:
    """What a worker does at every heartbeat."""
    if database is None:
        return _heartbeat(folder, trial.number).touch
    study_id = database.get_study_id_from_name(trial.study.study_name)
    trial_id = database.get_trial_id_from_study_id_trial_number(study_id, trial.number)
    return lambda: database.record_heartbeat(trial_id)


@contextmanager
def working(
    trial: "optuna.Trial", folder: Path, database: "optuna.storages.RDBStorage | None" = None
) -> Iterator[None]:
    """Note this process in its trial, and record heartbeats in the folder or database until its work ends."""
    ended = threading.Event()
    _heartbeat(folder, trial.number).parent.mkdir(parents=True, exist_ok=True)
    beat = _beat(trial, folder, database)

    def keep_beating() -> None:
        while not ended.wait(BEAT_SECONDS):
            # A file server or database may fail once; the next heartbeat may succeed.
            with suppress(Exception):
                beat()

    beat()
    trial.set_user_attr("worker", {"host": socket.gethostname(), "pid": os.getpid()})
    thread = threading.Thread(target=keep_beating, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _heartbeat(folder, trial.number).unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_silent(folder: Path, number: int) -> bool:
    """Whether a trial's last heartbeat in the run folder is old, or missing."""
    now = folder / HEARTBEATS / ".now"  # both times are the file server's, as the clocks of machines differ
    try:
        now.touch()
        return now.stat().st_mtime - _heartbeat(folder, number).stat().st_mtime > SILENT_SECONDS
    except FileNotFoundError:  # removed when its worker ended
        return True


def _is_lost(trial: "optuna.trial.FrozenTrial", folder: Path, url: str | None) -> bool:
    """Whether the worker of a running trial has ended; a silent one of a database is left to Optuna."""
    worker = trial.user_attrs.get("worker")
    if worker is None:  # it died before its first heartbeat, or has only just begun
        return trial.datetime_start is None or time.time() - trial.datetime_start.timestamp() > SILENT_SECONDS
    if worker["host"] == socket.gethostname() and not _is_running(worker["pid"]):
        return True
    return heartbeats_are_in(url) == "folder" and _is_silent(folder, trial.number)


def retry(study: "optuna.Study", trial: "optuna.trial.FrozenTrial", stopped: bool = False) -> None:
    """Queue the settings of a failed trial again, unless they have cost too many workers.

    A worker that was ``stopped`` says nothing against the settings.
    """
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    stops = trial.user_attrs.get("stops", 0) + stopped
    trial = copy.deepcopy(trial)
    named = {"named": trial.user_attrs["named"]} if "named" in trial.user_attrs else {}
    trial.user_attrs = {**named, "stops": stops}
    # Optuna counts stops as deaths.
    RetryHeartbeatStaleTrialCallback(max_retry=RETRIES + stops)(study, trial)


def retry_lost_trials(
    study: "optuna.Study", folder: Path, url: str | None, stopped: bool = False
) -> list[int]:
    """Fail the running trials whose workers have ended, and queue their settings again.

    Args:
        study: to look at.
        folder: of the run.
        url: of the storage, None for the journal in the folder.
        stopped: whether the workers of this machine have just been stopped.

    Returns:
        The numbers of these trials, without those that Optuna finds by the heartbeats of a database.
    """
    from optuna.storages import fail_stale_trials
    from optuna.trial import TrialState

    numbers = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_lost(trial, folder, url) and give_up(study, trial, stopped):
            numbers.append(trial.number)
    fail_stale_trials(study)
    return numbers


def give_up(study: "optuna.Study", trial: "optuna.trial.FrozenTrial", stopped: bool) -> bool:
    """Fail a running trial and queue its settings again; False if another process did so first."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):
        return False
    retry(study, trial, stopped)
    return True
