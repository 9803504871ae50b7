"""Searches of hyperparameters: trials by any number of workers, each a process that may be killed."""

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from icobench.errors import InputError
from icobench.network.training import DivergedError
from icobench.provenance import provenance
from icobench.runs.pool import WorkerDiedError, WorkerPool
from icobench.runs.search_results import completed, finished, running
from icobench.runs.search_space import SearchSpace
from icobench.runs.search_storage import (
    asking_alone,
    check_folder,
    is_of_storage,
    open_storage,
    open_study,
    run_folder,
    storage_errors,
    stored_url,
    without_optunas_warnings,
)
from icobench.runs.search_tasks import NetworkTask, SimplexTask
from icobench.runs.search_workers import give_up, heartbeats_are_in, retry_lost_trials, working
from icobench.seeds import Purpose, seed_word
from icobench.storage import WHOLE, Shard

if TYPE_CHECKING:
    import optuna

__all__ = ["Search", "run_search"]

WAIT_SECONDS = 2.0
"""Between two looks at the trials of other machines."""

FAILURES = 3
"""A search ends when so many trials of one worker fail in a row."""

WITHOUT_RESULT = 20
"""It also ends when so many in a row have no result: with --multi, a training that diverges has none."""

Tell = Callable[[float, str], None]
"""Called with the finished share and a text."""


@dataclass(frozen=True)
class Search:
    """What is searched, and where it is stored. Making one reads and writes nothing.

    Attributes:
        folder: of the run.
        url: of Optuna's storage, None for a journal in the folder.
        task: evaluates settings.
        space: what may vary.
        trials: how many to complete or prune, in total.
        seed: of the sampler.
        multi: whether accuracy and cost are both minimised; then nothing is pruned.
        study: its name in the storage, None for that of what is searched.
    """

    folder: Path
    url: str | None
    task: SimplexTask | NetworkTask
    space: SearchSpace
    trials: int
    seed: int
    multi: bool = False
    study: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What a study must agree in to be continued."""
        name = self.study or (f"{self.task.kind}-multi" if self.multi else self.task.kind)
        return {
            "name": name, "objectives": 2 if self.multi else 1,
            "space": self.space.digest, "task": self.task.identity, "sampler_seed": self.seed,
        }  # fmt: skip

    def open(self, worker: int = 0, create: bool = True) -> "optuna.Study":
        """The study with a sampler for its next trial.

        The sampler is seeded by the number of trials, so that a search that was stopped continues as it
        would have without the stop.
        """
        import optuna

        with without_optunas_warnings():
            study = open_study(self.folder, self.url, self.identity, create, pruner=self.task.pruner())
            seed = seed_word(self.seed, Purpose.SAMPLER, len(study.get_trials(deepcopy=False)), worker)
            study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return study

    def check(self) -> None:
        """Refuse a folder or storage of another search; a folder that is missing is not made.

        Raises:
            InputError: the folder or its study is of another search.
        """
        check_folder(self.folder, self.url, self.identity)
        if run_folder(self.folder, self.identity).description.exists():
            self.open(create=False)

    def retry_lost(self, study: "optuna.Study", stopped: bool = False) -> list[int]:
        """Queue the settings of trials again whose workers have ended; the numbers of these trials."""
        return retry_lost_trials(study, self.folder, self.url, stopped)


def trials_left(search: Search, study: "optuna.Study") -> int:
    """Trials that may be begun now, with places kept for named settings that the first shard will queue."""
    queued = {trial.user_attrs.get("named") for trial in study.get_trials(deepcopy=False)}
    reserved = len(set(search.space.first(search.multi)) - queued)
    return search.trials - finished(study) - running(study) - reserved


def _queue_named(search: Search, study: "optuna.Study") -> None:
    """Queue the named settings that no trial has; a failed trial does not count."""
    trials = study.get_trials(deepcopy=False)
    tried = {trial.user_attrs.get("named") for trial in trials if trial.state.name != "FAIL"}
    for name, values in search.space.first(search.multi).items():
        if name not in tried:
            study.enqueue_trial(values, user_attrs={"named": name})


class Outcome(NamedTuple):
    """What became of a trial: ``error`` says why it failed, and is empty for a training that diverged."""

    rank: int
    has_result: bool
    error: str = ""


def _ask(search: Search, study: "optuna.Study") -> "optuna.Trial | None":
    """Begin a trial; None if enough are finished or at work.

    Processes that share a run folder count and begin one after the other. Machines that share only a
    database may all begin the last trial: the later ones are then failed before they cost anything.
    """
    from optuna.trial import TrialState

    with asking_alone(search.folder):
        if trials_left(search, study) <= 0:
            return None
        trial = study.ask()
    earlier = study.get_trials(deepcopy=False)[: trial.number]
    if sum(other.state != TrialState.FAIL for other in earlier) < search.trials:
        return trial
    trial.set_user_attr("error", "one too many: another machine was faster")
    study.tell(trial, state=TrialState.FAIL)
    return None


def one_trial(search: Search, first_worker: int, rank: int, device: str) -> Outcome | None:
    """Begin a trial, evaluate its settings and store their value; None if enough are at work.

    ``rank`` is the worker's on this machine, and ``first_worker`` the number of this machine's first worker
    among those of all machines.

    Raises:
        InputError: the storage fails.
    """
    with storage_errors(search.url or str(search.folder)), ExitStack() as work:
        study = search.open(first_worker + rank)
        search.retry_lost(study)
        trial = _ask(search, study)
        if trial is None:
            return None
        try:
            in_database = heartbeats_are_in(search.url) == "database"
            # The thread of the heartbeats gets a connection of its own.
            database = open_storage(search.folder, search.url) if in_database else None
            work.enter_context(working(trial, search.folder, database))
            return _evaluate(search, study, trial, rank, device)
        except (KeyboardInterrupt, SystemExit):
            give_up(study, study.get_trials(deepcopy=False)[trial.number], stopped=True)
            raise


def _evaluate(
    search: Search, study: "optuna.Study", trial: "optuna.Trial", rank: int, device: str
) -> Outcome:
    """Evaluate a trial's settings and store their value, or what became of it."""
    import optuna
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    def report(step: int, value: float) -> None:
        if search.multi:
            return
        trial.report(value, step)
        if (step + 1) % search.task.prune_every == 0 and trial.should_prune():
            raise optuna.TrialPruned

    def note(costs: dict[str, float]) -> None:
        trial.set_user_attr("costs", costs)

    def store(state: TrialState, error: str = "", values: Any = None) -> Outcome:
        # Another process may have taken this worker for dead and queued the settings again.
        with suppress(UpdateFinishedTrialError):
            if error:
                trial.set_user_attr("error", error)
            study.tell(trial, values, state, skip_if_finished=True)
        if state != TrialState.FAIL:
            run_folder(search.folder, search.identity).path(f"{trial.number:05d}").touch()
        return Outcome(rank, state != TrialState.FAIL)

    try:
        values = search.space.suggest(trial, search.multi)
        trial.set_user_attr("values", values)
        folder = search.folder / "trials" / f"{trial.number:05d}"
        accuracy, cost = search.task.evaluate(values, folder, device, report, note)
    except optuna.TrialPruned:
        return store(TrialState.PRUNED)
    except UpdateFinishedTrialError:  # as in store
        return Outcome(rank, True)
    except DivergedError as error:
        return store(TrialState.FAIL if search.multi else TrialState.PRUNED, str(error))
    except Exception as error:
        if is_of_storage(error):
            raise
        text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        store(TrialState.FAIL, text)
        return Outcome(rank, False, text)
    return store(TrialState.COMPLETE, values=(accuracy, cost) if search.multi else accuracy)


def _check_outcomes(outcomes: list[Outcome]) -> None:
    """End a search in which nothing works; a single setting that does not work ends none.

    Raises:
        InputError: the last trials of one worker failed, or far too many diverged.
    """
    of_worker = [outcome for outcome in outcomes if outcome.rank == outcomes[-1].rank][-FAILURES:]
    if len(of_worker) == FAILURES and all(outcome.error for outcome in of_worker):
        text = f"{FAILURES} trials failed one after the other, the last by {of_worker[-1].error}"
        raise InputError(text)
    recent = outcomes[-WITHOUT_RESULT:]
    if len(recent) == WITHOUT_RESULT and not any(outcome.has_result for outcome in recent):
        text = f"the last {WITHOUT_RESULT} trials gave no result: their trainings diverge"
        raise InputError(text)


def run_search(
    search: Search,
    device: torch.device,
    workers: int = 1,
    shard: Shard = WHOLE,
    progress: Tell = lambda share, text: None,
) -> "optuna.Study":
    """Do the trials that are missing; called again, it continues.

    On a CPU every trial is computed by one thread, here or in a worker: a setting has the same value for any
    number of workers. Which settings are tried differs, as workers do not wait for each other.

    Args:
        search: what to do.
        device: where to work.
        workers: processes on this machine.
        shard: number and total of machines that work on the same study.
        progress: called with the finished share and a text.

    Returns:
        The study. Trials are missing in it if other shards still have some, or other machines that share
        only a Redis server.

    Raises:
        InputError: a folder or storage of another search; a storage that fails; nothing but failing trials.
    """
    description = {
        **provenance(search.seed, device, search.task.experiment),
        "trials": search.trials, "storage": stored_url(search.url),
    }  # fmt: skip
    with storage_errors(search.url or str(search.folder)):
        search.check()
        study = search.open()  # may refuse, and then the folder stays as it is
        run_folder(search.folder, search.identity).open(description)
        for number in search.retry_lost(study):
            progress(0.0, f"trial {number} was lost with its worker, queued again")
        if shard[0] == 1:
            _queue_named(search, study)
        _work(search, study, device, workers, shard, progress)
    return study


def _work(
    search: Search, study: "optuna.Study", device: torch.device, workers: int, shard: Shard, progress: Tell
) -> None:
    """Do trials until there are enough, with no more workers than there are trials to begin."""

    def tell(more: str = "") -> None:
        done = finished(study)
        best = "" if search.multi or not completed(study) else f", best {study.best_value:.4g}"
        progress(min(1.0, done / search.trials), f"{done} of {search.trials} trials{best}{more}")

    tell()
    outcomes: list[Outcome] = []
    jobs = [(search, (shard[0] - 1) * workers)]
    while True:
        if (missing := trials_left(search, study)) > 0:
            try:
                with WorkerPool(min(workers, missing), device) as pool:
                    for _, outcome in pool.run(one_trial, jobs * missing):
                        if outcome is not None:
                            outcomes.append(outcome)
                            _check_outcomes(outcomes)
                        tell()
            except (KeyboardInterrupt, SystemExit, InputError, WorkerDiedError) as error:
                search.retry_lost(study, stopped=True)  # the pool has just ended its workers
                if isinstance(error, WorkerDiedError):
                    text = f"{error}, perhaps of too little memory; the same command goes on"
                    raise InputError(text) from error
                raise
            search.retry_lost(study)
        # A shard does not keep its node waiting. The command that started the shards does what they left.
        elif shard != WHOLE or not _wait_for_others(search, study, tell):
            return


def _wait_for_others(search: Search, study: "optuna.Study", tell: Callable[[str], None]) -> bool:
    """Wait for trials on other machines; whether one is left to be done here.

    They are not waited for where nobody could tell whether their workers are still alive.
    """
    while finished(study) < search.trials and running(study) and heartbeats_are_in(search.url) != "nothing":
        if search.retry_lost(study) or trials_left(search, study) > 0:
            return True
        tell(f", {running(study)} at work elsewhere")
        time.sleep(WAIT_SECONDS)
    return trials_left(search, study) > 0
