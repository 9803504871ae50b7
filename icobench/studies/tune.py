"""Hyperparameter searches with Optuna, resumable in the run folder."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from icobench.comparison.methods import Problem
from icobench.datasets.patterns import PatternOptions, generate_patterns
from icobench.fitting.simplex import SimplexOptions, monte_carlo_simplex
from icobench.geometry.orientation import disorientation
from icobench.images.files import atomic_path
from icobench.network.checkpoint import TrainedNetwork
from icobench.network.recipe import Recipe
from icobench.network.selection import Networks, predict
from icobench.network.training import train
from icobench.simulator.experiment import Experiment
from icobench.simulator.simulator import Simulator

if TYPE_CHECKING:
    import optuna

__all__ = ["tune_network", "tune_simplex"]

BUDGET = 600
"""Nelder-Mead iterations per image, shared among the starts."""


def _study(folder: Path, name: str, seed: int, direction: Literal["minimize", "maximize"]) -> "optuna.Study":
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name=name,
        storage=JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
        sampler=optuna.samplers.TPESampler(seed=seed),
        direction=direction,
        load_if_exists=True,
    )


def _finish(study: "optuna.Study", folder: Path, best: dict[str, Any]) -> dict[str, Any]:
    summary = {"study": study.study_name, "trials": len(study.trials), "value": study.best_value, **best}
    with atomic_path(folder / f"best-{study.study_name}.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n")
    return summary


def _remaining(study: "optuna.Study", trials: int) -> int:
    from optuna.trial import TrialState

    return max(0, trials - len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))))


def tune_simplex(
    folder: Path,
    experiment: Experiment,
    trials: int,
    images: int,
    seed: int,
    device: torch.device,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Search starts and initial size of the Monte Carlo simplex at a fixed number of iterations.

    Maximises the share of images solved within 1 degree and 1 nm. The first trial is the package's
    default simplex with its starts cut to the budget.

    Args:
        folder: of the journal and the result; a search in it is continued.
        experiment: physics and grid.
        trials: completed trials in total.
        images: test images per trial.
        seed: of images, starts and sampler.
        device: where to simulate.
        progress: called with the finished share.
    """
    tests = generate_patterns(PatternOptions(images), experiment, seed, device)
    simulator = Simulator(experiment, device=device)
    study = _study(folder, "simplex", seed, "maximize")

    def options(parameters: dict[str, Any]) -> SimplexOptions:
        starts = parameters["starts"]
        return replace(
            SimplexOptions(),
            starts=starts,
            iterations=BUDGET // starts,
            rotation_deg=parameters["rotation_deg"],
            radius_nm=parameters["radius_nm"],
        )

    def objective(trial: "optuna.Trial") -> float:
        trial.suggest_int("starts", 4, 30)
        trial.suggest_float("rotation_deg", 2.0, 40.0, log=True)
        trial.suggest_float("radius_nm", 1.0, 40.0, log=True)
        problem = Problem(tests.images, tests.mask, tests.kind, simulator)
        fit = monte_carlo_simplex(problem.objective(), options(trial.params), seed)
        trial.set_user_attr("evaluations", float(fit.evaluations.double().mean()))
        angle = disorientation(fit.quaternion, tests.quaternion)
        miss = (fit.radius_nm - tests.radius_nm).abs()
        return float(((angle < 1) & (miss < 1)).double().mean())

    if not study.trials:
        default = SimplexOptions()
        study.enqueue_trial(
            {"starts": 12, "rotation_deg": default.rotation_deg, "radius_nm": default.radius_nm}
        )
    _optimise(study, objective, trials, progress)
    return _finish(study, folder, {"options": asdict(options(study.best_params))})


def tune_network(
    folder: Path,
    experiment: Experiment,
    recipe: Recipe,
    trials: int,
    images: int,
    seed: int,
    device: torch.device,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Search learning rate, weight decay, averaging and head width at the recipe's number of steps.

    Minimises the median disorientation on fresh images; the recipe itself is the first trial.

    Args:
        folder, experiment, trials, images, seed, device, progress: as for :func:`tune_simplex`.
        recipe: what is varied.
    """
    tests = generate_patterns(PatternOptions(images), experiment, seed + 10**6, device)
    study = _study(folder, "network", seed, "minimize")

    def varied(params: dict[str, Any]) -> Recipe:
        others = {name: value for name, value in params.items() if name != "hidden"}
        return replace(recipe, network={**recipe.network, "hidden": params["hidden"]}, **others)

    def objective(trial: "optuna.Trial") -> float:
        trial.suggest_float("learning_rate", 2e-4, 1e-2, log=True)
        trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True)
        trial.suggest_categorical("average", [0.99, 0.999])
        trial.suggest_categorical("hidden", [64, 128, 256])
        own = varied(trial.params)
        result = train(own, experiment, folder / f"trial-{trial.number}", seed, device)
        card = {"experiment": experiment.to_dict()}
        trained = Networks((TrainedNetwork(result.network, card, own, "trial"),))
        answer = predict(trained, tests.images, tests.mask, experiment, tests.kind)
        trial.set_user_attr("simulations", result.simulations)
        trial.set_user_attr("seconds", result.seconds)
        return float(disorientation(answer.quaternion[:, 0], tests.quaternion).median())

    if not study.trials:
        names = ("learning_rate", "weight_decay", "average")
        own = {name: getattr(recipe, name) for name in names}
        study.enqueue_trial({**own, "hidden": recipe.network.get("hidden", 256)})
    _optimise(study, objective, trials, progress)
    return _finish(study, folder, {"recipe": varied(study.best_params).to_dict()})


def _optimise(
    study: "optuna.Study",
    objective: Callable[["optuna.Trial"], float],
    trials: int,
    progress: Callable[[float], None],
) -> None:
    wanted = _remaining(study, trials)
    if wanted:
        study.optimize(
            objective,
            n_trials=wanted,
            callbacks=[lambda study, trial: progress(1 - _remaining(study, trials) / trials)],
        )
