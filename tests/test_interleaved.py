"""The comparison of two commits: its verdict on numbers, and a drill on a small project of its own."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.interleaved.verdict import Comparison, regressions, report

ROOT = Path(__file__).parents[1]


def measured(slowdown, rng, rounds=2):
    """Times with noise that only adds, up to half as much again."""
    base = [1 + rng.random() / 2 for _ in range(rounds)]
    return base, [slowdown * (1 + rng.random() / 2) for _ in range(rounds)]


def test_regression_must_repeat():
    own = Comparison("x", [1.0, 1.1], [1.3, 1.4])
    assert own.ratio == pytest.approx(1.3)
    assert not own.regressed(1.15)  # nothing has confirmed it
    own.repeats = [1.3, 1.2]
    assert own.regressed(1.15)
    own.repeats = [1.3, 1.14]
    assert not own.regressed(1.15)


def test_worst_first_and_named():
    cases = {
        ("a", 0): Comparison("a(1)", [1.0], [2.0], [2.0, 1.9]),
        ("b", 0): Comparison("b", [1.0], [4.0], [4.0, 4.0]),
        ("c", 0): Comparison("c", [1.0], [1.0]),
        ("d", 0): Comparison("d", [1.0], [2.0], [1.0]),
    }
    assert regressions(cases, 1.15) == [("b", 0), ("a", 0)]
    said = report(cases, 1.15)
    assert [line.split()[1] for line in said if line.startswith("REGRESSION")] == ["b,", "a(1),"]
    assert said[-1].startswith("4 compared, 2 beyond")


def test_best_of_rounds_sees_through_noise():
    rng = random.Random(1)
    assert sum(Comparison("x", *measured(2.0, rng)).ratio > 1.15 for _ in range(1000)) == 1000
    false = 0
    for _ in range(1000):
        own = Comparison("x", *measured(1.0, rng))
        if own.ratio > 1.15:
            own.repeats = [Comparison("x", *measured(1.0, rng, 4)).ratio for _ in range(2)]
        false += own.regressed(1.15)
    assert false < 10


def test_what_cannot_be_compared():
    assert not Comparison("left out", [float("nan")], [float("nan")]).comparable
    assert not Comparison("new", [None], [1.0]).comparable
    assert not Comparison("new", [None], [1.0]).broken
    assert Comparison("broken", [1.0], [None]).broken
    assert Comparison("nothing", [], []).comparable is False
    # Figures that are zero at the base: failures, say.
    assert Comparison("none", [0.0], [0.0]).ratio == 1
    assert Comparison("some", [0.0], [1.0]).ratio == float("inf")


CONFIG = {
    "version": 1, "project": "toy", "repo": ".", "branches": ["main"], "environment_type": "virtualenv",
    "matrix": {}, "benchmark_dir": "suite", "results_dir": ".asv/results", "env_dir": ".asv/env",
    "html_dir": ".asv/html", "default_benchmark_timeout": 60,
}  # fmt: skip
SUITE = """
import toy

class Work:
    params = [1, 2]
    repeat, number, warmup_time = (3, 5, 0.2), 1, 0

    def time_work(self, times):
        for _ in range(times):
            toy.work()

    def time_rest(self, times):
        toy.rest()

def track_error():
    return toy.ERROR
"""
TOY = "import time\nERROR = {error}\ndef work():\n    time.sleep({work})\ndef rest():\n    {rest}\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Repository of a package with two functions, and its commits by name."""
    pytest.importorskip("asv", reason="asv is not installed (pip install .[test])")
    folder = tmp_path_factory.mktemp("project")

    def git(*words):
        identity = ["-c", "user.name=x", "-c", "user.email=x@y"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    (folder / "toy").mkdir()
    (folder / "suite").mkdir()
    (folder / "suite" / "__init__.py").write_text("")
    (folder / "suite" / "bench.py").write_text(SUITE)
    (folder / "asv.conf.json").write_text(json.dumps(CONFIG))
    (folder / ".gitignore").write_text("__pycache__/\n")
    commits = {}
    for name, work, rest, error in (
        ("base", 0.01, "time.sleep(0.01)", 1.0),
        ("broken", 0.01, "raise RuntimeError('gone')", 1.0),
        ("worse", 0.02, "time.sleep(0.01)", 2.0),
        ("same", 0.02, "time.sleep(0.01)  # as before", 2.0),
    ):
        (folder / "toy" / "__init__.py").write_text(TOY.format(work=work, rest=rest, error=error))
        git("add", ".")
        git("commit", "--quiet", "--message", name)
        commits[name] = git("rev-parse", "HEAD")
    return folder, commits


def compare(folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "benchmarks.interleaved", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    trees = subprocess.run(["git", "worktree", "list"], cwd=folder, capture_output=True, text=True)
    assert len(trees.stdout.splitlines()) == 1, "a worktree is left behind"
    return done


def test_drill_names_what_got_slower(project):
    folder, commits = project
    done = compare(folder, commits["base"], "--head", commits["worse"])
    assert done.returncode == 1, done.stdout + done.stderr
    named = [line for line in done.stdout.splitlines() if line.startswith("REGRESSION")]
    assert len(named) == 3
    assert all("time_work" in line or "track_error" in line for line in named)


def test_unchanged_code_passes(project):
    folder, commits = project
    done = compare(folder, commits["worse"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 compared, 0 beyond" in done.stdout


def test_a_benchmark_that_breaks_is_no_success(project):
    folder, commits = project
    done = compare(folder, commits["base"], "--head", commits["broken"], "-b", "rest")
    assert done.returncode == 2
    assert "BROKEN: bench.Work.time_rest(1)" in done.stdout
    assert "gone" in done.stderr


def test_nothing_run_is_told_apart(project):
    folder, commits = project
    done = compare(folder, commits["base"], "-b", "no_such_benchmark")
    assert done.returncode == 3
    assert "no benchmark ran" in done.stderr


def test_refuses_what_it_cannot_compare(project):
    folder, commits = project
    done = compare(folder, "no-such-commit")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no-such-commit" in done.stderr
    changed = folder / "toy" / "new.py"
    changed.write_text("")
    try:
        done = compare(folder, commits["base"])
    finally:
        changed.unlink()
    assert done.returncode == 2
    assert "working tree has changes" in done.stderr
