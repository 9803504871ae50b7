"""Searches: seeded trials, pruning, storages, and workers that die."""

import json
import socket
import subprocess
import sys
import time
import tomllib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import TrialState

from icobench.errors import InputError
from icobench.network.recipe import Recipe, read_recipe
from icobench.reporting.ledger import account
from icobench.reporting.searches import write_search_figures
from icobench.runs.search import run_search, search_cost, write_best
from icobench.runs.search_storage import load_search, open_study
from icobench.runs.search_tasks import BLOCK
from icobench.runs.search_workers import WorkerWatch, give_up
from icobench.runs.settings import read_settings
from icobench.runs.status import describe
from icobench.simulator.experiment import Experiment
from icobench.storage import toml_text
from tests.runs.bowl import CPU, Bowl, search, told

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

retried_trial_number = RetryHeartbeatStaleTrialCallback.retried_trial_number


def test_a_setting_that_cannot_be_tried_is_noted_and_passed_over(tmp_path):
    tried = search(tmp_path / "run", 2)
    space = replace(tried.space, enqueue={"paper": {"starts": "many"}})
    trials = run_search(replace(tried, space=space), CPU).get_trials()
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "many" in trials[0].user_attrs["error"]


def test_a_search_is_seeded_and_goes_on_as_it_would_have(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # of which a trial has one
    try:
        unstopped = run_search(search(tmp_path / "unstopped", 14), CPU)
    finally:
        torch.set_num_threads(threads)
    run_search(search(tmp_path / "parts", 5), CPU)
    parts = run_search(search(tmp_path / "parts", 14), CPU)
    assert told(parts) == told(unstopped)
    trials = unstopped.get_trials()
    assert [trial.user_attrs.get("named") for trial in trials[:2]] == ["paper", "ours"]
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert pruned  # a bowl is easily told apart, after the first block
    assert {len(trial.intermediate_values) for trial in pruned} == {BLOCK}
    assert all(trial.intermediate_values[0] > unstopped.best_value for trial in pruned)
    cost = search_cost(unstopped)
    assert cost["simulations"] == sum(10 * len(trial.intermediate_values) for trial in trials)
    assert cost["trials"] == 14


@pytest.mark.parametrize("storage", ["journal", "database"])
def test_a_killed_worker_loses_its_trial_alone(tmp_path, storage):
    url = None if storage == "journal" else f"sqlite:///{tmp_path}/search.db"
    deadly = tmp_path / "deadly"
    deadly.touch()
    task = Bowl(BLOCK, "counting", 2500, 0, Experiment(), str(deadly))
    study = run_search(search(tmp_path / "run", 4, task=task, url=url), CPU, workers=2)
    trials = study.get_trials()
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    again = [trial for trial in trials if retried_trial_number(trial) is not None]
    assert len(failed) == len(again) == 1
    assert failed[0].user_attrs["named"] == again[0].user_attrs["named"] == "ours"
    assert again[0].params == failed[0].params
    assert again[0].state == TrialState.COMPLETE
    assert sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials) == 4


def test_named_settings_are_tried_whichever_shard_comes_first(tmp_path):
    run_search(search(tmp_path / "run", 4), CPU, shard=(2, 2))
    study = run_search(search(tmp_path / "run", 4), CPU, shard=(1, 2))
    trials = study.get_trials()
    assert sorted(trial.user_attrs.get("named", "") for trial in trials) == ["", "", "ours", "paper"]
    assert all(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in trials)


@dataclass(frozen=True)
class Stopped(Bowl):
    """Ctrl-C in the middle of every trial."""

    def evaluate(self, values, folder, device, report, note):
        raise KeyboardInterrupt


def test_who_stops_a_search_loses_no_setting(tmp_path):
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run_search(
                search(tmp_path / "run", 2, task=Stopped(2 * BLOCK, "counting", 2500, 0, Experiment())), CPU
            )
    study = run_search(search(tmp_path / "run", 2), CPU)
    done = [trial for trial in study.get_trials() if trial.state != TrialState.FAIL]
    assert {(trial.user_attrs["named"], trial.state) for trial in done} == {
        ("paper", TrialState.COMPLETE), ("ours", TrialState.COMPLETE),
    }  # fmt: skip


@dataclass(frozen=True)
class Slow(Bowl):
    """All trials but the first take longer than anybody waits; the first ends when another has begun."""

    def evaluate(self, values, folder, device, report, note):
        begun = folder.parents[1] / "begun"
        if folder.name != "00000":
            begun.touch()
            time.sleep(600)
        while not begun.exists():
            time.sleep(0.05)
        return super().evaluate(values, folder, device, report, note)


@pytest.mark.filterwarnings("ignore:.*tasks have been successfully executed")
def test_trials_of_stopped_workers_are_not_counted_as_deaths(tmp_path):
    def stop(share, text):
        if share > 0:
            raise KeyboardInterrupt

    task = Slow(2 * BLOCK, "counting", 2500, 0, Experiment())
    with pytest.raises(KeyboardInterrupt):
        run_search(search(tmp_path / "run", 2, task=task), CPU, workers=2, progress=stop)
    trials = search(tmp_path / "run", 2).open().get_trials()
    assert not [trial for trial in trials if trial.state == TrialState.RUNNING]
    again = [trial for trial in trials if retried_trial_number(trial) is not None]
    assert again
    assert {trial.user_attrs["stops"] for trial in again} == {1}
    assert {trial.state for trial in again} == {TrialState.WAITING}


@dataclass(frozen=True)
class Mistaken(Bowl):
    """Somebody takes the worker of the first trial for dead."""

    run: str = ""

    def evaluate(self, values, folder, device, report, note):
        if folder.name == "00000":
            study = search(Path(self.run)).open()
            assert give_up(study, study.get_trials()[0], stopped=False)
        return super().evaluate(values, folder, device, report, note)


def test_a_trial_that_others_gave_up_does_not_end_the_search(tmp_path):
    run = tmp_path / "run"
    task = Mistaken(2 * BLOCK, "counting", 2500, 0, Experiment(), run=str(run))
    trials = run_search(search(run, 3, task=task), CPU).get_trials()
    assert [trial.state == TrialState.FAIL for trial in trials] == [True, False, False, False]
    assert retried_trial_number(trials[2]) == 0


def test_a_look_at_a_search_makes_no_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_search(search(tmp_path / "run", 1, url="sqlite:///search.db"), CPU)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    lines, _ = describe(tmp_path / "run")
    assert lines[0].startswith("search simplex of 1 trials: 1 complete")
    run_search(search(tmp_path / "run", 2, url="sqlite:///../search.db"), CPU)  # the same file
    (tmp_path / "search.db").unlink()
    with pytest.raises(InputError, match=r"search.db: no such file"):
        describe(tmp_path / "run")
    assert not (tmp_path / "search.db").exists()
    assert list(Path().iterdir()) == []


def test_trials_of_dead_workers_are_found(tmp_path, monkeypatch):
    study = run_search(search(tmp_path / "run", 2), CPU)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    def begin():
        trial = study.ask()
        trial.suggest_float("rotation_deg", 2.0, 40.0, log=True)
        return trial

    def sign(trial, host, pid, beat):
        trial.set_user_attr("worker", {"host": host, "pid": pid, "beat": beat})

    not_begun, dead, silent, alive = (begin() for _ in range(4))
    sign(dead, socket.gethostname(), ended.pid, 0)
    sign(silent, "elsewhere", 1, 7)
    sign(alive, "elsewhere", 1, 7)
    watch, now = WorkerWatch(study), time.monotonic()
    assert watch.retry_lost() == [dead.number]  # at once
    assert watch.retry_lost() == []
    monkeypatch.setattr("time.monotonic", lambda: now + 500)
    sign(alive, "elsewhere", 1, 8)
    assert watch.retry_lost() == [not_begun.number, silent.number]
    waiting = study.get_trials(states=(TrialState.WAITING,))
    assert {retried_trial_number(trial) for trial in waiting} == {
        not_begun.number,
        dead.number,
        silent.number,
    }
    assert all(trial.params == study.get_trials()[retried_trial_number(trial)].params for trial in waiting)


def test_settings_that_kill_their_workers_are_given_up_and_stops_do_not_count(tmp_path):
    study = search(tmp_path / "run").open()
    study.enqueue_trial({"starts": 60}, user_attrs={"named": "ours"})
    for stopped in (False, True, True, True, False, False):
        trial = study.ask()
        assert trial.user_attrs["named"] == "ours"
        assert trial.suggest_int("starts", 1, 100) == 60
        trial.set_user_attr("costs", {"seconds": 1.0})
        assert give_up(study, study.get_trials()[trial.number], stopped)
    assert len(study.get_trials()) == 6  # three deaths
    assert search_cost(study)["seconds"] == 6.0


def test_studies_and_storages_that_do_not_fit_are_refused(tmp_path):
    run_search(search(tmp_path / "run", 2), CPU)
    before = (tmp_path / "run" / "journal.log").read_bytes()
    described = (tmp_path / "run" / "search.json").read_bytes()
    other = search(tmp_path / "run", 2)
    space = replace(
        other.space, parameters={**other.space.parameters, "starts": {"type": "int", "low": 1, "high": 2}}
    )
    with pytest.raises(InputError, match=r"holds a search with other settings; choose another --run \(space"):
        run_search(replace(other, space=space), CPU)
    with pytest.raises(InputError, match=r"other settings; .*task.bowl 16, not 3"):
        run_search(replace(other, task=replace(other.task, images=3)), CPU)
    with pytest.raises(InputError, match=r"name simplex, not simplex-multi"):
        run_search(replace(other, multi=True), CPU)
    assert (tmp_path / "run" / "journal.log").read_bytes() == before
    assert (tmp_path / "run" / "search.json").read_bytes() == described
    with pytest.raises(InputError, match="holds a search in a journal; choose another --run"):
        run_search(replace(other, url=f"sqlite:///{tmp_path}/other.db"), CPU)
    assert not (tmp_path / "other.db").exists()
    (tmp_path / "run" / "journal.log").write_bytes(before[:200] + b"\x00{\n" + before[200:])
    with pytest.raises(InputError, match=r"journal.log: cannot be used as a storage"):
        run_search(other, CPU)
    (tmp_path / "broken.db").write_bytes(b"no database" * 100)
    for url, message in (
        (f"sqlite:///{tmp_path}/broken.db", "cannot be used as a storage"),
        ("moon://base", "cannot be used as a storage"),
        ("search.db", "must be a URL"),
    ):
        with pytest.raises(InputError, match=message):
            open_study(tmp_path, url, other.identity)


def test_a_mistyped_storage_leaves_the_folder_to_the_right_one(tmp_path):
    with pytest.raises(InputError, match="cannot be used as a storage"):
        run_search(search(tmp_path / "run", 1, url="moon://base"), CPU)
    assert len(run_search(search(tmp_path / "run", 2), CPU).get_trials()) == 2


def test_a_torn_last_line_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr("icobench.runs.search_workers._is_running", lambda pid: False)  # the machine was lost
    journal = tmp_path / "run" / "journal.log"
    for trials, cut in ((2, 20), (4, 1)):  # in the middle of a line, and before its end
        run_search(search(tmp_path / "run", trials), CPU)
        written = journal.read_bytes()
        journal.write_bytes(written[:-cut])
    study = run_search(search(tmp_path / "run", 6), CPU)
    assert sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.get_trials()) == 6
    for line in journal.read_text().splitlines():
        json.loads(line)


@pytest.mark.filterwarnings("ignore:The value of `grace_period`")
def test_the_lock_of_a_dead_process_is_broken_in_a_relative_folder_too(tmp_path, monkeypatch):
    monkeypatch.setattr("icobench.runs.search_storage.GRACE_SECONDS", 1)
    monkeypatch.chdir(tmp_path)
    study = search(Path("run"), 1).open()
    (tmp_path / "run" / "journal.log.lock").touch()
    study.set_user_attr("through", True)
    assert search(Path("run"), 1).open().user_attrs["through"]


def test_a_database_serves_as_well(tmp_path):
    url = f"sqlite:///{tmp_path}/search.db"
    stored = run_search(search(tmp_path / "run", 6, url=url), CPU)
    assert told(stored) == told(run_search(search(tmp_path / "journal", 6), CPU))
    assert not (tmp_path / "run" / "journal.log").exists()


def test_the_front_of_two_objectives(tmp_path):
    many = search(tmp_path / "run", 12, multi=True)
    study = run_search(many, CPU)
    summary = write_best(many, study)
    drawn = write_search_figures(tmp_path / "run", study, summary["objectives"])
    kinds = ("history", "importance", "slice")
    assert sorted(drawn) == sorted(
        [*(f"{kind}-{number}.png" for kind in kinds for number in (1, 2)), "pareto.png"]
    )
    for name in drawn:
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")
    points = [trial.values for trial in study.get_trials()]
    assert len(points) == 12
    front = [row["objectives"] for row in summary["front"]]
    for point in points:  # on the front if nothing is better in one and no worse in the other
        beaten = any(o[0] <= point[0] and o[1] <= point[1] and o != point for o in points)
        assert (point in front) != beaten
    names = [f"front-{number:02d}.toml" for number in range(1, len(front) + 1)]
    for name in (f"front-{len(front) + 1:02d}.toml", "front-view.toml"):
        (tmp_path / "run" / name).touch()
    write_best(many, study)  # the first of these is an earlier front's, the second somebody's own
    assert sorted(path.name for path in (tmp_path / "run").glob("front-*.toml")) == [
        *names,
        "front-view.toml",
    ]


def test_the_best_trial_is_a_preset_that_others_accept(tmp_path):
    simplex = search(tmp_path / "run", 4)
    summary = write_best(simplex, run_search(simplex, CPU))
    values = tomllib.loads((tmp_path / "run" / "best.toml").read_text())
    tuned = values["define"]["simplex-tuned"]
    assert tuned["starts"] == summary["front"][0]["values"]["starts"]
    assert tuned["search"] == summary["search"]
    settings = read_settings(tmp_path / "run" / "best.toml")
    method = settings.catalogue().method("simplex-tuned")
    assert method.card["search"]["trials"] == 4
    assert method.options.rounds == tuple(map(tuple, tuned["rounds"]))
    # The ledger charges it, once.
    results = pd.DataFrame(
        {"method": "simplex-tuned", "image": [0, 1], "seconds": [1.0, 3.0], "evaluations": [10, 20]}
    )
    charged = account("simplex-tuned", results, {"methods": {"simplex-tuned": method.card}}, 0.1)
    assert charged.fixed_seconds == tuned["search"]["core_seconds"] > 0
    assert charged.fixed_simulations == tuned["search"]["simulations"] > 0


def test_recipes_as_toml(tmp_path):
    recipe = Recipe(steps=9, network={"widths": [8, 8, 8]}, pool=5, settle_share=0.0)
    path = tmp_path / "best.toml"
    cost = {"seconds": 1.5, "simulations": 7}
    path.write_text(toml_text({**asdict(recipe), "search": cost}))
    assert read_recipe(path) == (recipe, cost)
    path.write_text("steps = 3\nspeed = 2\n")
    with pytest.raises(InputError, match="a recipe has no speed"):
        read_recipe(path)


def test_searches_of_earlier_versions_are_read():
    study, description = load_search(Path(__file__).parents[2] / "reports" / "tune_simplex")
    assert study.study_name == "simplex-multi"
    assert len(study.best_trials) == 2
    assert description["trials"] == len(study.get_trials()) == 64
