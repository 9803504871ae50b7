"""One trial of a search: asked for, evaluated, told; or failed, stopped, diverged."""

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from icobench.network.training import DivergedError
from icobench.runs.definition import Search
from icobench.runs.owners import beating
from icobench.runs.simplex_task import BLOCK
from icobench.runs.storage import alone, is_of_storage, storage_errors
from icobench.runs.study import finished, note_finished, recover, requeue, reserved, running

if TYPE_CHECKING:
    import optuna

__all__ = ["Outcome", "left", "one_trial"]


class Outcome(NamedTuple):
    """What became of a trial.

    Attributes:
        number: the study's.
        rank: of the worker that had it.
        counts: whether it was completed or pruned.
        error: what failed; empty for a training that merely diverged.
    """

    number: int
    rank: int
    counts: bool
    error: str = ""


def left(search: Search, study: "optuna.Study") -> int:
    """Trials that may be begun; the named ones, which the first shard queues, have their place kept."""
    named = reserved(study, search.space.first(search.multi))
    return search.trials - finished(study) - running(study) - named


def _ask(search: Search, study: "optuna.Study") -> "optuna.Trial | None":
    """A trial that is not one too many; None if enough are at work.

    Between the count and the trial, nobody of the run folder may ask. Machines with folders of their own meet
    in the storage alone: there a later trial gives way.
    """
    from optuna.trial import TrialState

    with alone(search.folder):
        if left(search, study) <= 0:
            return None
        trial = study.ask()
    earlier = [one for one in study.get_trials(deepcopy=False) if one.number < trial.number]
    if sum(one.state != TrialState.FAIL for one in earlier) < search.trials:
        return trial
    trial.set_user_attr("error", "one too many: another machine was faster")
    study.tell(trial, state=TrialState.FAIL)
    return None


def one_trial(search: Search, first_worker: int, rank: int, device: str) -> Outcome | None:
    """Ask for a setting, evaluate it, tell its value; None if enough are at work.

    Raises:
        InputError: the storage fails.
    """
    with storage_errors(search.url or str(search.folder)):
        study = search.open(first_worker + rank)
        recover(study, search.folder)
        with beating(search.folder) as owner:
            trial = _ask(search, study)
            return None if trial is None else _try(search, study, trial, owner, rank, device)


def _try(
    search: Search,
    study: "optuna.Study",
    trial: "optuna.Trial",
    owner: dict[str, Any],
    rank: int,
    device: str,
) -> Outcome:
    """Evaluate a trial's setting and tell its value, or what became of it."""
    import optuna
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    def report(step: int, value: float) -> None:
        if search.multi:
            return
        trial.report(value, step)
        last = search.kind == "network" or (step + 1) % BLOCK == 0
        if last and trial.should_prune():
            raise optuna.TrialPruned

    def note(costs: dict[str, float]) -> None:
        trial.set_user_attr("costs", costs)

    def tell(state: TrialState, error: str = "", values: Any = None) -> None:
        # Whoever took this worker for dead has queued the settings again: the search goes on.
        with contextlib.suppress(UpdateFinishedTrialError):
            if error:
                trial.set_user_attr("error", error)
            study.tell(trial, values, state, skip_if_finished=True)
        if state != TrialState.FAIL:
            note_finished(search.folder, trial.number)

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
        tell(TrialState.FAIL if search.multi else TrialState.PRUNED, str(error))
        return Outcome(trial.number, rank, not search.multi)
    except Exception as error:
        if is_of_storage(error):
            raise
        text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        tell(TrialState.FAIL, text)
        return Outcome(trial.number, rank, False, text)
    except BaseException:  # stopped: nobody's fault
        own = study.get_trials(deepcopy=False)[trial.number]
        requeue(study, own, "its worker was stopped", stopped=True)
        raise
    else:
        tell(TrialState.COMPLETE, values=(accuracy, cost) if search.multi else accuracy)
    return Outcome(trial.number, rank, True)
