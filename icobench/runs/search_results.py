"""What a search has done: counts, costs, and the files of the best trials."""

from typing import TYPE_CHECKING, Any

import torch

from icobench.errors import InputError
from icobench.provenance import provenance
from icobench.runs.toml_text import toml_text
from icobench.storage import atomic_path, write_json

if TYPE_CHECKING:
    import optuna

    from icobench.runs.search import Search

__all__ = ["completed", "finished", "running", "search_cost", "write_best"]


def completed(study: "optuna.Study") -> int:
    """Number of trials with a value."""
    return _count(study, "COMPLETE")


def finished(study: "optuna.Study") -> int:
    """Number of trials that are completed or pruned."""
    return _count(study, "COMPLETE", "PRUNED")


def running(study: "optuna.Study") -> int:
    """Number of trials that workers have."""
    return _count(study, "RUNNING")


def _count(study: "optuna.Study", *states: str) -> int:
    return sum(trial.state.name in states for trial in study.get_trials(deepcopy=False))


def search_cost(study: "optuna.Study") -> dict[str, Any]:
    """What a search has cost, with failed and pruned trials, for the ledger of a comparison.

    Returns:
        name of the study, number of trials, seconds of work and simulations of all workers together.
    """
    trials = study.get_trials(deepcopy=False)
    costs = [trial.user_attrs.get("costs", {}) for trial in trials]
    return {
        "study": study.study_name,
        "trials": len(trials),
        "seconds": round(sum(cost.get("seconds", 0.0) for cost in costs), 1),
        "simulations": int(sum(cost.get("simulations", 0) for cost in costs)),
    }


def write_best(search: "Search", study: "optuna.Study") -> dict[str, Any]:
    """Write ``best.toml`` (with ``multi`` also a file for each trial of the front) and ``summary.json``.

    The best of a front is the most accurate.

    Returns:
        The summary.

    Raises:
        InputError: no trial is complete.
    """
    if not completed(study):
        raise InputError(f"{search.folder}: no trial is complete yet")
    cost = search_cost(study)
    front = (
        sorted(study.best_trials, key=lambda trial: trial.values[0]) if search.multi else [study.best_trial]
    )
    files = {"best.toml": front[0]}
    if search.multi:
        files |= {f"front-{number:02d}.toml": trial for number, trial in enumerate(front, start=1)}
    for path in search.folder.glob("front-*.toml"):  # of an earlier front, which was longer
        if path.stem.removeprefix("front-").isdecimal() and path.name not in files:
            path.unlink()
    for name, trial in files.items():
        text = toml_text(search.task.preset(trial.user_attrs["values"], cost))
        with atomic_path(search.folder / name) as temporary:
            temporary.write_text(f"# Trial {trial.number} of `icobench tune {search.task.kind}`.\n{text}")
    trials = study.get_trials(deepcopy=False)
    summary = {
        **provenance(search.seed, torch.device("cpu"), search.task.experiment),
        "identity": search.identity,
        "search": cost,
        "objectives": [search.task.accuracy, search.task.cost][: 2 if search.multi else 1],
        "front": [_row(trial) for trial in front],
        "named": [_row(trial) for trial in trials if "named" in trial.user_attrs and trial.values],
        "states": {name.lower(): _count(study, name)
                   for name in ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING")},
    }  # fmt: skip
    write_json(search.folder / "summary.json", summary)
    return summary


def _row(trial: "optuna.trial.FrozenTrial") -> dict[str, Any]:
    return {
        "trial": trial.number, "named": trial.user_attrs.get("named"), "objectives": trial.values,
        "values": trial.user_attrs.get("values"), "costs": trial.user_attrs.get("costs"),
    }  # fmt: skip
