"""Searches of training recipes."""

import json
import math
import re
from dataclasses import dataclass

import pandas as pd
import pytest
from optuna.trial import TrialState

from icobench import cli
from icobench.network.checkpoint import read_weights
from icobench.network.recipe import RECIPES, Recipe, read_recipe
from icobench.reporting.ledger import account
from icobench.runs.search import Search, run_search, write_best
from icobench.runs.search_space import read_space
from icobench.runs.search_tasks import RUNGS, NetworkTask
from icobench.simulator.experiment import Experiment
from tests.runs.bowl import CPU


@dataclass(frozen=True)
class Courses(NetworkTask):
    """Trainings that cost nothing, and whose errors fall to what their learning rate is worth."""

    def evaluate(self, values, folder, device, report, note):
        floor = 1 + abs(math.log10(values["learning_rate"]) + 3)
        for rung in range(1, RUNGS + 1):
            report(rung, floor + 1 / rung)
        return floor + 1 / RUNGS, 1.0


def test_hyperband_stops_poor_networks_early(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text('[parameters.learning_rate]\ntype = "float"\nlow = 1e-6\nhigh = 1\nlog = true\n')
    task = Courses(2, RECIPES["compact"], 0, Experiment())
    trials = run_search(
        Search(tmp_path / "run", None, task, read_space("network", path), 24, 0), CPU
    ).get_trials()
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    completed = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(pruned) + len(completed) == 24
    assert {max(trial.intermediate_values) for trial in completed} == {RUNGS}
    # Looked at after a ninth, a third: the brackets' rungs for a factor of three.
    assert {max(trial.intermediate_values) for trial in pruned} <= {1, 3, RUNGS}
    assert min(max(trial.intermediate_values) for trial in pruned) < RUNGS
    best = min(trial.value for trial in completed)
    assert all(trial.intermediate_values[1] - 1 > best - 1 / RUNGS for trial in pruned)


def learning_rates(path, highest, first):
    """A search space of learning rates from 1e-4, in a file; ``first`` is tried first."""
    path.write_text(
        f'[parameters.learning_rate]\ntype = "float"\nlow = 1e-4\nhigh = {highest}\nlog = true\n'
        f"[enqueue.first]\nlearning_rate = {first}\n"
    )
    return read_space("network", path)


def test_a_small_network_is_searched_and_trained(tmp_path, monkeypatch):
    recipe = Recipe(steps=9, batch=16, network={"widths": [8, 8, 8], "hidden": 16}, images="clean")
    space = learning_rates(tmp_path / "space.toml", 1e-2, 1e-3)
    tuning = Search(tmp_path / "run", None, NetworkTask(2, recipe, 0, Experiment()), space, 1, 0)
    study = run_search(tuning, CPU)
    first = study.get_trials()[0]
    assert first.params == {"learning_rate": 1e-3}
    assert sorted(first.intermediate_values) == list(range(1, 10))
    costs = first.user_attrs["costs"]
    assert costs["simulations"] == 9 * 16 // recipe.variants
    assert costs["core_seconds"] > 0
    summary = write_best(tuning, study)
    tuned, cost = read_recipe(tmp_path / "run" / "best.toml")
    assert tuned.learning_rate == summary["front"][0]["values"]["learning_rate"]
    assert cost == summary["search"]
    assert cost["core_seconds"] == pytest.approx(costs["core_seconds"], abs=0.06)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["states"]["fail"] == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "sys.argv", ["icobench", "train", "--config", "run/best.toml", "--run", "trained", "--device", "cpu"]
    )
    cli.app(standalone_mode=False)
    card = read_weights(tmp_path / "trained" / "network.safetensors").card
    assert card["recipe"]["learning_rate"] == 1e-3
    assert card["search"] == cost
    results = pd.DataFrame({"method": "network", "image": [0], "seconds": [1.0], "evaluations": [0]})
    charged = account("network", results, {"networks": [card]}, 0.1)
    assert charged.fixed_simulations == card["training_simulations"] + cost["simulations"]


@pytest.mark.parametrize("multi", [False, True])
def test_a_network_that_diverges_is_pruned(tmp_path, multi):
    recipe = Recipe(steps=9, batch=16, network={"widths": [8, 8, 8], "hidden": 16}, images="clean")
    space = learning_rates(tmp_path / "space.toml", 1e30, 1e30)
    task = NetworkTask(2, recipe, 0, Experiment())
    study = run_search(Search(tmp_path / "run", None, task, space, 1, 0, multi), CPU)
    (trial,) = study.get_trials()
    assert trial.state.name == "PRUNED"
    assert re.search(r"(loss|gradient) became", trial.user_attrs["error"])
