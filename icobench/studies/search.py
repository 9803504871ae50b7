"""Searches: trials of a task by any number of workers, each in a process that may be killed."""

import contextlib
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icobench.errors import InputError
from icobench.images.files import atomic_path
from icobench.network.training import DivergedError
from icobench.provenance import provenance
from icobench.studies.network_task import RUNGS, NetworkTask
from icobench.studies.owners import beating
from icobench.studies.pool import WorkerPool, in_process
from icobench.studies.search_space import SearchSpace
from icobench.studies.simplex_task import BLOCK, SimplexTask
from icobench.studies.study import (
    DESCRIPTION,
    absolute_storage,
    check_described,
    describe_study,
    finished,
    open_study,
    queue_first,
    recover,
    requeue,
    reserved,
    running,
)
from icobench.studies.toml_text import toml_text

if TYPE_CHECKING:
    import optuna

__all__ = ["Search", "run_search", "search_cost"]

PURPOSE = 11
"""Of the sampler's random numbers."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Search:
    """What is searched, and where it is stored.

    Attributes:
        folder: of the run.
        url: of Optuna's storage, None for a journal in the folder.
        task: evaluates settings.
        space: what may vary.
        trials: completed or pruned, in total.
        seed: of the sampler.
        multi: whether accuracy and cost are both minimised; then nothing is pruned.
    """

    folder: Path
    url: str | None
    task: SimplexTask | NetworkTask
    space: SearchSpace
    trials: int
    seed: int
    multi: bool = False

    @property
    def kind(self) -> str:
        """simplex or network."""
        return "simplex" if isinstance(self.task, SimplexTask) else "network"

    @property
    def identity(self) -> dict[str, Any]:
        """What a study must agree in to be continued."""
        return {
            "name": f"{self.kind}-multi" if self.multi else self.kind, "objectives": 2 if self.multi else 1,
            "space": self.space.digest, "task": self.task.identity, "sampler_seed": self.seed,
        }  # fmt: skip

    def open(self, worker: int = 0, create: bool = True) -> "optuna.Study":
        """The study with a sampler for its next trial.

        Seeded by the number of trials, so that a search that was stopped goes on as it would have.
        """
        import optuna

        pruner: optuna.pruners.BasePruner
        if self.kind == "simplex":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                pruner = optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=BLOCK)
        else:
            pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=RUNGS, reduction_factor=3)
        study = open_study(self.folder, self.url, self.identity, pruner=pruner, create=create)
        key = (PURPOSE, len(study.get_trials(deepcopy=False)), worker)
        seed = int(np.random.SeedSequence(self.seed, spawn_key=key).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
        return study


def _left(search: Search, study: "optuna.Study") -> int:
    """Trials that may be begun; the named ones, which the first shard queues, have their place kept."""
    named = reserved(study, search.space.first(search.multi))
    return search.trials - finished(study) - running(study) - named


def one_trial(search: Search, first_worker: int, rank: int, device: str) -> int | None:
    """Ask for a setting, evaluate it, tell its value; the trial's number, None if enough are at work."""
    import optuna
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    study = search.open(first_worker + rank)
    recover(study, search.folder)
    if _left(search, study) <= 0:
        return None
    with beating(search.folder) as owner:
        trial = study.ask()

        def report(step: int, value: float) -> None:
            if search.multi:
                return
            trial.report(value, step)
            last = search.kind == "network" or (step + 1) % BLOCK == 0
            if last and trial.should_prune():
                raise optuna.TrialPruned

        def note(costs: dict[str, float]) -> None:
            trial.set_user_attr("costs", costs)

        def tell(state: TrialState, error: Exception | None = None, values: Any = None) -> None:
            # Whoever took this worker for dead has queued the settings again: the search goes on.
            with contextlib.suppress(UpdateFinishedTrialError):
                if error is not None:
                    name = "" if isinstance(error, DivergedError) else f"{type(error).__name__}: "
                    trial.set_user_attr("error", f"{name}{error}")
                study.tell(trial, values, state, skip_if_finished=True)

        try:
            trial.set_user_attr("worker", owner)
            values = search.space.suggest(trial, search.multi)
            trial.set_user_attr("values", values)
            folder = search.folder / "trials" / f"{trial.number:05d}"
            accuracy, cost = search.task.evaluate(values, folder, device, report, note)
        except optuna.TrialPruned:
            tell(TrialState.PRUNED)
        except UpdateFinishedTrialError:
            pass
        except DivergedError as error:
            tell(TrialState.FAIL if search.multi else TrialState.PRUNED, error)
        except Exception as error:
            tell(TrialState.FAIL, error)
            raise
        except BaseException:  # stopped: nobody's fault
            own = study.get_trials(deepcopy=False)[trial.number]
            requeue(study, own, "its worker was stopped", stopped=True)
            raise
        else:
            tell(TrialState.COMPLETE, values=(accuracy, cost) if search.multi else accuracy)
    return trial.number


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

    Raises:
        InputError: a folder or storage of another search; an impossible setting.
    """
    described = {
        **provenance(search.seed, device, search.task.experiment), "identity": search.identity,
        "storage": absolute_storage(search.url), "trials": search.trials,
    }  # fmt: skip
    check_search(search)
    study = search.open()
    describe_study(search.folder, described)
    for number in recover(study, search.folder):
        progress(0.0, f"trial {number} was lost with its worker, queued again")
    if shard[0] == 1:
        queue_first(study, search.space.first(search.multi))

    def died(pid: int) -> None:
        recover(search.open(), search.folder)

    def tell() -> None:
        done = finished(study)
        best = "" if search.multi or not _completed(study) else f", best {study.best_value:.4g}"
        progress(min(1.0, done / search.trials), f"{done} of {search.trials} trials{best}")

    tell()
    first_worker = (shard[0] - 1) * workers
    while (left := _left(search, study)) > 0:
        before = finished(study)
        try:
            with WorkerPool(min(workers, left), device, died) as pool, in_process(device):
                for _ in pool.run(one_trial, [(search, first_worker)] * left):
                    tell()
        except (KeyboardInterrupt, SystemExit):
            recover(study, search.folder, stopped=True)  # of the workers, which the pool has just ended
            raise
        recover(study, search.folder)
        if finished(study) == before:
            time.sleep(1)
            if finished(study) == before:
                break  # the rest is at work on other machines
    return study


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
