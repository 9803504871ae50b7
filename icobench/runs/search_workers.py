"""Which workers of a search are alive.

A killed worker must cost its own trial and nothing else, and the trial's settings must be tried again. Optuna
has heartbeats for databases only, misses a dead worker after minutes, and takes a worker that Ctrl-C or a
time limit stopped for one that died. Here signs of life are an attribute of the trial, so that every storage
has them; a process that ended on this machine is missed at once; and stops are not counted.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

__all__ = ["WorkerWatch", "give_up", "working"]

BEAT_SECONDS = 20
SILENT_SECONDS = 120
"""A worker that gives no sign for so long is dead."""

RETRIES = 2
"""A trial whose worker has died more often is given up: perhaps its settings need too much memory."""


@contextmanager
def working(trial: "optuna.Trial") -> Iterator[None]:
    """Note this process in its trial, and give signs of life there until the work ends."""
    ended = threading.Event()

    worker = {"host": socket.gethostname(), "pid": os.getpid()}

    def keep_beating() -> None:
        beat = 0
        while not ended.wait(BEAT_SECONDS):
            beat += 1
            with suppress(Exception):  # a file server or database may fail once; the next sign may succeed
                trial.set_user_attr("worker", {**worker, "beat": beat})

    trial.set_user_attr("worker", {**worker, "beat": 0})
    thread = threading.Thread(target=keep_beating, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class WorkerWatch:
    """Finds the running trials whose workers have ended.

    The clocks of machines differ. A worker elsewhere is therefore dead when its trial has not changed for
    ``SILENT_SECONDS`` since this object saw it first.
    """

    def __init__(self, study: "optuna.Study") -> None:
        self.study = study
        self.seen: dict[tuple[int, str], float] = {}

    def _is_lost(self, trial: "optuna.trial.FrozenTrial", stopped: bool) -> bool:
        worker = trial.user_attrs.get("worker", {})  # empty before the first sign
        is_here = worker.get("host") == socket.gethostname()
        if is_here and (not _is_running(worker["pid"]) or (stopped and worker["pid"] == os.getpid())):
            return True
        first_seen = self.seen.setdefault((trial.number, str(worker)), time.monotonic())
        return time.monotonic() - first_seen > SILENT_SECONDS

    def retry_lost(self, stopped: bool = False) -> list[int]:
        """Fail the trials whose workers have ended, and queue their settings again; the trials' numbers.

        Args:
            stopped: whether the work of this process, and of its workers, has just been stopped.
        """
        from optuna.trial import TrialState

        trials = self.study.get_trials(states=(TrialState.RUNNING,))
        lost = [trial for trial in trials if self._is_lost(trial, stopped)]
        return [trial.number for trial in lost if give_up(self.study, trial, stopped)]


def give_up(study: "optuna.Study", trial: "optuna.trial.FrozenTrial", stopped: bool) -> bool:
    """Fail a running trial and queue its settings again, unless they have cost too many workers.

    A worker that was ``stopped`` says nothing against the settings.

    Returns:
        False if another process was faster.
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.storages import RetryHeartbeatStaleTrialCallback
    from optuna.trial import TrialState

    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):
        return False
    stops = trial.user_attrs.get("stops", 0) + stopped
    kept = {name: value for name, value in trial.user_attrs.items() if name == "named"}
    trial.user_attrs = {**kept, "stops": stops}
    # Optuna counts stops as deaths.
    RetryHeartbeatStaleTrialCallback(max_retry=RETRIES + stops)(study, trial)
    return True
