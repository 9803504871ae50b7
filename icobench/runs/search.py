"""Searches of hyperparameters: trials by any number of workers, each a process that may be killed."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from icobench.errors import InputError, WorkerDiedError
from icobench.network.training import DivergedError
from icobench.provenance import provenance
from icobench.runs.pool import WorkerPool, chosen_device, default_workers
from icobench.runs.search_space import SearchSpace
from icobench.runs.search_storage import is_of_storage, open_study, run_folder, storage_errors, stored_url
from icobench.runs.search_tasks import NetworkTask, SimplexTask
from icobench.runs.search_workers import WorkerWatch, working
from icobench.seeds import Purpose, seed_word
from icobench.storage import WHOLE, Shard, atomic_path, read_json, toml_text, write_json

if TYPE_CHECKING:
    import optuna

__all__ = ["FINISHED", "Search", "count", "run_search", "search_cost", "write_best"]

FINISHED = ("COMPLETE", "PRUNED")

WAIT_SECONDS = 2.0
"""Between two looks at the trials of other machines."""

FAILURES = 3
"""A search ends when so many trials of one worker fail in a row."""


@dataclass(frozen=True)
class Search:
    """What is searched, and where it is stored. Making one reads and writes nothing.

    Attributes:
        folder: of the run.
        url: of Optuna's storage, None for a journal in the folder.
        task: evaluates settings of the ``space``.
        trials: how many to complete or prune, in total.
        seed: of the sampler.
        multi: whether accuracy and cost are both minimised; then Optuna prunes nothing.
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
        """The study with a sampler for its next trial, seeded by the number of trials before it.

        A search that was stopped therefore continues as it would have without the stop.
        """
        import optuna

        study = open_study(self.folder, self.url, self.identity, create)
        seed = seed_word(self.seed, Purpose.SAMPLER, len(study.get_trials(deepcopy=False)), worker)
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        study.pruner = self.task.pruner()
        return study

    def check(self) -> None:
        """Refuse a folder or study of another search, or in another storage, by an InputError.

        Nothing is written.
        """
        store = run_folder(self.folder, self.identity)
        store.check()
        if store.description.exists():
            stored = read_json(store.description).get("storage")
            if stored != stored_url(self.url):
                other = stored or "a journal"
                raise InputError(f"{self.folder}: holds a search in {other}; choose another --run")
            self.open(create=False)


def count(study: "optuna.Study", *states: str) -> int:
    """Number of trials in some states: COMPLETE, PRUNED, FAIL, RUNNING, WAITING."""
    return sum(trial.state.name in states for trial in study.get_trials(deepcopy=False))


def trials_left(search: Search, study: "optuna.Study") -> int:
    """Trials that may be begun now."""
    return search.trials - count(study, *FINISHED, "RUNNING")


def _queue_named(search: Search, study: "optuna.Study") -> None:
    """Queue the named settings that no trial has; a failed trial does not count."""
    trials = study.get_trials(deepcopy=False)
    tried = {trial.user_attrs.get("named") for trial in trials if trial.state.name != "FAIL"}
    for name, values in search.space.first(search.multi).items():
        if name not in tried:
            study.enqueue_trial(values, user_attrs={"named": name})


def _begin(search: Search, study: "optuna.Study") -> "optuna.Trial | None":
    """Begin a trial; None if enough are finished or at work.

    Several processes may begin the last trial, or queue the same named settings, at the same time. The later
    trials are then failed before they cost anything.
    """
    import optuna

    if trials_left(search, study) <= 0:
        return None
    trial = study.ask()
    trials, name = study.get_trials(deepcopy=False), trial.user_attrs.get("named")
    earlier = [other for other in trials[: trial.number] if other.state.name != "FAIL"]
    is_repeated = name is not None and name in [other.user_attrs.get("named") for other in earlier]
    if len(earlier) < search.trials and not is_repeated:
        return trial
    trial.set_user_attr("error", "one too many: another process was faster")
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return None


def one_trial(search: Search, first_worker: int, rank: int, device: str) -> tuple[int, str] | None:
    """Begin a trial, evaluate its settings and store their value; None if enough are finished or at work.

    Args:
        search: what to do.
        first_worker: number of this machine's first worker among those of all machines.
        rank: the worker's on this machine.
        device: where it works.

    Returns:
        The rank, and why the trial failed, else "".
    """
    from optuna.exceptions import UpdateFinishedTrialError

    with storage_errors(search.url or str(search.folder)):
        study = search.open(first_worker + rank)
        WorkerWatch(study).retry_lost()
        trial = _begin(search, study)
        if trial is None:
            return None
        try:
            with working(trial):
                return rank, _evaluate(search, study, trial, device)
        except UpdateFinishedTrialError:
            # Another process has taken this worker for dead and queued the settings again.
            return rank, ""


def _evaluate(search: Search, study: "optuna.Study", trial: "optuna.Trial", device: str) -> str:
    """Evaluate a trial's settings and store their value; why they failed, else ""."""
    import optuna
    from optuna.trial import TrialState

    def report(step: int, value: float) -> None:
        if not search.multi:
            trial.report(value, step)
            if (step + 1) % search.task.prune_every == 0 and trial.should_prune():
                raise optuna.TrialPruned

    note = partial(trial.set_user_attr, "costs")
    state, result, failure = TrialState.PRUNED, None, ""
    try:
        values = search.space.suggest(trial, search.multi)
        trial.set_user_attr("values", values)
        folder = search.folder / "trials" / f"{trial.number:05d}"
        accuracy, cost = search.task.evaluate(values, folder, device, report, note)
        state, result = TrialState.COMPLETE, [accuracy, cost] if search.multi else [accuracy]
    except optuna.TrialPruned:
        pass
    except DivergedError as error:
        trial.set_user_attr("error", str(error))
    except Exception as error:
        if is_of_storage(error):
            raise
        failure = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        trial.set_user_attr("error", failure)
        state = TrialState.FAIL
    study.tell(trial, result, state, skip_if_finished=True)
    if state != TrialState.FAIL:
        run_folder(search.folder, search.identity).path(f"{trial.number:05d}").touch()
    return failure


def run_search(
    search: Search,
    device: str,
    workers: int = 1,
    shard: Shard = WHOLE,
    progress: Callable[[float, str], None] = lambda share, text: None,
) -> "optuna.Study":
    """Do the trials that are missing; called again, it continues.

    On a CPU every trial is computed by one thread, here or in a worker: a setting has the same value for any
    number of workers. Which settings are tried differs, as workers do not wait for each other.

    Args:
        search: what to do.
        device: auto, cpu or cuda.
        workers: processes on this machine, 0 for all its cores or GPUs.
        shard: number and total of machines that work on the same study.
        progress: called with the finished share and a text.

    Raises:
        InputError: a folder or storage of another search; a storage that fails; nothing but failing trials.
    """
    where = chosen_device(device)
    workers = workers or default_workers(where)
    description = {
        **provenance(search.seed, where, search.task.experiment),
        "trials": search.trials, "storage": stored_url(search.url),
    }  # fmt: skip
    with storage_errors(search.url or str(search.folder)):
        search.check()
        study = search.open()  # may refuse, and then the folder stays as it is
        run_folder(search.folder, search.identity).open(description)
        _queue_named(search, study)
        watch = WorkerWatch(study)
        try:
            _work(search, watch, where, workers, shard, progress)
        except (KeyboardInterrupt, SystemExit, InputError, WorkerDiedError) as error:
            watch.retry_lost(stopped=True)  # the pool has just ended its workers
            if isinstance(error, WorkerDiedError):
                raise InputError(str(error)) from error
            raise
    return study


def _work(
    search: Search,
    watch: WorkerWatch,
    device: torch.device,
    workers: int,
    shard: Shard,
    progress: Callable[[float, str], None],
) -> None:
    """Do trials until there are enough, with no more workers than there are trials to begin."""
    study = watch.study

    def look(more: str = "") -> None:
        """Queue the settings of lost trials again, and tell how far the search is."""
        lost = [f", trial {number} was lost with its worker, queued again" for number in watch.retry_lost()]
        done = count(study, *FINISHED)
        has_best = not search.multi and count(study, "COMPLETE")
        best = f", best {study.best_value:.4g}" if has_best else ""
        text = f"{done} of {search.trials} trials{best}{''.join(lost)}{more}"
        progress(min(1.0, done / search.trials), text)

    look()
    failures: Counter[int] = Counter()
    jobs = [(search, (shard[0] - 1) * workers)]
    while True:
        if (missing := trials_left(search, study)) > 0:
            with WorkerPool(min(workers, missing), device) as pool:
                for _, outcome in pool.run(one_trial, jobs * missing):
                    if outcome is not None:
                        rank, error = outcome
                        failures[rank] = failures[rank] + 1 if error else 0
                        if failures[rank] == FAILURES:
                            text = f"{FAILURES} trials failed one after the other, the last by {error}"
                            raise InputError(text)
                    look()
        # A shard does not keep its node waiting. The command that started the shards does what they left.
        elif shard == WHOLE and count(study, "RUNNING") and count(study, *FINISHED) < search.trials:
            look(f", {count(study, 'RUNNING')} at work elsewhere")
            time.sleep(WAIT_SECONDS)
        else:
            return


def search_cost(study: "optuna.Study") -> dict[str, Any]:
    """What all workers' trials have cost, failed and pruned ones included, for the ledger of a comparison."""
    costs = [trial.user_attrs.get("costs", {}) for trial in study.get_trials(deepcopy=False)]
    return {
        "study": study.study_name,
        "trials": len(costs),
        "seconds": round(sum(cost.get("seconds", 0.0) for cost in costs), 1),
        # Trials of earlier versions have the time of their worker, which is one thread.
        "core_seconds": round(sum(cost.get("core_seconds", cost.get("seconds", 0.0)) for cost in costs), 1),
        "simulations": int(sum(cost.get("simulations", 0) for cost in costs)),
    }


def write_best(search: Search, study: "optuna.Study") -> dict[str, Any]:
    """Write ``best.toml``, with ``multi`` also a file for each trial of the front, and ``summary.json``.

    The best of a front is the most accurate.

    Returns:
        The summary.

    Raises:
        InputError: no trial is complete.
    """
    if not count(study, "COMPLETE"):
        raise InputError(f"{search.folder}: no trial is complete yet")
    cost = search_cost(study)
    if search.multi:
        front = sorted(study.best_trials, key=lambda trial: trial.values[0])
        files = {f"front-{number:02d}.toml": trial for number, trial in enumerate(front, start=1)}
    else:
        front, files = [study.best_trial], {}
    files["best.toml"] = front[0]
    for path in search.folder.glob("front-*.toml"):  # of an earlier front, which was longer
        if path.stem.removeprefix("front-").isdecimal() and path.name not in files:
            path.unlink()
    for name, trial in files.items():
        text = toml_text(search.task.preset(trial.user_attrs["values"], cost))
        with atomic_path(search.folder / name) as temporary:
            temporary.write_text(f"# Trial {trial.number} of `icobench tune {search.task.kind}`.\n{text}")
    named = [trial for trial in study.get_trials() if "named" in trial.user_attrs and trial.values]
    states = ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")
    summary = {
        **provenance(search.seed, torch.device("cpu"), search.task.experiment),
        "identity": search.identity,
        "search": cost,
        "objectives": [search.task.accuracy, search.task.cost][: 2 if search.multi else 1],
        "front": [_row(trial) for trial in front],
        "named": [_row(trial) for trial in named],
        "states": {name.lower(): count(study, name) for name in states},
    }
    write_json(search.folder / "summary.json", summary)
    return summary


def _row(trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    return {
        "trial": trial.number, "named": trial.user_attrs.get("named"), "objectives": trial.values,
        "values": trial.user_attrs.get("values"), "costs": trial.user_attrs.get("costs"),
    }  # fmt: skip
