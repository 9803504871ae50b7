"""Searches: trials of a task by any number of workers, each in a process that may be killed."""

import contextlib
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from icobench.errors import InputError
from icobench.storage import atomic_path
from icobench.provenance import provenance
from icobench.runs import owners
from icobench.runs.definition import Search
from icobench.runs.pool import WorkerDiedError, WorkerPool, in_process
from icobench.runs.storage import quiet, storage_errors
from icobench.runs.study import (
    DESCRIPTION,
    any_seen,
    check_described,
    describe_study,
    finished,
    queue_first,
    recover,
    running,
)
from icobench.runs.toml_text import toml_text
from icobench.runs.trial import Outcome, left, one_trial

if TYPE_CHECKING:
    import optuna

__all__ = ["Search", "run_search", "search_cost"]

WAIT_SECONDS = 2.0
"""Between two looks at trials that are at work elsewhere."""

FAILURES = 3
"""So many trials of one worker that fail one after the other end a search."""

IN_VAIN = 20
"""So many trials without a result, one after the other, end it too: with --multi a diverged one has none."""

Progress = Callable[[float, str], None]


class _Failures:
    """Ends a search in which nothing works, and no search in which one setting does not."""

    def __init__(self) -> None:
        self.of_worker: dict[int, int] = {}
        self.in_vain = 0

    def add(self, outcome: Outcome) -> None:
        """Count a trial.

        Raises:
            InputError: one worker's trials fail one after the other, or far too many diverge.
        """
        failed = self.of_worker.get(outcome.rank, 0) + 1 if outcome.error else 0
        self.of_worker[outcome.rank] = failed
        self.in_vain = 0 if outcome.counts else self.in_vain + 1
        if failed >= FAILURES:
            raise InputError(f"{failed} trials failed one after the other, the last by {outcome.error}")
        if self.in_vain >= IN_VAIN:
            raise InputError(f"the last {self.in_vain} trials gave no result: their trainings diverge")


def _await_others(search: Search, study: "optuna.Study", tell: Callable[[str], None]) -> bool:
    """While trials are at work elsewhere, wait for them; whether one is left to be done here.

    A worker whose heart cannot be seen from here, in a run folder of its own, is not waited for longer than
    a heart may be silent.
    """
    begin = time.monotonic()
    while finished(study) < search.trials and running(study):
        if recover(study, search.folder) or left(search, study) > 0:
            return True
        if not any_seen(study, search.folder) and time.monotonic() - begin > owners.patience():
            return False
        tell(f", {running(study)} at work elsewhere")
        time.sleep(WAIT_SECONDS)
    return left(search, study) > 0


def check_search(search: Search) -> None:
    """Whether a search may be done in its folder; a folder that it does not have yet is not made.

    Raises:
        InputError: the folder or its study is of another search.
    """
    check_described(search.folder, search.identity["name"], search.url)
    if (search.folder / DESCRIPTION).exists():
        search.open(create=False)


def run_search(
    search: Search,
    device: torch.device,
    workers: int = 1,
    shard: tuple[int, int] = (1, 1),
    progress: Progress = lambda share, text: None,
) -> "optuna.Study":
    """Do the trials that are missing.

    On a CPU every trial is computed by one thread, here or in a worker: a setting's value is the same for
    every number of workers. Which settings are tried is not, as workers do not wait for each other.

    Args:
        search: what to do; the same again goes on.
        device: where to work.
        workers: processes on this machine.
        shard: number and total of machines that work on the same study.
        progress: called with the finished share.

    Returns:
        The study. It has fewer trials only if machines with run folders of their own are at work on the
        rest, or, of several shards, if others are.

    Raises:
        InputError: a folder or storage of another search; a storage that fails; nothing but failing trials.
    """
    described = {
        **provenance(search.seed, device, search.task.experiment), "identity": search.identity,
        "trials": search.trials,
    }  # fmt: skip
    with storage_errors(search.url or str(search.folder)):
        check_search(search)
        study = search.open()
        describe_study(search.folder, search.url, described)
        for number in recover(study, search.folder):
            progress(0.0, f"trial {number} was lost with its worker, queued again")
        if shard[0] == 1:
            queue_first(study, search.space.first(search.multi))
        _work(search, study, device, workers, shard, progress)
    return study


def _work(
    search: Search,
    study: "optuna.Study",
    device: torch.device,
    workers: int,
    shard: tuple[int, int],
    progress: Progress,
) -> None:
    """Trials until there are enough, by as many workers as there is something to do for."""

    def died(pid: int) -> None:
        recover(search.open(), search.folder)

    def still() -> contextlib.AbstractContextManager[None]:
        return quiet(search.folder, search.url)

    def tell(more: str = "") -> None:
        done, best = finished(study), ""
        if not search.multi and _completed(study):
            best = f", best {study.best_value:.4g}"
        progress(min(1.0, done / search.trials), f"{done} of {search.trials} trials{best}{more}")

    tell()
    failures, first_worker = _Failures(), (shard[0] - 1) * workers
    while True:
        if (missing := left(search, study)) > 0:
            try:
                with WorkerPool(min(workers, missing), device, died, still) as pool, in_process(device):
                    for _, outcome in pool.run(one_trial, [(search, first_worker)] * missing):
                        if outcome is not None:
                            failures.add(outcome)
                        tell()
            except (KeyboardInterrupt, SystemExit, InputError):
                recover(study, search.folder, stopped=True)  # of the workers, which the pool has just ended
                raise
            except WorkerDiedError as error:
                recover(study, search.folder, stopped=True)
                text = f"{error}, perhaps of too little memory; the same command goes on"
                raise InputError(text) from error
            recover(study, search.folder)
        # A shard's node is not to idle: who gave the command waits for what the shards have not done.
        elif shard[1] > 1 or not _await_others(search, study, tell):
            return


def _completed(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def search_cost(study: "optuna.Study") -> dict[str, Any]:
    """What the whole search has cost, failed and pruned trials included: for the ledger.

    Returns:
        trials, seconds of work and simulations of all workers together.
    """
    every = study.get_trials(deepcopy=False)
    costs = [trial.user_attrs.get("costs", {}) for trial in every]
    return {
        "study": study.study_name,
        "trials": len(every),
        "seconds": round(sum(cost.get("seconds", 0.0) for cost in costs), 1),
        "simulations": int(sum(cost.get("simulations", 0) for cost in costs)),
    }


def write_best(search: Search, study: "optuna.Study") -> dict[str, Any]:
    """Write ``best.toml`` (for --multi also one for each trial of the front) and ``summary.json``.

    Of a front, the best is the most accurate. Returns the summary.

    Raises:
        InputError: no trial is complete.
    """
    if not _completed(study):
        raise InputError(f"{search.folder}: no trial is complete yet")
    cost = search_cost(study)
    front = (
        sorted(study.best_trials, key=lambda trial: trial.values[0]) if search.multi else [study.best_trial]
    )
    for number, trial in enumerate(front):
        text = toml_text(search.task.preset(trial.user_attrs["values"], cost))
        names = ["best.toml"] if number == 0 else []
        if search.multi:
            names.append(f"front-{number + 1:02d}.toml")
        for name in names:
            with atomic_path(search.folder / name) as temporary:
                temporary.write_text(f"# Trial {trial.number} of `icobench tune {search.kind}`.\n{text}")
    for path in search.folder.glob("front-*.toml"):  # of an earlier front, which was longer
        place = path.stem.removeprefix("front-")
        if place.isdecimal() and int(place) > (len(front) if search.multi else 0):
            path.unlink()
    trials = study.get_trials(deepcopy=False)
    summary = {
        **provenance(search.seed, torch.device("cpu"), search.task.experiment),
        "identity": search.identity,
        "search": cost,
        "objectives": [search.task.accuracy, search.task.cost][: 2 if search.multi else 1],
        "front": [_row(trial) for trial in front],
        "named": [_row(trial) for trial in trials if "named" in trial.user_attrs and trial.values],
        "states": {state: sum(trial.state.name.lower() == state for trial in trials)
                   for state in ("complete", "pruned", "fail", "running", "waiting")},
    }  # fmt: skip
    with atomic_path(search.folder / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _row(trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    return {
        "trial": trial.number, "named": trial.user_attrs.get("named"), "objectives": trial.values,
        "values": trial.user_attrs.get("values"), "costs": trial.user_attrs.get("costs"),
    }  # fmt: skip
