"""Searches with other machines, databases that are locked, and trials that fail."""

import os
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState
from tests.studies.bowl import CPU, Bowl, search

from icobench import provenance
from icobench.errors import InputError
from icobench.runs import owners
from icobench.runs import search as searching
from icobench.runs import storage as storages
from icobench.runs import study as studies
from icobench.runs import trial as trials_of
from icobench.runs.pool import one_thread
from icobench.runs.search import run_search
from icobench.runs.simplex_task import BLOCK
from icobench.runs.status import describe
from icobench.simulator.experiment import Experiment

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)


def counted(study) -> int:
    return len(study.get_trials(states=COUNTED))


@pytest.fixture
def quick(monkeypatch):
    """Hearts that beat, and are missed, in a second."""
    monkeypatch.setattr(owners, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(owners, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(searching, "WAIT_SECONDS", 0.1)


def begun_elsewhere(study, owner):
    trial = study.ask()
    trial.suggest_float("rotation_deg", 2.0, 40.0, log=True)
    trial.set_user_attr("worker", {**owner, "host": "elsewhere"})
    return trial


def test_trials_on_another_machine_are_waited_for_while_their_hearts_beat(tmp_path, quick):
    run = tmp_path / "run"
    study = run_search(search(run, 2), CPU)
    with owners.beating(run) as owner:
        trial = begun_elsewhere(study, owner)
        ending = threading.Timer(2.0, lambda: study.tell(trial, 1.0))  # longer than a silence
        ending.start()
        begin = time.monotonic()
        said = []
        study = run_search(search(run, 3), CPU, progress=lambda share, text: said.append(text))
    assert any(text.endswith(", 1 at work elsewhere") for text in said)
    ending.join()
    assert time.monotonic() - begin >= 2.0
    assert [trial.state for trial in study.get_trials()] == 3 * [TrialState.COMPLETE]


def test_a_trial_lost_on_another_machine_is_done_here(tmp_path, quick):
    run = tmp_path / "run"
    study = run_search(search(run, 2), CPU)
    with owners.beating(run) as owner:
        begun_elsewhere(study, owner)
    (run / "workers" / owner["beat"]).touch()  # a last beat, and silence
    study = run_search(search(run, 3), CPU)
    assert counted(study) == 3
    assert study.get_trials()[3].user_attrs["instead_of"] == 2


def test_machines_whose_hearts_are_not_seen_are_not_waited_for(tmp_path, quick):
    run = tmp_path / "run"
    study = run_search(search(run, 2), CPU)
    with owners.beating(run) as owner:
        begun_elsewhere(study, {**owner, "home": -1})
    study = run_search(search(run, 3), CPU)
    assert (counted(study), studies.running(study)) == (2, 1)


def test_a_shard_does_not_wait_for_others(tmp_path):
    run = tmp_path / "run"
    study = run_search(search(run, 2), CPU)
    with owners.beating(run) as owner:
        begun_elsewhere(study, owner)
        study = run_search(search(run, 3), CPU, shard=(2, 2))
    assert counted(study) == 2


@pytest.mark.parametrize("shared", [True, False])
def test_exactly_as_many_trials_as_asked(tmp_path, monkeypatch, shared):
    """Many ask for the last two places at once, in one run folder or in folders with a database."""
    run = tmp_path / "run"
    url = None if shared else f"sqlite:///{tmp_path}/search.db"
    run_search(search(run, 2, url=url), CPU)
    everybody, count = threading.Barrier(6), trials_of.left

    def left(search, study):
        found = count(search, study)
        if not shared and found > 0:  # all have counted before anybody asks
            everybody.wait(20)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(trials_of, "left", left)
    own = [search(run if shared else tmp_path / str(number), 4, url=url) for number in range(6)]
    for one in own:
        one.folder.mkdir(exist_ok=True)
    with one_thread(), ThreadPoolExecutor(6, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = list(pool.map(lambda one: trials_of.one_trial(one, 0, 0, "cpu"), own))
    assert sum(one is not None for one in found) == 2
    trials = own[0].open().get_trials()
    assert [trial.state in COUNTED for trial in trials[:4]] == 4 * [True]
    assert all("one too many" in trial.user_attrs["error"] for trial in trials[4:])
    assert shared == (len(trials) == 4)


@contextmanager
def locked(path: Path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@dataclass(frozen=True)
class Locking(Bowl):
    """Somebody locks the database in the middle of every trial."""

    database: str = ""

    def evaluate(self, values, folder, device, report, note):
        with locked(Path(self.database)):
            return super().evaluate(values, folder, device, report, note)


def test_a_locked_database_is_said_in_a_line(tmp_path, monkeypatch):
    path = tmp_path / "search.db"
    url = f"sqlite:///{path}"
    study = run_search(search(tmp_path / "run", 1, url=url), CPU)
    with study._storage._backend.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 60_000
    monkeypatch.setattr(storages, "SQLITE_SECONDS", 0.1)
    task = Locking(2 * BLOCK, "counting", 2500, 0, Experiment(), database=str(path))
    with pytest.raises(InputError, match=r"search.db: .*storage \(OperationalError: .*locked\)$"):
        run_search(search(tmp_path / "run", 2, url=url, task=task), CPU)
    with locked(path), pytest.raises(InputError, match=r"search.db: .*database is locked"):
        run_search(search(tmp_path / "run", 2, url=url), CPU)
    monkeypatch.setattr(studies, "alive", lambda *_: False)  # that process was this one
    assert counted(run_search(search(tmp_path / "run", 2, url=url), CPU)) == 2


@dataclass(frozen=True)
class Failing(Bowl):
    """The first trials, or all, fail."""

    first: int = 10**6

    def evaluate(self, values, folder, device, report, note):
        if int(folder.name) < self.first:
            raise RuntimeError("CUDA out of memory\nmore of it")
        return super().evaluate(values, folder, device, report, note)


def failing(first: int, images: int = BLOCK) -> Failing:
    return Failing(images, "counting", 2500, 0, Experiment(), first=first)


def test_a_trial_that_fails_does_not_end_the_search(tmp_path):
    trials = run_search(search(tmp_path / "run", 3, task=failing(2)), CPU).get_trials()
    assert [trial.state.name == "FAIL" for trial in trials] == [True, True, False, False, False]
    assert trials[0].user_attrs["error"] == "RuntimeError: CUDA out of memory"
    finished = sorted(path.name for path in (tmp_path / "run" / "finished").iterdir())
    assert finished == ["00002", "00003", "00004"]  # by which a SLURM job is known to get on


def test_nothing_but_failing_trials_end_it(tmp_path):
    own = search(tmp_path / "run", 20, task=failing(10**6))
    with pytest.raises(InputError, match=r"^3 trials failed one after the other, the last by RuntimeError"):
        run_search(own, CPU)
    assert [trial.state.name for trial in own.open().get_trials()] == 3 * ["FAIL"]


@dataclass(frozen=True)
class Half(Bowl):
    """One worker is slow; the other's trials fail."""

    def evaluate(self, values, folder, device, report, note):
        try:
            (folder.parents[1] / ".slow").touch(exist_ok=False)
        except FileExistsError:
            time.sleep(0.3)  # in which a worker that is killed holds no lock
            raise RuntimeError("CUDA out of memory") from None
        time.sleep(600)


@pytest.mark.filterwarnings("ignore:.*tasks have been successfully executed")
def test_a_worker_whose_trials_all_fail_ends_it_for_the_others_too(tmp_path):
    own = search(tmp_path / "run", 20, task=Half(BLOCK, "counting", 2500, 0, Experiment()))
    with pytest.raises(InputError, match="3 trials failed one after the other"):
        run_search(own, CPU, workers=2)
    trials = own.open().get_trials()
    assert not [trial for trial in trials if trial.state == TrialState.RUNNING]
    again = [trial for trial in trials if "instead_of" in trial.user_attrs]
    assert again
    assert {trial.state for trial in again} == {TrialState.WAITING}
    assert {trial.user_attrs["why"] for trial in again} == {"its worker was stopped"}


@dataclass(frozen=True)
class Killing(Bowl):
    """Every trial takes more memory than there is."""

    def evaluate(self, values, folder, device, report, note):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("ignore:.*tasks have been successfully executed")
def test_workers_that_only_die_end_it_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr("icobench.runs.pool.RETRIES", 0)
    own = search(tmp_path / "run", 2, task=Killing(BLOCK, "counting", 2500, 0, Experiment()))
    with pytest.raises(InputError, match=r"^a worker died 1 times at .* memory; the same command"):
        run_search(own, CPU, workers=2)


def test_a_database_holds_studies_by_name(tmp_path):
    url = f"sqlite:///{tmp_path}/search.db"
    run_search(search(tmp_path / "one", 1, url=url), CPU)
    other = Bowl(3 * BLOCK, "counting", 2500, 0, Experiment())
    with pytest.raises(InputError, match="made with another task; give yours another name by --study"):
        run_search(search(tmp_path / "two", 1, url=url, task=other), CPU)
    study = run_search(search(tmp_path / "two", 1, url=url, task=other, study="mine"), CPU)
    assert study.study_name == "mine"
    assert describe(tmp_path / "two")[0] == ["search mine of 1 trials: 1 complete, 1 waiting"]
    with pytest.raises(InputError, match="holds the search mine in sqlite"):
        run_search(search(tmp_path / "two", 1, url=url, task=other), CPU)


def test_no_password_is_written_down(tmp_path, monkeypatch):
    url, hidden = "postgresql://me:se:cr@et@host/db", "postgresql://me:***@host/db"
    for text, masked in (
        (url, hidden), (hidden, hidden), ("redis://:secret@host:6379/0", "redis://:***@host:6379/0"),
        ("mysql://host/db?user=me&password=secret", "mysql://host/db?user=me&password=***"),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db"),
    ):  # fmt: skip
        assert provenance.without_passwords(text) == masked
    run, file = tmp_path / "run", f"sqlite:///{tmp_path}/search.db"
    # A file stands for the server, as seen by what opens a storage.
    inner = storages.open_storage
    for module in (storages, studies):
        monkeypatch.setattr(module, "open_storage", lambda folder, url: inner(folder, file), raising=False)
    monkeypatch.setattr("sys.argv", ["icobench", "tune", "simplex", "--storage", url])
    run_search(search(run, 1, url=url), CPU)
    assert hidden in (run / "search.json").read_text()
    assert not any(b"cr@et" in path.read_bytes() for path in run.rglob("*") if path.is_file())
    assert counted(run_search(search(run, 2, url=url), CPU)) == 2  # goes on
    monkeypatch.delenv(studies.URL_VARIABLE, raising=False)
    with pytest.raises(InputError, match=r"password of .*\*\*\*@host/db is not kept; .*ICOBENCH_STORAGE"):
        describe(run)
    monkeypatch.setenv(studies.URL_VARIABLE, url)
    assert describe(run)[0][0].startswith("search simplex of 2 trials: 2 complete")
    monkeypatch.undo()
    with pytest.raises(InputError) as refused:
        run_search(search(tmp_path / "other", 1, url="moon://me:secret@base"), CPU)
    assert "secret" not in str(refused.value)


def test_a_heart_beats_on_after_a_bad_moment_of_the_file_server(tmp_path, monkeypatch):
    monkeypatch.setattr(owners, "BEAT_SECONDS", 0.05)
    touch, failed = Path.touch, threading.Event()
    with owners.beating(tmp_path) as owner:
        heart = tmp_path / "workers" / owner["beat"]

        def fail_once(path, *values, **more):
            if path == heart and not failed.is_set():
                failed.set()
                raise OSError("stale file handle")
            touch(path, *values, **more)

        monkeypatch.setattr(Path, "touch", fail_once)
        assert failed.wait(5)
        os.utime(heart, (0, 0))
        end = time.monotonic() + 5
        while heart.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.02)
        assert heart.stat().st_mtime > 0
